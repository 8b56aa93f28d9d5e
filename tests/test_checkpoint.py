"""Checkpoints are atomic, damaged or foreign ones are refused, and loading runs no code."""

import os
import pickle
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from repre.checkpoint import FORMAT, load_checkpoint, save_checkpoint, write_atomically
from repre.errors import RunError, UserError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 3, "model": {"w": torch.arange(4.0)}})
    state = load_checkpoint(path)
    assert state["step"] == 3
    assert torch.equal(state["model"]["w"], torch.arange(4.0))
    assert state["format"] == FORMAT
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    def full(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"No space left.*intact"):
        write_atomically(path, full)
    assert load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("keep", [0, 1, 200, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1, "w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load_checkpoint(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    torch.save({"state_dict": {"w": torch.zeros(2)}}, path)
    with pytest.raises(UserError, match="not a checkpoint of repre"):
        load_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT + 1}, path)
    with pytest.raises(UserError, match="upgrade repre"):
        load_checkpoint(path)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hostile-was-here",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_pickle_runs_no_code(tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if writer == "torch":
        torch.save({"format": 1, "model": Hostile()}, path)
    else:
        path.write_bytes(pickle.dumps({"format": 1, "model": Hostile()}))
    with pytest.raises(UserError):
        load_checkpoint(path)
    assert not (tmp_path / "hostile-was-here").exists()
