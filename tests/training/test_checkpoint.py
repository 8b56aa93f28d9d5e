"""Checkpoints are atomic, damaged or foreign ones are refused, and loading runs no code."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from repre.errors import RunError, UserError
from repre.training.checkpoint import FORMAT, load_checkpoint, load_latest, save_checkpoint
from repre.utils.io import write_atomically
from repre.utils.safe_load import content_hash


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
    for text in (path, tmp_path / "foreign.safetensors"):
        text.write_text("hello")
        with pytest.raises(UserError, match="damaged or not a checkpoint"):
            load_checkpoint(text)
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


def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    assert load_latest(last, previous) is None
    for step in (1, 2):
        save_checkpoint(last, {"step": step, "w": torch.full((1000,), float(step))}, backup=previous)
    state, note = load_latest(last, previous) or ({}, "")
    assert (state["step"], note) == (2, None)
    assert load_checkpoint(previous)["step"] == 1
    content = bytearray(last.read_bytes())
    place = content.find(torch.full((1000,), 2.0).numpy().tobytes()) + 400
    content[place] ^= 1  # one bit of one weight
    last.write_bytes(content)
    with pytest.raises(UserError, match="does not match its hash"):
        load_checkpoint(last)
    state, note = load_latest(last, previous) or ({}, "")
    assert state["step"] == 1
    assert "Resuming from previous.pt" in str(note)
    last.unlink()
    assert (load_latest(last, previous) or ({}, ""))[0]["step"] == 1
    previous.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load_latest(last, previous)


def test_the_hash_sees_every_part() -> None:
    state = {"a": torch.arange(3), "b": [1, {"c": 2.0}], "d": "x"}
    changed = [
        {**state, "a": torch.arange(3).int()},
        {**state, "a": torch.tensor([0, 1, 3])},
        {**state, "a": torch.arange(3)[None]},
        {**state, "b": [1, {"c": 2.5}]},
        {**state, "d": "y"},
    ]
    assert len({content_hash(one) for one in [state, *changed]}) == 6
    assert content_hash(state) == content_hash({**state, "a": torch.arange(6)[::2] // 2})


class Killed(BaseException):
    """Ends everything at once, as SIGKILL would: no handler of the code may clean up after it."""


def _operations(monkeypatch: pytest.MonkeyPatch, at: int | None) -> list[str]:
    """Notes what is done to the disk; at operation `at` the process dies before it is done."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if len(done) == at:
                raise Killed(name)
            what = f"{name} {Path(args[-1]).name}" if name in ("link", "replace") else name
            done.append(what)
            return real(*args, **more)

        return call

    for name in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    monkeypatch.setattr(torch, "save", noted("save", torch.save))
    return done


def test_what_is_named_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(last, {"step": 1}, backup=previous)
    done = _operations(monkeypatch, None)
    save_checkpoint(last, {"step": 2}, backup=previous)
    assert done == ["save", "fsync", "link .previous.pt.partial", "replace previous.pt", "replace last.pt", "fsync"]


@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_operation_a_whole_checkpoint_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        save_checkpoint(last, {"step": step}, backup=previous)
    with monkeypatch.context() as patch:
        _operations(patch, at)
        with pytest.raises(Killed):
            save_checkpoint(last, {"step": 3}, backup=previous)
    state, note = load_latest(last, previous) or ({}, "")
    assert note is None
    assert state["step"] == (3 if at == 5 else 2)
    save_checkpoint(last, {"step": 4}, backup=previous)  # what the dead process left is no hindrance
    assert load_checkpoint(last)["step"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def test_killed_while_the_content_is_written_the_old_checkpoint_is_left(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    save_checkpoint(last, {"step": 1})

    def dies(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise Killed

    with pytest.raises(Killed):
        write_atomically(last, dies)
    assert load_checkpoint(last)["step"] == 1


def test_without_links_the_old_file_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*names: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for step in (1, 2):
        save_checkpoint(tmp_path / "last.pt", {"step": step}, backup=tmp_path / "previous.pt")
    assert load_checkpoint(tmp_path / "previous.pt")["step"] == 1


def test_what_cannot_be_read_back_does_not_replace_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda content, file: file.write(b"a disk that lies"))
        with pytest.raises(RunError, match="could not be read back"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1


def test_a_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="compressed, to 50000000 bytes"):
        load_checkpoint(path)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    body = {"model": {"w": torch.zeros(1).expand(10**12)}}
    torch.save({"format": FORMAT, **body, "sha256": ""}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="larger than the file"):
        load_checkpoint(path)


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    huge = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,))
    torch.save({"format": FORMAT, "model": {"w": huge}}, path)
    with pytest.raises(UserError, match=r"another layout|damaged"):
        load_checkpoint(path)
