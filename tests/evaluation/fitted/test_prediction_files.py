"""`repre predict`: every kind of file, every kind of source, exact resume, and folders that are left alone."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.boxes import open_boxes
from repre.data.labels.masks import open_masks
from repre.errors import RunError, UserError
from repre.evaluation.fitted import prediction_files
from repre.evaluation.fitted.fitted_folder import load_fitted
from repre.evaluation.fitted.fitted_model import PredictOptions, PredictRuntime
from repre.evaluation.fitted.prediction_files import predict_files
from tests.evaluation.fitted.tiny_fits import FITS, Fitted

CPU = PredictRuntime(device="cpu", workers=0)
ALL = PredictOptions(overlays=-1, runtime=CPU)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fitted]:
    """A model of every evaluation; that of `several` gives several labels."""
    models = {}
    for name in (*FITS, "several"):
        with pytest.MonkeyPatch.context() as patch:
            root = tmp_path_factory.mktemp(name)
            models[name] = (
                FITS["linear"](root, patch, multilabel=True) if name == "several" else FITS[name](root, patch)
            )
    return models


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def predict(kept: Fitted, data: Any, out: Path, **more: Any) -> prediction_files.Predictions:
    return predict_files(kept.path, data, out=out, options=more.pop("options", ALL), log=lambda _: None, **more)


def test_classes_become_a_table(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["linear"]
    folder = fitted.images[0].parent
    done = predict(fitted, str(folder), tmp_path / "out", options=PredictOptions(top=2, runtime=CPU))
    rows = table(done.path)
    assert (done.count, done.unreadable, done.path.name) == (14, None, "predictions.csv")
    assert list(rows[0]) == ["path", "label", "score", "label_2", "score_2"]
    expected = load_fitted(fitted.path).predict(folder, runtime=CPU)
    for row, classes in zip(rows, expected, strict=True):
        assert (row["path"], row["label"], row["label_2"]) == (classes.name, *classes.labels[:2])
        assert float(row["score"]) == pytest.approx(classes.scores[0], abs=1e-6)
    assert sorted(files_of(tmp_path / "out")) == ["predict.json", "predictions.csv"]


def test_several_labels_are_read_back_as_a_table_of_labels(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["several"]
    done = predict(
        fitted, str(fitted.images[0].parent), tmp_path / "out", options=PredictOptions(threshold=0.0, runtime=CPU)
    )
    rows = table(done.path)
    assert all(sorted(row["label"].split(";")) == ["g", "r"] for row in rows)
    assert all(len(row["score"].split(";")) == 2 for row in rows)


def test_masks_become_pictures_that_are_read_back(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["segment"]
    folder = fitted.images[0].parent
    done = predict(fitted, str(folder), tmp_path / "out")
    model = load_fitted(fitted.path)
    expected = model.predict(folder, runtime=CPU)
    source = open_masks(f"pairs:{folder},{tmp_path}/out/masks", whole=True)
    assert source.classes == model.classes
    for index, masks in enumerate(expected):
        assert np.array_equal(source.load(index)[1], masks.labels)
        with Image.open(tmp_path / "out" / "masks" / f"{folder.name and Path(masks.name).stem}.png") as file:
            assert file.mode == "P"
    rows = table(done.path)
    assert [Path(row["mask"]).stem for row in rows] == [path.stem for path in fitted.images]
    assert all(sum(float(row[name]) for name in model.classes) == pytest.approx(1, abs=1e-4) for row in rows)
    overlays = sorted((tmp_path / "out" / "overlays").iterdir())
    assert [path.name for path in overlays] == [path.name for path in fitted.images]


def test_boxes_become_annotations_that_are_read_back(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["detect"]
    folder = fitted.images[0].parent
    done = predict(fitted, str(folder), tmp_path / "out")
    content = json.loads(done.path.read_text())
    model = load_fitted(fitted.path)
    expected = model.predict(folder, runtime=CPU)
    assert [category["name"] for category in content["categories"]] == model.classes
    assert [image["file_name"] for image in content["images"]] == [path.name for path in fitted.images]
    assert len(content["annotations"]) == sum(len(boxes.scores) for boxes in expected)
    assert [row["id"] for row in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    source = open_boxes(f"coco:{folder},{done.path}", split="train", whole=True)
    found = [row for index in range(len(source)) for row in source.truth(index)]
    assert len(found) == sum(int((boxes.boxes[:, 2:] > 0).all(1).sum()) for boxes in expected)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3


def test_overlays_are_spread_over_the_images(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["segment"]
    for count, expected in ((0, []), (2, [0, 4]), (50, [0, 1, 2, 3, 4])):
        out = tmp_path / str(count)
        predict(fitted, [str(path) for path in fitted.images], out, options=PredictOptions(overlays=count, runtime=CPU))
        assert sorted(path.name for path in out.rglob("overlays/**/*.png")) == [fitted.images[i].name for i in expected]


def test_archives_and_lists_keep_the_names_of_their_images(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["segment"]
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for number, path in enumerate(fitted.images):
            archive.add(path, arcname=f"{'ab'[number % 2]}/{path.name}")
        archive.add(fitted.images[0], arcname="../../outside.png")
    predict(fitted, str(tmp_path / "images.tar"), tmp_path / "out")
    names = sorted(
        str(path.relative_to(tmp_path / "out" / "masks")) for path in (tmp_path / "out" / "masks").rglob("*.png")
    )
    assert names == sorted(
        [f"{'ab'[number % 2]}/{path.name}" for number, path in enumerate(fitted.images)] + ["outside.png"]
    )
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in fitted.images))
    predict(fitted, str(tmp_path / "list.txt"), tmp_path / "listed")
    assert len(table(tmp_path / "listed" / "predictions.csv")) == 5


def test_unreadable_images_are_listed(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["detect"]
    folder = tmp_path / "images"
    shutil.copytree(fitted.images[0].parent, folder)
    (folder / "aaa.png").write_bytes(b"nothing")
    (folder / "zzz.jpg").write_bytes(b"")
    done = predict(fitted, str(folder), tmp_path / "out")
    assert done.count == 3
    assert done.unreadable is not None
    assert done.unreadable.read_text() == f"{folder}/aaa.png\tnot an image\n{folder}/zzz.jpg\tan empty file\n"
    assert len(json.loads(done.path.read_text())["images"]) == 3
    for path in fitted.images:
        (folder / path.name).unlink()
    with pytest.raises(UserError, match=r"none of 2 images can be read; the first: .*aaa.png: not an image"):
        predict(fitted, str(folder), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", FITS)
def test_a_call_that_ends_early_continues_and_ends_with_the_same_files(
    name: str, kept: dict[str, Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = kept[name]
    folder = tmp_path / "images"
    shutil.copytree(fitted.images[0].parent, folder)
    (folder / "000001x.png").write_bytes(b"nothing")
    predict(fitted, str(folder), tmp_path / "whole", per_part=2)
    expected = files_of(tmp_path / "whole")
    original, written = prediction_files.write_json, []

    def stopping(path: Path, content: Any) -> None:
        original(path, content)
        if path.parent.name == ".parts":
            written.append(path.name)
            raise KeyboardInterrupt

    calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "write_json", stopping)
        while not (tmp_path / "out" / expected_name(fitted)).is_file():
            calls += 1
            try:
                predict(fitted, str(folder), tmp_path / "out", per_part=2)
            except KeyboardInterrupt:
                continue
    assert len(written) == len(set(written)) == calls - 1 > 1  # no part was computed twice
    assert files_of(tmp_path / "out") == expected


def expected_name(fitted: Fitted) -> str:
    return load_fitted(fitted.path).file_name


KILLED = """
import os, signal, sys
from pathlib import Path
from repre.evaluation.fitted import prediction_files
from repre.evaluation.fitted.fitted_model import PredictOptions, PredictRuntime
original = prediction_files.write_json
def killing(path, content):
    original(path, content)
    if path.name == "000001.json":
        os.kill(os.getpid(), signal.SIGKILL)
prediction_files.write_json = killing
options = PredictOptions(overlays=-1, runtime=PredictRuntime(device="cpu", workers=2))
prediction_files.predict_files(Path(sys.argv[1]), sys.argv[2], out=Path(sys.argv[3]), options=options, per_part=8)
"""


@pytest.mark.slow
def test_a_killed_call_continues_and_ends_with_the_same_files(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["segment"]
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        shutil.copy(fitted.images[number % 5], folder / f"{number:02d}.png")
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(fitted.path), str(folder), str(out)], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "predictions.csv").exists()
    assert sorted(path.name for path in (out / ".parts").iterdir()) == ["000000.json", "000001.json"]
    predict(fitted, str(folder), out, per_part=8)
    predict(fitted, str(folder), tmp_path / "whole", per_part=8)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_complete_folder_is_not_computed_again(
    kept: dict[str, Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = kept["linear"]
    images = [str(path) for path in fitted.images]
    done = predict(fitted, images, tmp_path / "out")
    monkeypatch.setattr(prediction_files, "stream", lambda *_, **__: pytest.fail("it ran"))
    said: list[str] = []
    again = predict_files(fitted.path, images, out=tmp_path / "out", options=ALL, log=said.append)
    assert again == done
    assert said == [f"{tmp_path / 'out'} is already complete"]


def test_predictions_of_other_calls_are_not_mixed(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted = kept["linear"]
    images = [str(path) for path in fitted.images]
    predict(fitted, images, tmp_path / "out")
    before = files_of(tmp_path / "out")
    for other, data, options, difference in (
        (kept["finetune"], images, ALL, "another model"),
        (fitted, images[:3], ALL, "other images"),
        (fitted, images, PredictOptions(overlays=-1, top=1, runtime=CPU), "options.top: 1 here, 5 there"),
    ):
        with pytest.raises(UserError, match=f"other predictions .*{difference}"):
            predict(other, data, tmp_path / "out", options=options)
        assert files_of(tmp_path / "out") == before
    workers = PredictOptions(overlays=-1, runtime=PredictRuntime(device="cpu", workers=1, batch=2))
    assert predict(fitted, images, tmp_path / "out", options=workers).count == 7


def test_a_folder_among_the_images_is_refused(kept: dict[str, Fitted], tmp_path: Path) -> None:
    """What is written there would be predicted in the next call."""
    fitted, images = kept["linear"], tmp_path / "images"
    images.mkdir()
    shutil.copy(fitted.images[0], images)
    for out in (images, images / "a/b"):
        with pytest.raises(UserError, match="is inside the folder of the images"):
            predict(fitted, str(images), out)
    assert len(list(images.iterdir())) == 1
    assert predict(fitted, [str(path) for path in images.iterdir()], images / "out").count == 1


def test_a_refused_call_claims_nothing(kept: dict[str, Fitted], tmp_path: Path) -> None:
    fitted, out = kept["linear"], tmp_path / "out"
    with pytest.raises(UserError, match="there is no folder"):
        predict(fitted, str(tmp_path / "nowhere"), out)
    with pytest.raises(UserError, match="no fitted model"):
        predict_files(tmp_path, str(fitted.images[0]), out=out)
    assert not out.exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no predictions; name a new folder"):
        predict(fitted, str(fitted.images[0]), tmp_path / "notes")
    assert files_of(tmp_path / "notes") == {"note.txt": b"mine"}
    out.mkdir()
    for content in ("", "[]", "{}", '{"predicted": "all"}'):
        (out / "predict.json").write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            predict(fitted, str(fitted.images[0]), out)
    with pytest.raises(UserError, match="cannot be written"):
        predict(fitted, str(fitted.images[0]), tmp_path / "notes" / "note.txt" / "out")


def test_a_full_disk_is_named_and_the_call_continues(
    kept: dict[str, Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = kept["segment"]
    images = [str(path) for path in fitted.images]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prediction_files, "_draw", full)
        with pytest.raises(RunError, match="No space left on device"):
            predict(fitted, images, tmp_path / "out")
    assert predict(fitted, images, tmp_path / "out").count == 5


@pytest.mark.parametrize("wrong", [{"top": 0}, {"threshold": 2.0}, {"overlays": -2}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        PredictOptions(**wrong)
    with pytest.raises(UserError, match="batch"):
        PredictRuntime(batch=0)
