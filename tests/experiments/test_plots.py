"""Plots are written where there is something to plot."""

from pathlib import Path

import pytest
from experiments.analysis import table_entries
from experiments.plan import Plan
from experiments.presets import TOY

from tests.experiments.fake_results import fake_results

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'repre[dev]'")
from experiments.plots import plot_differences, save_plot


def test_a_plot_is_saved_unless_there_is_nothing_to_plot(tmp_path: Path) -> None:
    results = fake_results({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.65]}})
    assert save_plot(table_entries(list(Plan(TOY).confirmatory()), results), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    assert not save_plot([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_curves_over_label_fractions_are_saved(tmp_path: Path) -> None:
    metrics = {"miou": 0.5, "miou@0.5": 0.3}
    results = {
        ("fashion-moco-v3-vit-branch", 0, "miou-labels"): {"metrics": metrics, "config": {"label_fraction": [0.5, 1.0]}}
    }
    assert save_plot(table_entries(list(Plan(TOY).labels()), results), tmp_path / "a.png", curves=True)


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
