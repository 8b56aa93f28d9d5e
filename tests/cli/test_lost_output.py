"""Output that is moved, deleted or closed while a command writes to it: one message, and nothing in the old place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repre.training.loop import Trainer
from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY


def during_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, step: int) -> None:
    """Lets something happen when a run has done so many steps."""
    original = Trainer._step

    def step_then_act(self: Trainer, *args: Any, **settings: Any) -> Any:
        if self.step == step:
            act()
        return original(self, *args, **settings)

    monkeypatch.setattr(Trainer, "_step", step_then_act)


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
@pytest.mark.parametrize("options", [(), ("--runtime.checkpoint-minutes", "0.0")])
def test_a_run_folder_that_vanishes(
    how: str, options: tuple[str, ...], repre: Repre, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def vanish() -> None:
        if how == "deleted":
            shutil.rmtree(out)
        else:
            out.rename(elsewhere)
        if how == "replaced":
            out.mkdir()

    with monkeypatch.context() as patch:
        during_training(patch, vanish, step=1)
        code, _, err = repre("pretrain", "--data", photos, "--out", out, *TINY, "--runtime.log-every", "1", *options)
    assert code == 1, err
    assert f"{out} was moved or deleted while the run was writing to it" in err
    assert "Traceback" not in err
    assert not out.exists() or not (out / "failure.json").exists()
    if how != "moved":
        return
    code, _, err = repre("pretrain", "--resume", elsewhere)
    assert code == 0, err
    assert (elsewhere / "summary.json").is_file()
