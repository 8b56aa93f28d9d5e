"""The page of several runs starts with who is ahead, and puts only like metrics side by side."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from repre.reporting import write_comparison
from repre.reporting.charts import comparison_charts
from repre.reporting.leader import find_leader
from repre.reporting.objectives import alike
from repre.reporting.run_data import RunData, read_run
from repre.reporting.titles import metric_title, setting_title
from tests.reporting import fake_run
from tests.reporting.commands import check_command
from tests.reporting.test_page import outline


def two(
    tmp_path: Path, *, second: dict[str, Any] | None = None, knn: tuple[float, float] = (0.5, 0.6)
) -> list[RunData]:
    """Two runs with these last accuracies of k-NN; `second` are settings of the second one."""
    runs = []
    for name, last, settings in (("a", knn[0], {}), ("b", knn[1], second or {})):
        run = fake_run.make_run(tmp_path / name, knn=(0.2, last))
        config = yaml.safe_load((run / "config.yaml").read_text()) | settings
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        runs.append(read_run(run))
    return runs


def test_the_leader_by_how_much_and_at_what_difference(tmp_path: Path) -> None:
    leader = find_leader(two(tmp_path, second={"epochs": 8, "optim": {"lr": 2e-3}}))
    assert leader.headline == "b is ahead of a by 10.0 points"
    assert "k-NN accuracy on the scenes on 1000 images: b 60.0\u2009%, a 50.0\u2009%." in leader.reason
    assert "Epochs: a 4, b 8; 1 other setting differs: Optimizer: learning rate." in leader.reason


def test_the_epochs_of_the_run_that_another_starts_from_are_named(tmp_path: Path) -> None:
    leader = find_leader(two(tmp_path, second={"start_from": "runs/a"}))
    assert "Epochs: a 4, b 4 after those of runs/a; no other setting differs." in leader.reason


def test_a_difference_within_noise_has_no_leader(tmp_path: Path) -> None:
    leader = find_leader(two(tmp_path, knn=(0.5, 0.52)))
    assert leader.headline.startswith("No clear leader: b and a differ by 2.0 points")
    assert "Both for 4 epochs; no other setting differs." in leader.reason
    check_command(leader.next_steps[0].command)


def test_the_evaluation_of_more_images_decides(tmp_path: Path) -> None:
    runs = two(tmp_path)
    for run, value in zip(runs, (0.7, 0.6)):
        fake_run.add_evaluation(run.path, start=str(run.path), value=value, images=5000)
    leader = find_leader([read_run(run.path) for run in runs])
    assert leader.headline == "a is ahead of b by 10.0 points"
    assert "k-NN classification, accuracy, k = 20, birds, one seed on 5000 images" in leader.reason


def test_lower_may_be_better(tmp_path: Path) -> None:
    runs = two(tmp_path)
    for run, value in zip(runs, (0.7, 0.6)):
        result = {"evaluation": "depth", "main": "rmse", "metrics": {"rmse": value}, "higher_is_better": False}
        fake_run.add_evaluation(run.path, start=str(run.path), images=5000, **result)
    assert find_leader([read_run(run.path) for run in runs]).headline == "b is ahead of a by 0.1, on one seed"


def test_without_labels_nobody_is_ahead(tmp_path: Path) -> None:
    runs = [RunData(path=tmp_path / name, name=name) for name in "ab"]
    leader = find_leader(runs)
    assert leader.headline.startswith("It is unknown who is ahead")
    check_command(leader.next_steps[0].command)


def test_a_run_that_ended_early_is_named(tmp_path: Path) -> None:
    runs = two(tmp_path)
    (runs[1].path / "summary.json").unlink()
    (runs[1].path / ".lock").write_bytes(b"")
    assert "b: Ended without a message after step 200" in find_leader([runs[0], read_run(runs[1].path)]).reason


def test_unlike_objectives_are_apart(tmp_path: Path) -> None:
    runs = two(tmp_path, second={"framework": {"name": "byol"}})
    assert [len(alike(runs, name)) for name in ("contrastive", "loss", "pixel", "knn", "rankme")] == [2, 2, 1, 1, 1]
    charts = {chart.title: len(chart.series) for chart in comparison_charts(runs, max_points=50)}
    assert charts["Losses: contrastive (a)"] == charts["Losses: contrastive (b)"] == 1
    assert charts["Losses: pixel"] == 2
    page = outline(write_comparison([run.path for run in runs], tmp_path / "both.html"))
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "Not comparable, because objectives, views or images differ: Loss, weighted sum, Contrastive loss" in text
    headings = [attributes.get("id") for name, attributes in page.elements if name == "section"]
    assert headings[:3] == ["glance", "settings", "curves"]


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"framework": {"name": "moco-v3", "temperature": 0.5}}])
def test_a_contrastive_loss_depends_on_negatives_and_temperature(change: dict[str, Any], tmp_path: Path) -> None:
    assert len(alike(two(tmp_path, second=change), "contrastive")) == 2


def test_pixels_of_other_images_are_apart(tmp_path: Path) -> None:
    runs = two(tmp_path, second={"data": "fish"})
    assert len(alike(runs, "psnr")) == len(alike(runs, "rankme")) == 2


def test_titles_for_people(tmp_path: Path) -> None:
    assert metric_title("level_share_0") == "Contribution of level 1"
    assert metric_title("probe/miou") == "mIoU of a linear head on your masks"
    assert metric_title("novel_metric") == "Novel metric"
    assert setting_title("optim.weight_decay") == "Optimizer: weight decay"
    runs = two(tmp_path)
    text = " ".join(outline(write_comparison([run.path for run in runs], tmp_path / "both.html")).text)
    names = {name for run in runs for row in run.validations for name in row} - {"step", "knn", "correspondence"}
    tables = text[: text.index("Settings that differ")]
    assert not [name for name in names if re.search(rf"\b{re.escape(name)}\b", tables)]
