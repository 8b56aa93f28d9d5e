"""Checkpoints written tensor by tensor are those of `save_checkpoint`; tests/faults/processes.py splits real weights."""

import io
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.errors import RunError
from repre.training import sharded_checkpoint
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.training.sharded_checkpoint import save_sharded_checkpoint
from repre.utils.safe_load import content_hash


def state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {"w": torch.randn(7, 5, generator=generator), "half": torch.randn(3, generator=generator).half()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 2, generator=generator).T}}},
        "others": [torch.arange(5), (torch.zeros(0, 3), True, None)],
        "text": "0" * 64,
    }


def test_the_file_is_that_of_a_whole_save(tmp_path: Path) -> None:
    path, backup, whole = tmp_path / "last.pt", tmp_path / "previous.pt", tmp_path / "whole.pt"
    for step in (1, 2):
        save_sharded_checkpoint(path, state(step), backup=backup)
    save_checkpoint(whole, state(2))
    loaded = load_checkpoint(path)
    assert content_hash(loaded) == content_hash(load_checkpoint(whole))
    assert torch.equal(loaded["model"]["w"], state(2)["model"]["w"])
    assert loaded["text"] == "0" * 64
    assert load_checkpoint(backup)["step"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "previous.pt", "whole.pt"]


def test_what_cannot_be_read_back_does_not_replace_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_sharded_checkpoint(path, state(1))

    class Forgetful(io.FileIO):
        def write(self, content: Any) -> int:
            return len(content)

    def opened(name: Any, mode: str) -> Any:
        return Forgetful(name, mode) if "+" in mode else open(name, mode)

    monkeypatch.setattr(sharded_checkpoint, "open", opened, raising=False)
    with pytest.raises(RunError, match="could not be read back"):
        save_sharded_checkpoint(path, state(2))
    assert load_checkpoint(path)["step"] == 1


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    counts = []

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.clone()
        counts.append(sum(other() is not None for other in alive))
        alive.append(weakref.ref(whole))
        return whole

    monkeypatch.setattr(sharded_checkpoint, "full_tensors", gather)
    save_sharded_checkpoint(tmp_path / "last.pt", {"w": [torch.zeros(10) for _ in range(4)]})
    assert counts == [0, 0, 0, 0]


def test_all_tensors_are_gathered_though_the_main_process_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other processes would wait for ever."""
    gathered: list[torch.Tensor] = []
    monkeypatch.setattr(sharded_checkpoint, "full_tensors", lambda tensor: (gathered.append(tensor), tensor)[1])

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_sharded_checkpoint(tmp_path / "last.pt", state(1), first=fail)
    assert len(gathered) == 6
    with pytest.raises(RunError, match="could not write"):
        save_sharded_checkpoint(tmp_path / "nowhere" / "last.pt", state(1))
    assert len(gathered) == 12
