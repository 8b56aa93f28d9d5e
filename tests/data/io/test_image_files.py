"""Classes by the folders of names."""

from pathlib import Path

import pytest

from repre.data.io.image_files import class_labels
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names

CASES = {
    "cat/1 dog/1 dog/2": ([0, 1, 1], ["cat", "dog"]),
    "p/cat/1 p/dog/1 p/dog/deep/2": ([0, 1, 1], ["cat", "dog"]),
    "p/1 p/2": (None, []),
    "p/cat/1 p/loose": (None, []),
    "p/q/cat/1 p/q/dog/1": (None, []),
    "cat/1 loose": (None, []),
    "1 2": (None, []),
}


def test_a_folder_for_each_image_is_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names.of(f"{number:02}/photo.png" for number in range(20))
    assert len(class_labels(LocalFiles(Path(), names))[1]) == 20
    monkeypatch.setattr("repre.data.io.image_files.MAX_CLASSES", 19)
    assert class_labels(LocalFiles(Path(), names)) == (None, [])


@pytest.mark.parametrize("names", CASES)
def test_classes_are_first_folders_or_those_in_the_only_one(names: str) -> None:
    labels, classes = class_labels(LocalFiles(Path(), Names.of(names.split())))
    assert (labels if labels is None else labels.tolist(), classes) == CASES[names]
