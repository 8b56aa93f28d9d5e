"""Plots are written where there is something to plot."""

from dataclasses import replace
from pathlib import Path

import pytest
from experiments.all_presets import plan_of
from experiments.analysis import table_entries
from experiments.comparisons import Comparison
from experiments.plan import Plan
from experiments.presets import TOY
from experiments.real_presets import REAL_TOY

from repre.evaluation.gains import gain
from tests.experiments.fake_results import fake_results

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'repre[dev]'")
from experiments.answer import PictureRow
from experiments.plots import plot_answer, plot_curves, plot_differences, save_plot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D


def test_a_plot_is_saved_unless_there_is_nothing_to_plot(tmp_path: Path) -> None:
    results = fake_results({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.65]}})
    assert save_plot(table_entries(list(Plan(TOY).confirmatory()), results), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    assert not save_plot([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_curves_over_label_fractions_are_saved(tmp_path: Path) -> None:
    metrics = {"miou": 0.5, "miou@0.5": 0.3}
    results = {
        ("fashion-moco-v3-vit-branch", 0, "miou-labels"): {
            "metrics": metrics,
            "config": {"label_fraction": [0.5, 1.0]},
            "data": "",
        }
    }
    assert save_plot(table_entries(list(Plan(TOY).labels()), results), tmp_path / "a.png", curves=True)


def test_a_method_looks_the_same_in_every_panel_of_curves() -> None:
    rows = [row for row in plan_of(REAL_TOY).rows() if row.table == "camvid"]
    results = {
        (row.method.name, 0, evaluation): {
            "metrics": {"miou": 0.5, f"miou@{3 / 32:g}": 0.3},
            "config": {"label_fraction": [3 / 32, 1.0]},
            "data": "camvid40-32-4",
        }
        for row in rows
        for evaluation in row.evaluations
    }
    figure = plot_curves(table_entries(rows, results))
    assert figure is not None
    looks: dict[str, set[tuple[str, str]]] = {}
    for panel in figure.axes:
        for line in panel.get_lines():
            if not str(line.get_label()).startswith("_"):
                look = (str(line.get_color()), str(line.get_marker()))
                looks.setdefault(str(line.get_label()), set()).add(look)
    assert all(len(each) == 1 for each in looks.values())
    assert len({look for each in looks.values() for look in each}) == len(rows)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {row.label for row in rows}


def test_metrics_of_few_methods_have_no_panel() -> None:
    results = {
        (f"fashion-{framework}-vit-{variant}", 0, evaluation): {"metrics": {"miou": 0.5, "knn20": 0.5}}
        for framework in ("moco-v3", "dino", "moby")
        for variant in ("plain", "branch")
        for evaluation in ("foreground", "knn")
        if evaluation == "foreground" or framework == "dino"
    }
    figure = plot_differences(table_entries(list(Plan(TOY).frameworks()), results))
    assert figure is not None
    assert [panel.get_title() for panel in figure.axes] == ["object mIoU"]  # one of three methods has k-NN


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_fewer_than_three_pairs_are_hollow_and_have_no_bar(seeds: int) -> None:
    difference = gain([5.0, 6.0, 7.5][:seeds], [4.0, 4.0, 4.0][:seeds])
    found = tuple(
        Comparison("toy", "scenes", "MoCo v3 + ViT", metric, difference) for metric in ("object mIoU", "k-NN", "linear")
    )
    figure = plot_answer([PictureRow("scenes", found)])
    assert figure is not None
    dense, image = figure.axes
    assert [len(_markers(panel)) for panel in (dense, image)] == [1, 2]
    for panel in (dense, image):
        assert all((marker.get_markerfacecolor() == "white") == (seeds < 3) for marker in _markers(panel))
        assert len(panel.containers) == (len(_markers(panel)) if seeds == 3 else 0)
    (text,) = dense.texts
    assert text.get_text() == "scenes"

    values = {"plain": [0.4] * seeds, "branch": [0.5, 0.6, 0.75][:seeds]}
    rows = [replace(row, n_seeds=3) for row in Plan(TOY).confirmatory()]
    figure = plot_differences(table_entries(rows, fake_results({"foreground": values})))
    assert figure is not None
    (panel,) = figure.axes
    assert len(panel.patches) == (seeds == 3)
    assert len(_markers(panel)) == (seeds < 3)


def _markers(panel: Axes) -> list[Line2D]:
    return [line for line in panel.lines if line.get_marker() in tuple("osD^vPX")]


def test_a_curve_of_one_seed_is_hollow_and_dotted() -> None:
    results = {
        (f"fashion-moco-v3-vit-{variant}", seed, "foreground-labels"): {
            "metrics": {"miou": 0.5 + 0.01 * seed, "miou@0.5": 0.3}, "config": {"label_fraction": [0.5, 1.0]}, "data": ""
        }
        for variant, seeds in (("plain", 2), ("branch", 1))
        for seed in range(seeds)
    }  # fmt: skip
    rows = [replace(row, n_seeds=2, evaluations=("foreground-labels",)) for row in Plan(TOY).labels()]
    figure = plot_curves(table_entries(rows, results))
    assert figure is not None
    curves = {str(line.get_label()): line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")}
    assert curves["moco-v3 + branch"].get_markerfacecolor() == "white"
    assert curves["moco-v3 + branch"].get_linestyle() == ":"
    assert curves["moco-v3"].get_linestyle() == "-"


def test_nothing_measured_gives_no_picture() -> None:
    assert plot_answer([]) is None
