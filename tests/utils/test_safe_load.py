"""Files of strangers: what lies beside the weights is ignored or refused, and its code never runs."""

import argparse
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from repre.utils.safe_load import Ignored, load_tensors


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_ignored(tmp_path: Path, zipped: bool) -> None:
    beside = {
        "options": argparse.Namespace(lr=0.1, out=Path("run")),
        "path": PurePosixPath("a/b"),
        "number": np.float64(0.5),
        "integer": np.int64(3),
        "array": np.arange(3),
    }
    torch.save(beside | {"w": torch.ones(2), "epoch": 3}, tmp_path / "start.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_tensors(tmp_path / "start.pth")
    assert torch.equal(loaded["w"], torch.ones(2))
    assert loaded["epoch"] == 3
    assert all(type(loaded[name]) is Ignored for name in beside)
    assert all(not vars(loaded[name]) for name in beside)


def test_ignored_objects_carry_no_code(tmp_path: Path) -> None:
    """Neither as an argument, nor in the state, nor in a class derived from an ignored one."""
    created = tmp_path / "code-ran"
    code = Call(open, str(created), "w")
    options = argparse.Namespace(code=code)
    for content in (Call(argparse.Namespace, code), options, Call(Path, code), {"derived": Derived()}):
        torch.save({"w": torch.ones(1), "beside": content}, tmp_path / "start.pth")
        with pytest.raises(pickle.UnpicklingError):
            load_tensors(tmp_path / "start.pth")
    assert not created.exists()


class Derived(argparse.Namespace):
    pass


def test_a_list_that_holds_itself_ends(tmp_path: Path) -> None:
    content: list[Any] = [torch.ones(1)]
    content.append(content)
    torch.save(content, tmp_path / "start.pth")
    assert torch.equal(load_tensors(tmp_path / "start.pth")[0], torch.ones(1))


def test_the_loader_is_as_strict_afterwards(tmp_path: Path) -> None:
    torch.save({"options": argparse.Namespace()}, tmp_path / "start.pth")
    load_tensors(tmp_path / "start.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "start.pth", weights_only=True)
