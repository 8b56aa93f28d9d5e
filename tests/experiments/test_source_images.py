"""Classes, groups and folds of the source images, and their extraction by several processes."""

from pathlib import Path

import pytest
from experiments.source_images import Candidate, assign_folds, class_of, group_of
from PIL import Image

from experiments import source_images


def test_classes_and_groups_of_stamps() -> None:
    assert class_of("animals/mammals/bovines/gnu") == "hoofed"
    assert class_of("animals/mammals/elephant") == "mammal"
    assert class_of("food/fruit/cartoon/apple") == class_of("vehicles/truck_mirror") == class_of("sports/ball") == ""
    assert group_of("animals/birds/rooster") == group_of("animals/birds/hen")
    assert group_of("animals/mammals/bovines/gnu-baby-stand") == group_of("animals/mammals/bovines/gnu")
    assert group_of("plants/flowers/flower4") != group_of("plants/flowers/flower7")
    assert group_of("symbols/money/us/coins/010dime") != group_of("symbols/money/us/coins/005nickel")


def test_folds_are_even_and_independent_of_the_order() -> None:
    members = [("bird", f"group {n % 9}") for n in range(18)] + [("fish", f"group {n}") for n in range(6)]
    folds = assign_folds(members)
    assert folds == assign_folds(members[::-1])
    for label, per_fold in (("bird", 6), ("fish", 2)):
        counts = [sum(folds[member] == fold for member in members if member[0] == label) for fold in range(3)]
        assert counts == [per_fold] * 3


def test_two_processes_that_unpack_at_once_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unpacked"
    second: list[source_images.SourceImage] = []
    inodes: list[int] = []
    cutouts = [
        Candidate("bird/owl", "bird", "owl", Image.new("RGBA", (9, 9))),
        Candidate("fish/eel", "fish", "eel", Image.new("RGBA", (5, 5))),
    ]

    def backgrounds(packages: Path) -> list[Candidate]:
        assert not folder.exists()  # no incomplete folder under the final name
        if not inodes:  # while the first call works, a second one begins and ends
            inodes.append(0)
            with monkeypatch.context() as other_process:
                other_process.setattr("os.getpid", lambda: 1)
                second.extend(source_images.unpack(packages, folder))
            inodes.append((folder / "pictures" / "000.png").stat().st_ino)
        return []

    monkeypatch.setattr(source_images, "_cutouts", lambda packages: cutouts)
    monkeypatch.setattr(source_images, "_backgrounds", backgrounds)
    first = source_images.unpack(tmp_path, folder)
    assert [image.source for image in first] == ["bird/owl", "fish/eel"]
    assert second == first
    assert inodes[-1] == (folder / "pictures" / "000.png").stat().st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["unpacked"]
