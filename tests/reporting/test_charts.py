"""Which figures are drawn, and that thinning loses no spike."""

import math
from pathlib import Path

from repre.reporting.charts import COLUMNS, charts, label, overlays, thin
from repre.reporting.run_data import RunData
from tests.reporting import fake_run as make


def run_data(name: str = "a", seed: int = 0) -> RunData:
    rows, validations = make.figures(seed=seed)
    return RunData(path=Path(name), name=name, rows=rows, validations=validations)


def test_every_figure_is_drawn_once() -> None:
    run = run_data()
    drawn = [line["name"] for one in charts(run, points=100) for line in one.series]
    assert sorted(drawn) == sorted(label(name) for name in ({*run.rows[0]} | {*run.validations[0]}) - {"step", "epoch"})


def test_what_is_logged_and_looked_at_is_drawn_once() -> None:
    run = run_data()
    for row in [*run.rows, *run.validations]:
        row["weight_size"] = 1.0
    found = [line for one in charts(run, points=100) for line in one.series if line["name"] == "weight size"]
    assert [len(line["x"]) for line in found] == [len(run.rows)]


def test_legends() -> None:
    assert label("gradient_contrastive_first") == "contrastive first"
    assert label("gradient_cosine_last") == "last"
    assert (label("level_share_0"), label("level_similarity_1_2")) == ("level 1", "levels 2 and 3")


def test_losses_share_a_chart_and_references_are_gray() -> None:
    found = {one.title: one for one in charts(run_data(), points=100)}
    assert {line["name"]: line["color"] for line in found["Losses"].series} == {
        "loss": 0,
        "contrastive": 1,
        "pixel": 2,
    }
    assert {line["name"]: line["color"] for line in found["PSNR, dB"].series} == {"psnr": 0, "psnr flat": -1}
    assert [line["exact"] for line in found["Learning rate"].series] == [True]


def test_unknown_figures_come_last_and_words_are_no_figures() -> None:
    run = run_data()
    run.rows[3] |= {"novel": 1.0, "remark": "hello", "flag": True}
    found = charts(run, points=100)
    assert (found[-1].group, found[-1].title, found[-1].series[0]["x"]) == ("Other figures", "novel", [40.0])
    assert all("remark" not in one.title and "flag" not in one.title for one in found)


def test_a_flood_of_columns_is_cut() -> None:
    run = RunData(path=Path("a"), name="a", rows=[{"step": 1, **{f"c{i}": 1.0 for i in range(5000)}}])
    assert len(charts(run, points=10)) == COLUMNS


def test_overlays_have_a_line_per_run_in_its_color() -> None:
    found = overlays([("one", run_data()), ("two", run_data(seed=1))], points=100)
    losses = next(one for one in found if one.title == "Losses: contrastive")
    assert [(line["name"], line["color"]) for line in losses.series] == [("one", 0), ("two", 1)]
    assert losses.series[0]["y"] != losses.series[1]["y"]


def test_thinning_keeps_ends_and_spikes() -> None:
    x = [float(i) for i in range(10_000)]
    y = [math.sin(i / 500) for i in range(10_000)]
    y[7001], y[3333] = 50.0, -50.0
    few_x, few_y = thin(x, y, points=200)
    assert len(few_x) <= 200
    assert (few_x[0], few_x[-1]) == (0.0, 9999.0)
    assert (max(few_y), min(few_y)) == (50.0, -50.0)
    assert few_x == sorted(set(few_x))
    assert thin(x[:50], y[:50], points=200)[0] == x[:50]
