"""The comparison of DINO, iBOT and DINOv2 runs at toy size, resumes, and prints a row for every method."""

from pathlib import Path

import pytest

from experiments import self_distillation
from repre.config_values import to_dict

pytestmark = pytest.mark.slow


def test_methods_differ_in_framework_masks_and_branch_alone(tmp_path: Path) -> None:
    plain = [
        to_dict(self_distillation.config(method, seed=0, out=tmp_path, images=64, epochs=1))
        for method in self_distillation.METHODS
    ]
    for settings in plain:
        del settings["framework"], settings["views"]["mask"], settings["reconstruction"]["weight"], settings["out"]
    assert all(settings == plain[0] for settings in plain)


def test_the_table_has_a_row_for_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--methods dino ibot+branch --images 128 --epochs 2 --labeled 40 --fit-epochs 1 --out {tmp_path}"
    monkeypatch.setattr("sys.argv", ["self_distillation", *options.split()])
    self_distillation.main()
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in first] == ["", "---", "dino", "ibot+branch", "random init"]
    self_distillation.main()
    again = capsys.readouterr().out
    assert again.count("is a finished run of this config") == 2
    assert [line for line in again.splitlines() if line.startswith("|")] == first
