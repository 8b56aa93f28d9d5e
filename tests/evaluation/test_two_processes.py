"""Two processes give what one gives: features, predictions, evaluations, and models that are trained together."""

import filecmp
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from repre.data.io.decode import UnreadableImage
from repre.data.io.image_files import FileSource
from repre.data.scenes import Scenes, ScenesConfig
from repre.evaluation.fitted import prediction_files
from repre.exporters import embeddings
from repre.exporters.feature_files import FeatureParts
from tests.evaluation.tiny_eval import VIT
from tests.faults.common import ForkedCommand
from tests.faults.processes import start_ranks, use_float64

RUNTIME = ["--runtime.device", "cpu", "--runtime.workers", "0"]


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of three classes; one file is damaged in a copy of the folder."""
    folder = tmp_path_factory.mktemp("labeled")
    scenes = Scenes(60, config=ScenesConfig(size=24))
    for index in range(60):
        place = folder / "abc"[index % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(scenes.load(index)).save(place / f"{index:03d}.png")
    return folder


def run(
    arguments: list[str], folder: Path, count: int, *, before: Callable[[], object] | None = None
) -> tuple[list[int], list[str]]:
    """Runs a command in `count` processes with a cache of their own; returns exit codes and outputs."""
    environment = {"REPRE_CACHE": str(folder / f"cache-{count}")}
    commands = start_ranks(arguments, arguments[0], folder, count, before=before, environment=environment)
    codes = [command.wait(120) for command in commands]
    return codes, [command.output() for command in commands]


def evaluated(name: str, options: list[str], folder: Path, count: int, **more: Any) -> tuple[dict[str, Any], Path, str]:
    """The result of an evaluation in `count` processes, the folder of its model, and what rank 0 printed."""
    out = folder / f"{name}-{count}"
    codes, outputs = run(["eval", name, "--encoder", VIT, "--out", str(out), *options, *RUNTIME], folder, count, **more)
    assert codes == [0] * count, outputs
    assert outputs[1:] == [""] * (count - 1)
    (file,) = out.glob("*.json")
    return json.loads(file.read_text()), file.with_suffix("") / "model", outputs[0]


def same_files(first: Path, second: Path) -> bool:
    names = [sorted(str(file.relative_to(top)) for file in top.rglob("*") if file.is_file()) for top in (first, second)]
    return names[0] == names[1] and filecmp.cmpfiles(first, second, names[0], shallow=False) == (names[0], [], [])


@pytest.mark.parametrize(("kind", "suffix"), [("pooled", "npz"), ("patch", "parquet")])
def test_embed(tmp_path: Path, labeled: Path, suffix: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(embeddings, "IMAGES_PER_PART", dict.fromkeys(embeddings.IMAGES_PER_PART, 16))
    for count in (1, 2):
        out = tmp_path / f"{count}.{suffix}"
        arguments = ["embed", "--encoder", VIT, "--data", str(labeled), "--out", str(out), "--kind", kind]
        codes, outputs = run([*arguments, *RUNTIME, "--runtime.batch", "8"], tmp_path, count)
        assert codes == [0] * count, outputs
        assert "60 images embedded" in outputs[0]
        assert outputs[1:] == [""] * (count - 1)
    assert filecmp.cmp(tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}", shallow=False)
    assert not list(tmp_path.glob("*.parts"))


def test_ranks_share_the_parts_of_embed(tmp_path: Path, labeled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "IMAGES_PER_PART", dict.fromkeys(embeddings.IMAGES_PER_PART, 16))
    write = FeatureParts.write

    def logged(parts: FeatureParts, number: int, *content: Any) -> None:
        (tmp_path / f"part-{number}-of-rank-{os.environ['RANK']}").touch(exist_ok=False)
        write(parts, number, *content)

    monkeypatch.setattr(FeatureParts, "write", logged)
    arguments = ["embed", "--encoder", VIT, "--data", str(labeled), "--out", str(tmp_path / "f.npz"), *RUNTIME]
    assert run(arguments, tmp_path, 2)[0] == [0, 0]
    assert sorted(file.name for file in tmp_path.glob("part-*")) == [
        f"part-{number}-of-rank-{number % 2}" for number in range(4)
    ]


def test_evaluations_on_frozen_features(tmp_path: Path, labeled: Path) -> None:
    for name, options in (("knn", []), ("linear", ["--steps", "40", "--lrs", "0.1"])):
        results = [
            evaluated(name, ["--data", str(labeled), "--runtime.batch", "8", *options], tmp_path, count)
            for count in (1, 2)
        ]
        assert results[0][0]["metrics"] == results[1][0]["metrics"]
        assert name == "knn" or same_files(results[0][1], results[1][1])
    assert same_files(tmp_path / "cache-1", tmp_path / "cache-2")
    assert len(list((tmp_path / "cache-2").rglob("*.npy"))) == 2  # once for both evaluations


def test_frozen_segmentation(tmp_path: Path) -> None:
    options = ["--data", "scenes:20:24", "--fit.epochs", "2", "--fit.batch-size", "8", "--runtime.batch", "8"]
    results = [evaluated("segment", options, tmp_path, count) for count in (1, 2)]
    assert same_files(tmp_path / "cache-1", tmp_path / "cache-2")
    assert results[0][0]["metrics"] == results[1][0]["metrics"]
    assert same_files(results[0][1], results[1][1])
    assert "rank 0 of 2 trains alone: its loss" in results[1][2]
    assert "alone" not in results[0][2]


@pytest.mark.parametrize("mixing", [[], ["--mixup", "0.8", "--cutmix", "1.0"]])
def test_finetuning_takes_the_same_steps(tmp_path: Path, labeled: Path, mixing: list[str]) -> None:
    options = ["--data", str(labeled), "--fit.epochs", "3", "--fit.batch-size", "8", "--fit.drop-path", "0.3", *mixing]
    results = [evaluated("finetune", options, tmp_path, count, before=use_float64) for count in (1, 2)]
    first, second = (load_file(next(model.glob("*.safetensors"))) for _, model, _ in results)
    (tmp_path / "start").mkdir()
    untrained = evaluated("finetune", [*options, "--fit.lr", "1e-12"], tmp_path / "start", 1)[1]
    start = load_file(next(untrained.glob("*.safetensors")))
    for name, value in first.items():
        assert (value - second[name]).abs().max() < 1e-10 * max(1.0, float(value.abs().max())), name
    assert max(float((first[name] - start[name]).abs().max()) for name in first) > 1e-3  # it was trained
    assert "alone" not in results[1][2]


def test_a_batch_that_ranks_cannot_share_is_trained_by_rank_0(tmp_path: Path, labeled: Path) -> None:
    options = ["--data", str(labeled), "--fit.epochs", "1", "--fit.batch-size", "9"]
    _, _, output = evaluated("finetune", options, tmp_path, 2)
    assert "rank 0 of 2 trains alone: --fit.batch-size 9 is not a multiple of 2" in output


def test_a_stopped_finetuning_resumes_on_another_number_of_processes(tmp_path: Path, labeled: Path) -> None:
    options = ["--data", str(labeled), "--fit.epochs", "30", "--fit.batch-size", "8"]
    arguments = ["eval", "finetune", "--encoder", VIT, "--out", str(tmp_path / "out"), *options, *RUNTIME]
    commands = start_ranks(arguments, "stopped", tmp_path, 2)
    wait_for(lambda: "step 10/" in commands[0].output(), commands)
    commands[1].signal(signal.SIGTERM)
    codes = [command.wait(60) for command in commands]
    assert codes == [143, 143]
    assert "run the same command again" in commands[0].output()
    assert commands[1].output() == ""
    assert len(list((tmp_path / "out").rglob("fit-*.pt"))) == 1
    codes, outputs = run(arguments, tmp_path, 1)
    assert codes == [0]
    assert "step 10/" not in outputs[0]


def wait_for(done: Callable[[], bool], commands: list[ForkedCommand]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until, [command.output() for command in commands]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, labeled: Path) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    return evaluated("linear", ["--data", str(labeled), "--steps", "40", "--lrs", "0.1"], folder, 1)[1].parent


def test_predict(tmp_path: Path, labeled: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = prediction_files.predict_files.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "per_part", 16)
    for count in (1, 2):
        arguments = ["predict", "--model", str(fitted), str(labeled), "--out", str(tmp_path / f"out-{count}")]
        codes, outputs = run([*arguments, *RUNTIME], tmp_path, count)
        assert codes == [0] * count, outputs
        assert "60 images predicted" in outputs[0]
        assert outputs[1:] == [""] * (count - 1)
    assert same_files(tmp_path / "out-1", tmp_path / "out-2")


def test_one_message_for_a_mistake(tmp_path: Path) -> None:
    codes, outputs = run(["eval", "knn", "--encoder", VIT, "--data", str(tmp_path / "none"), *RUNTIME], tmp_path, 2)
    assert codes == [2, 2]
    assert outputs[0].count("repre: ") == 1
    assert outputs[1] == ""


def test_images_that_cannot_be_read_are_listed_once(tmp_path: Path, labeled: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(labeled, data)
    damaged = [data / "a" / "003.png", data / "c" / "050.png", data / "b" / "031.png"]
    for file in damaged:
        file.write_bytes(b"no image")
    arguments = ["eval", "knn", "--encoder", VIT, "--data", str(data), *RUNTIME, "--runtime.batch", "4"]
    codes, outputs = run(arguments, tmp_path, 2)
    assert codes == [2, 2]
    assert outputs[1] == ""
    assert all(outputs[0].count(file.name) == 1 for file in damaged)


def test_a_rank_that_cannot_see_the_images_is_named(
    tmp_path: Path, labeled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a second machine without the disk of the images."""
    load = FileSource.load

    def elsewhere(source: FileSource, index: int) -> Any:
        if os.environ["RANK"] == "1":
            raise UnreadableImage("the file has vanished")
        return load(source, index)

    monkeypatch.setattr(FileSource, "load", elsewhere)
    arguments = ["embed", "--encoder", VIT, "--data", str(labeled), "--out", str(tmp_path / "f.npz"), *RUNTIME]
    codes, outputs = run(arguments, tmp_path, 2)
    assert codes == [2, 2]
    assert "rank 1 cannot read" in outputs[0]
    assert "at the same path" in outputs[0]
    assert not (tmp_path / "f.npz").exists()


def test_other_commands_run_once(tmp_path: Path, labeled: Path) -> None:
    codes, outputs = run(["data", "check", str(labeled), "--workers", "0"], tmp_path, 2)
    assert codes == [0, 0]
    assert "60" in outputs[0]
    assert outputs[1] == ""
