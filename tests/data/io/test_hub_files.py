"""Data sets of Hugging Face: the same images, labels and weights as from a folder, and one message for each mistake."""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repre.data.io.hub_data import HubSpec, parse_hub_spec
from repre.data.io.hub_files import HubFiles, hub_splits
from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.data.loading.loader import LoaderConfig
from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.classification.knn import run as run_knn
from repre.training.loop import train
from repre.utils.signals import Interrupted
from tests.data.io.hub import CLASSES, class_folders, encoded, offline, rows
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved
from tests.training.test_loop import QUIET, assert_equal, config, stop_at, weights

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

LABELS = [number * 3 // 24 for number in range(24)]


@pytest.fixture(autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with offline(tmp_path_factory.mktemp("hf")):
        yield


def save_folder(root: Path) -> str:
    rows().save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def save_in_parts(root: Path) -> str:
    rows().save_to_disk(root / "saved", num_shards=5)
    return str(root / "saved")


def save_splits(root: Path) -> str:
    datasets.DatasetDict({"validation": rows(3), "train": rows(), "test": rows(6)}).save_to_disk(root / "dict")
    return f"hf:{root / 'dict'}"


def save_parquet(root: Path) -> str:
    rows().to_parquet(root / "photos.parquet")
    return str(root / "photos.parquet")


def save_arrow(root: Path) -> str:
    rows().save_to_disk(root / "saved")
    return f"hf:{root}/saved/data-00000-of-00001.arrow"


def save_struct(root: Path) -> str:
    """Without the schema of `datasets`; the labels are words, in two files."""
    for part in range(2):
        numbers = range(12 * part, 12 * part + 12)
        images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
        words = [CLASSES[LABELS[number]] for number in numbers]
        parquet.write_table(pa.table({"image": images, "label": words}), root / f"part-{part}.parquet")
    return f"{root}/part-*.parquet"


def save_binary(root: Path) -> str:
    content = pa.array([encoded(number) for number in range(24)], pa.binary())
    parquet.write_table(pa.table({"png": content, "labels": LABELS, "width": [40.0] * 24}), root / "plain.parquet")
    return f"hf:{root}/plain.parquet"


def write_arrow(path: Path, columns: dict[str, Any], features: Any) -> None:
    """Writes rows as they are; `save_to_disk` reads the files that paths name."""
    table = pa.table(columns, schema=features.arrow_schema)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def save_paths(root: Path) -> str:
    paths = sorted(str(path) for path in (root / "photos").rglob("*.png"))
    columns = {"photo": [{"bytes": None, "path": path} for path in paths], "kind": [str(label) for label in LABELS]}
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.Value("string")})
    write_arrow(root / "paths.arrow", columns, features)
    return f"hf:{root}/paths.arrow?label=kind"


SAVERS = [save_folder, save_in_parts, save_splits, save_parquet, save_arrow, save_struct, save_binary, save_paths]


@pytest.mark.parametrize("save", SAVERS)
def test_images_and_labels_are_those_of_the_folder(tmp_path: Path, save: Callable[[Path], str]) -> None:
    folder = open_source(str(class_folders(tmp_path / "photos")), cache_dir=tmp_path / "cache")
    source = open_source(save(tmp_path))
    assert isinstance(source, FileSource)
    assert len(source) == len(folder) == 24
    for index in (0, 7, 23):
        assert np.array_equal(source.load(index), folder.load(index))
        assert source.describe(index).endswith(f" row {index}")
        with source.files.open(index) as file:
            assert source.files.stamp(index)[0] == len(file.read())
        assert source.files.stamp(index)[1] > 0
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert np.array_equal(source.labels, folder.labels)
    assert len(source.classes) == 3
    assert source.files.names[7] == "07"
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.load(3), folder.load(3))
    assert source.files.location == copy.files.location
    assert source.files.names.digest == copy.files.names.digest


@pytest.mark.slow
def test_a_run_that_is_stopped_moved_and_resumed_ends_with_the_weights_of_the_folder(tmp_path: Path) -> None:
    """With two workers, then with none."""
    without_cache = LoaderConfig(cache="off")
    train(config(tmp_path / "folder", data=str(class_folders(tmp_path / "photos")), loader=without_cache))
    run = config(tmp_path / "hub", data=save_splits(tmp_path), runtime=replace(QUIET, workers=2))
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))
    moved = (tmp_path / "dict").rename(tmp_path / "moved")
    train(replace(run, data=f"hf:{moved}", runtime=QUIET))
    assert_equal(weights(tmp_path / "folder"), weights(tmp_path / "hub"))


def test_labeled_splits(tmp_path: Path) -> None:
    spec = save_splits(tmp_path)
    path = spec.removeprefix("hf:")
    assert hub_splits(spec) == {"train": f"{spec}:train", "val": f"{spec}:validation", "test": f"{spec}:test"}
    assert hub_splits(f"{spec}:test") == {"": f"{spec}:test"}
    splits = open_labeled(spec)
    assert splits.classes == list(CLASSES)
    assert (len(splits.train), len(splits.test)) == (24, 6)
    assert splits.val is not None
    assert len(splits.val) == 3
    assert open_labeled(f"{spec}:train", test=f"{spec}:validation").test_set.endswith(":validation")
    assert len(open_source(path)) == 24
    assert len(open_source(spec, split="val")) == 3


def test_one_part_is_divided_and_test_images_without_labels_are_left_out(tmp_path: Path) -> None:
    splits = open_labeled(save_folder(tmp_path))
    assert len(splits.train) + len(splits.test) == 24
    assert "held out" in splits.test_set
    unlabeled = rows().remove_columns("label").add_column("label", [-1] * 24).cast(rows().features)
    parts = {"train": rows(), "test": unlabeled}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "dict")
    assert list(hub_splits(f"hf:{tmp_path}/dict")) == ["train"]
    assert open_source(f"hf:{tmp_path}/dict:test").labels is None


def test_k_nearest_neighbors_of_both_are_the_same(tmp_path: Path) -> None:
    """Their numbers, because the features are in the order of the rows."""
    results = []
    for data in (str(class_folders(tmp_path / "photos")), save_folder(tmp_path)):
        cache = tmp_path / f"cache-{len(results)}"
        results.append(run_knn(tiny_resolved(), KNNConfig(data=data, k=(1, 3), runtime=on_cpu(cache))))
    assert results[0].metrics == results[1].metrics


def test_columns_are_chosen_where_there_are_several(tmp_path: Path) -> None:
    coarse = datasets.ClassLabel(names=["pet", "bird"]), [int(label == 2) for label in LABELS]
    other = datasets.Image(), [{"bytes": encoded(100 + number), "path": None} for number in range(24)]
    rows(coarse=coarse, second=other).rename_column("label", "fine").save_to_disk(tmp_path / "saved")
    spec = f"hf:{tmp_path}/saved"
    with pytest.raises(UserError, match=rf"several image columns: image, second; name one: {spec}\?image=image$"):
        open_source(spec)
    with pytest.raises(
        UserError, match=r"no column of classes.*fine \(ClassLabel\), coarse.*\?image=image&label=COLUMN"
    ):
        hub_splits(f"{spec}?image=image")
    source = open_source(f"{spec}?image=second&label=coarse")
    assert source.classes == ["pet", "bird"]
    assert np.array_equal(source.load(0), open_source(f"{spec}?image=second").load(0))
    assert not np.array_equal(source.load(0), open_source(f"{spec}?image=image").load(0))
    assert open_labeled(f"{spec}?image=image&label=fine").classes == list(CLASSES)
    assert open_source(f"{spec}?image=image").labels is None


def test_rows_without_an_image_are_unreadable_with_the_reason(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image()})
    cells: list[Any] = [
        {"bytes": encoded(0), "path": "a.png"},
        None,
        {"bytes": b"no image", "path": None},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
        {"bytes": None, "path": "s3://bucket/a.png?signature=secret"},
    ]
    write_arrow(tmp_path / "odd.arrow", {"image": cells}, features)
    source = open_source(f"{tmp_path}/odd.arrow")
    assert isinstance(source, FileSource)
    assert source.load(0).shape == (40, 40, 3)
    for index, reason in enumerate(("has no image", "not an image", "vanished", "only the address"), start=1):
        with pytest.raises(UnreadableImage, match=reason) as error:
            source.load(index)
        assert "secret" not in str(error.value)
    assert [source.files.stamp(index)[0] for index in (0, 2)] == [len(encoded(0)), 8]
    with pytest.raises(UnreadableImage):
        source.files.stamp(1)


SPECS = {
    "owner/name": HubSpec("x", "owner/name"),
    "owner/name:train": HubSpec("x", "owner/name", "train"),
    "name?label=fine&image=a b": HubSpec("x", "name", label="fine", image="a b"),
    "name:dev?subset=big&revision=1.0": HubSpec("x", "name", "dev", subset="big", revision="1.0"),
    "{tmp}/a:b": HubSpec("x", "{tmp}/a:b"),
    "{tmp}/part-?.parquet": HubSpec("x", "{tmp}/part-?.parquet"),
}


@pytest.mark.parametrize("rest", SPECS)
def test_names_of_data_sets(rest: str, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    expected = replace(SPECS[rest], name=SPECS[rest].name.format(tmp=tmp_path))
    assert parse_hub_spec("x", rest.format(tmp=tmp_path)) == expected
    again = expected.with_split(expected.split).removeprefix("hf:")
    assert parse_hub_spec("x", again) == expected


MISTAKES = {
    "hf:": "name a data set",
    "hf:nobody/nothing": "HF_HUB_OFFLINE forbids a download",
    "hf:./nowhere": "there is no folder nowhere",
    "hf:{tmp}/dict:trian": "no split 'trian'; did you mean 'train'.*there are train, validation",
    "hf:{tmp}/one": "no split 'train'; there are other",
    "hf:{tmp}/saved:train": "no splits; leave :train out",
    "hf:{tmp}/saved?imgae=x": "no option 'imgae'; did you mean 'image'",
    "hf:{tmp}/saved?image=imge": r"no image column 'imge'; did you mean 'image'.*columns are image \(Image\)",
    "hf:{tmp}/saved?image=label": "no image column 'label'",
    "hf:{tmp}/saved?label=lable": "no column 'lable'; did you mean 'label'",
    "hf:{tmp}/saved?label=image": "does not hold one class for each row",
    "hf:{tmp}/text": r"has no image column; columns are text \(string\), score \(float64\)",
    "{tmp}/empty.arrow": "has no rows",
    "hf:{tmp}/cut": "cannot be read as a data set",
    "hf:{tmp}/bare": "cannot be read as a data set",
    "{tmp}/none.parquet": "there is no file .*none.parquet; did you mean 'nine.parquet'",
    "{tmp}/nine.parquet": "cannot be read as a data set",
    "{tmp}/x*.parquet": "nothing matches",
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mistakes")
    with offline(root / "hf"):
        datasets.DatasetDict({"train": rows(3), "validation": rows(3)}).save_to_disk(root / "dict")
        datasets.DatasetDict({"other": rows(3)}).save_to_disk(root / "one")
        rows(3).save_to_disk(root / "saved")
        datasets.Dataset.from_dict({"text": ["a"], "score": [0.5]}).save_to_disk(root / "text")
        write_arrow(root / "empty.arrow", {"image": []}, datasets.Features({"image": datasets.Image()}))
        rows().save_to_disk(root / "cut")
        file = root / "cut/data-00000-of-00001.arrow"
        file.write_bytes(file.read_bytes()[:3000])
        (root / "bare").mkdir()
        (root / "nine.parquet").write_bytes(b"no table")
    return root


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistakes_name_the_fix(spec: str, mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistakes)
    with pytest.raises(UserError, match=MISTAKES[spec]) as error:
        open_source(spec.format(tmp=mistakes))
    assert "\n" not in str(error.value)


def test_evaluations_name_what_is_missing(tmp_path: Path) -> None:
    rows().remove_columns("label").save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"no column of classes .*columns are image \(Image\)"):
        open_labeled(f"hf:{tmp_path}/saved")
    rows(4, labels=(datasets.Value("int64"), [1, None, 2, 1])).remove_columns("label").save_to_disk(tmp_path / "part")
    with pytest.raises(UserError, match="1 of 4 rows"):
        open_labeled(f"hf:{tmp_path}/part")
    assert open_source(f"hf:{tmp_path}/part").labels is None
    rows(4, labels=(datasets.Value("int64"), [1, 1, 1, 1])).remove_columns("label").save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match="one class only"):
        open_labeled(f"hf:{tmp_path}/one")
    datasets.DatasetDict({"validation": rows(3), "test": rows(3)}).save_to_disk(tmp_path / "dict")
    with pytest.raises(UserError, match="no split 'train'; there are validation, test"):
        open_labeled(f"hf:{tmp_path}/dict")


class GatedRepoError(OSError): ...


class RepositoryNotFoundError(OSError): ...


HUB_ERRORS: list[tuple[Exception, str]] = [
    (GatedRepoError("403 for hf_aBcDeFgHiJ0123: https://x/a?sig=hidden"), "hf auth login"),
    (RepositoryNotFoundError("404"), "no such data set on the hub"),
    (ConnectionError("no route to host"), "cannot be reached"),
    (ValueError("Config name is missing. Pick among ['a', 'b']"), r"hf:owner/name\?subset=SUBSET .*\['a', 'b'\]"),
    (OSError(28, "No space left on device"), "No space left"),
]


@pytest.mark.parametrize(("raised", "message"), HUB_ERRORS)
def test_errors_of_the_hub_are_explained_without_secrets(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, *arguments: object, **options: object) -> None:
        assert "trust_remote_code" not in options
        assert not options.get("streaming")
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=message) as error:
        open_source("hf:owner/name")
    assert "aBcDeF" not in str(error.value)
    assert "hidden" not in str(error.value)
    assert error.value.__suppress_context__


def test_the_revision_of_a_data_set_of_the_hub_is_part_of_its_images_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library keeps each commit in a folder of its own; another one must not read cached features of the first."""
    commits = {"0123456789" * 4: "@01234567", "abcdef0123" * 4: "@abcdef01"}
    for commit, shown in commits.items():
        rows().save_to_disk(tmp_path / commit)
        content = datasets.DatasetDict({"train": datasets.load_from_disk(tmp_path / commit)})
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, content=content, **__: content)
        source = open_source("hf:owner/name")
        assert source.describe(3) == f"owner/name{shown}[train] row 3"


def test_a_cache_of_the_library_beside_the_rows_changes_no_image(tmp_path: Path) -> None:
    spec = save_folder(tmp_path)
    files = [open_source(spec)]
    (tmp_path / "saved/cache-0123.arrow").write_bytes(b"of a transform")
    files.append(open_source(spec))
    assert all(isinstance(source, FileSource) for source in files)
    stamps = [source.files.stamp(3) for source in files if isinstance(source, FileSource)]
    assert stamps[0] == stamps[1]
    os.utime(tmp_path / "saved/data-00000-of-00001.arrow", ns=(5, stamps[0][1] + 1))
    source = open_source(spec)
    assert isinstance(source, FileSource)
    assert source.files.stamp(3) != stamps[0]


def test_the_table_stays_on_the_disk(tmp_path: Path) -> None:
    source = open_source(save_folder(tmp_path))
    assert isinstance(source, FileSource)
    assert isinstance(source.files, HubFiles)
    assert len(pickle.dumps(source.files.rows)) < 10_000  # the images have 24 x 5 kB
