"""Pre-train, plan, report and reconstruct from Python."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import repre
from repre.api import runs
from repre.config import RunConfig, load_yaml


def test_a_run_has_a_folder_a_summary_and_a_report(run: repre.Run) -> None:
    assert run.summary == json.loads((run.path / "summary.json").read_text())
    assert run.summary["epochs"] == 1
    assert (run.path / "report.html").is_file()


def test_arguments_replace_the_values_of_the_config(config: RunConfig, photos: Path, tmp_path: Path) -> None:
    run = repre.pretrain(replace(config, data="nowhere"), data=photos, out=tmp_path / "a", batch_size=4, seed=3)
    changed = load_yaml(run.path / "config.yaml")
    assert changed == replace(config, data=str(photos), out=str(tmp_path / "a"), batch_size=4, seed=3)
    assert run.summary["steps"] == 4


def test_a_finished_run_is_returned_again(run: repre.Run, config: RunConfig) -> None:
    assert repre.pretrain(config, out=run.path) == run


def test_mistakes_of_a_run(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(repre.UserError, match="vit-small-moco-v3"):
        repre.pretrain("vit-small-mocov3", out=tmp_path / "a")
    with pytest.raises(repre.UserError, match="epochs must be at least 1"):
        repre.pretrain(config, epochs=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_run_on_the_scenes_has_knn_before_and_after(config: RunConfig, tmp_path: Path) -> None:
    run = repre.pretrain(config, data="scenes:32:32", out=tmp_path / "a")
    assert set(run.summary["knn"]) == {"before", "after", "raw pixels", "color histogram", "majority class"}
    first, *_, last = run.summary["validations"]
    assert (run.summary["knn"]["before"], run.summary["knn"]["after"]) == (first["knn"], last["knn"])


def test_a_plan_names_speed_hours_and_options(config: RunConfig) -> None:
    plan = repre.plan(config, epochs=7, seconds=1)
    assert isinstance(plan, repre.Plan)
    assert plan.epochs == 7
    assert plan.images == 16
    assert plan.images_per_s > 0
    assert any(option.startswith("--runtime.workers") for option in plan.options)
    with pytest.raises(repre.UserError, match="has only 16 images"):
        repre.plan(config, batch_size=64)


def test_reports_of_one_and_several_runs(run: repre.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repre.report(run.path, out=tmp_path / "one.html") == tmp_path / "one.html"
    assert (tmp_path / "one.html").is_file()
    monkeypatch.chdir(tmp_path)
    assert repre.report([run.path, str(run.path)]) == Path("report.html")
    assert (tmp_path / "report.html").is_file()
    assert repre.report([run.path]) == run.path / "report.html"
    with pytest.raises(repre.UserError, match="at least one run"):
        repre.report([])


def test_reconstructions_of_one_and_several_images(run: repre.Run, photos: Path, tmp_path: Path) -> None:
    one = repre.reconstruct(photos / "1.png", run=run.path, out=tmp_path / "one.png")
    checkpoint = run.path / "checkpoints" / "last.pt"
    two = repre.reconstruct(
        [photos / "1.png", str(photos / "2.png")], run=run.path, out=tmp_path / "two.png", checkpoint=checkpoint
    )
    assert two.psnr[:1] == pytest.approx(one.psnr)
    assert len(two.psnr) == 2
    assert Image.open(two.path).width > Image.open(one.path).width


def test_small_data_is_chosen_for_the_images_that_are_given() -> None:
    config = runs._run_config("small-data", data="scenes:40:32", epochs=3)
    assert (config.data, config.batch_size, config.epochs) == ("scenes:40:32", 8, 3)
    assert runs._run_config("small-data", data="scenes:4000:32").batch_size == 128
