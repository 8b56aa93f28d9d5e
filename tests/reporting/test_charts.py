"""Every metric is drawn once, and thinning loses no spike."""

import math
from pathlib import Path

from repre.reporting.charts import MAX_METRICS, comparison_charts, label, run_charts, thin
from repre.reporting.run_data import RunData
from tests.reporting import fake_run


def run_data(name: str = "a", seed: int = 0) -> RunData:
    rows, validations = fake_run.metrics(seed=seed)
    return RunData(path=Path(name), name=name, rows=rows, validations=validations)


def test_every_metric_is_drawn_once() -> None:
    run = run_data()
    drawn = [line["name"] for chart in run_charts(run, max_points=100) for line in chart.series]
    assert sorted(drawn) == sorted(label(name) for name in ({*run.rows[0]} | {*run.validations[0]}) - {"step", "epoch"})


def test_a_metric_of_steps_and_validations_is_drawn_once() -> None:
    run = run_data()
    for row in [*run.rows, *run.validations]:
        row["weight_size"] = 1.0
    lines = [
        line for chart in run_charts(run, max_points=100) for line in chart.series if line["name"] == "weight size"
    ]
    assert [len(line["x"]) for line in lines] == [len(run.rows)]


def test_legends() -> None:
    assert label("gradient_contrastive_first") == "contrastive first"
    assert label("gradient_cosine_last") == "last"
    assert (label("level_share_0"), label("level_similarity_1_2")) == ("level 1", "levels 2 and 3")


def test_losses_share_a_chart_and_references_are_gray() -> None:
    charts = {chart.title: chart for chart in run_charts(run_data(), max_points=100)}
    colors = {line["name"]: line["color"] for line in charts["Losses"].series}
    assert colors == {"loss": 0, "contrastive": 1, "pixel": 2}
    assert {line["name"]: line["color"] for line in charts["PSNR, dB"].series} == {"PSNR": 0, "single color": -1}
    assert [line["exact"] for line in charts["Learning rate"].series] == [True]


def test_unknown_metrics_come_last_and_text_is_not_drawn() -> None:
    run = run_data()
    run.rows[3] |= {"novel": 1.0, "remark": "hello", "flag": True}
    charts = run_charts(run, max_points=100)
    assert (charts[-1].group, charts[-1].title, charts[-1].series[0]["x"]) == ("Other metrics", "novel", [40.0])
    assert all("remark" not in chart.title and "flag" not in chart.title for chart in charts)


def test_a_flood_of_columns_is_cut() -> None:
    run = RunData(path=Path("a"), name="a", rows=[{"step": 1, **{f"c{i}": 1.0 for i in range(5000)}}])
    assert len(run_charts(run, max_points=10)) == MAX_METRICS


def test_comparison_charts_have_a_line_per_run_in_its_color() -> None:
    charts = comparison_charts([run_data("one"), run_data("two", seed=1)], max_points=100)
    losses = next(chart for chart in charts if chart.title == "Losses: contrastive")
    assert [(line["name"], line["color"]) for line in losses.series] == [("one", 0), ("two", 1)]
    assert losses.series[0]["y"] != losses.series[1]["y"]


def test_thinning_keeps_ends_and_spikes() -> None:
    x = [float(i) for i in range(10_000)]
    y = [math.sin(i / 500) for i in range(10_000)]
    y[7001], y[3333] = 50.0, -50.0
    few_x, few_y = thin(x, y, max_points=200)
    assert len(few_x) <= 200
    assert (few_x[0], few_x[-1]) == (0.0, 9999.0)
    assert (max(few_y), min(few_y)) == (50.0, -50.0)
    assert few_x == sorted(set(few_x))
    assert thin(x[:50], y[:50], max_points=200)[0] == x[:50]
