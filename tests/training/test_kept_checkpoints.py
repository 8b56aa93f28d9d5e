"""Further checkpoints: which are kept, that a resumed run keeps the same, that old ones go last; the next command."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repre.cli.main import main
from repre.config import RunConfig
from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.models.resolve import resolve_encoder
from repre.training.checkpoint import load_checkpoint
from repre.training.kept_checkpoints import best_steps
from repre.training.loop import train
from repre.training.optim import OptimConfig
from tests.training.test_loop import QUIET
from tests.training.test_loop import config as loop_config

SCORES = {0: 0.9, 3: 0.3, 6: 0.7, 9: 0.5, 12: 0.6}
"""Metric of a probe at every step of a validation; the one at step 0 does not count."""


def probe(encoder: Encoder, step: int) -> dict[str, float]:
    return {"score": SCORES[step]}


def config(out: Path, **runtime: object) -> RunConfig:
    quiet = replace(QUIET, monitors=False, best_metric="score", **runtime)  # type: ignore[arg-type]
    return loop_config(out, epochs=4, runtime=quiet)


def names(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").iterdir()} - {"last.pt", "previous.pt", "best.pt"}


def test_the_best_are_found_by_value_then_step() -> None:
    rows = [{"step": step, "score": value} for step, value in SCORES.items()]
    assert best_steps(rows, "score", count=3) == [6, 12, 9]
    assert best_steps([*rows, {"step": 15, "score": None}, {"step": 18, "score": 0.7}], "score", count=2) == [6, 18]
    down = [{"step": step, "alignment": value} for step, value in SCORES.items()]
    assert best_steps(down, "alignment", count=1) == [3]  # lower is better
    assert best_steps(rows, "other", count=3) == []


def test_checkpoints_are_kept_and_open_by_name(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config(out, keep_every=2, keep_best=2, eval_every_epochs=1), probe=probe)
    assert names(out) == {"epoch-0002.pt", "epoch-0004.pt", "best-6.pt", "best-12.pt"}
    whole = load_checkpoint(out / "checkpoints/epoch-0002.pt")
    assert (whole["step"], set(whole) >= {"model", "optimizer"}) == (6, True)
    best, sixth = (load_checkpoint(out / f"checkpoints/{name}.pt") for name in ("best", "best-6"))
    assert best["step"] == sixth["step"] == 6
    for spec in (f"{out}@epoch-0002", f"{out}@best-6", f"{out}@best", out / "checkpoints/best-6.pt"):
        resolved = resolve_encoder(str(spec))
        assert resolved.epoch == 2
        opened = resolved.build().model.state_dict()
        assert all(torch.equal(value, sixth["encoder"][f"model.{name}"]) for name, value in opened.items())
    assert resolve_encoder(str(out)).epoch == resolve_encoder(f"{out}@last").epoch == 4
    with pytest.raises(UserError, match="the run has best, best-12, best-6, epoch-0002, epoch-0004, last, previous"):
        resolve_encoder(f"{out}@epoch-0003")


def test_a_checkpoint_between_validations_is_kept(tmp_path: Path) -> None:
    """Three epochs fall between two validations, and the end of the stable part between two epochs."""
    made = config(tmp_path / "run", keep_every=3, eval_every_epochs=4)
    optim = OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1, schedule="wsd", decay_fraction=0.4)
    train(replace(made, optim=optim), probe=probe)
    assert names(tmp_path / "run") == {"epoch-0003.pt", "stable.pt"}
    assert load_checkpoint(tmp_path / "run/checkpoints/stable.pt")["step"] == 7
    assert load_checkpoint(tmp_path / "run/checkpoints/epoch-0003.pt")["step"] == 9


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.mark.parametrize(
    ("point", "call", "found"),
    [
        ("kept_checkpoints.keep_copy", 1, {"best-3.pt", "best-6.pt"}),
        (
            "monitoring.validator.remove_surpassed",
            4,
            {"best-3.pt", "best-6.pt", "best-9.pt", "best-12.pt", "epoch-0002.pt", "epoch-0004.pt"},
        ),
    ],
)
def test_a_run_that_is_killed_while_it_keeps_files_keeps_the_same_in_the_end(
    point: str, call: int, found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a checkpoint has its further name; and when better encoders were written, but the old ones are still there."""
    made = config(tmp_path / "run", keep_every=2, keep_best=2, eval_every_epochs=1)
    calls = []

    def kill(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == call:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"repre.training.{point}", kill)
        with pytest.raises(Killed):
            train(made, probe=probe)
    assert names(tmp_path / "run") == found
    train(made, probe=probe)
    assert names(tmp_path / "run") == {"epoch-0002.pt", "epoch-0004.pt", "best-6.pt", "best-12.pt"}


def test_encoders_of_validations_after_the_last_checkpoint_are_removed_on_resume(tmp_path: Path) -> None:
    made = config(tmp_path / "run", keep_best=2, eval_every_epochs=1)

    def stop(encoder: Encoder, step: int) -> dict[str, float]:
        if step == 9:
            raise KeyboardInterrupt
        return probe(encoder, step)

    with pytest.raises(KeyboardInterrupt):
        train(made, probe=stop)
    extra = tmp_path / "run/checkpoints/best-9.pt"
    extra.write_bytes((tmp_path / "run/checkpoints/best-6.pt").read_bytes())
    train(made, probe=probe)
    assert names(tmp_path / "run") == {"best-6.pt", "best-12.pt"}


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_finished_run_that_shall_have_more_epochs_gives_the_command(
    schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    optim = OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1, schedule=schedule)  # type: ignore[arg-type]
    made = replace(config(Path("runs/my photos")), epochs=1, optim=optim)
    made = replace(made, runtime=replace(made.runtime, best_metric="rankme"))
    train(made)
    with pytest.raises(UserError, match=r"is a finished run of 1 epoch\. ") as caught:
        train(replace(made, epochs=2))
    command = shlex.split(str(caught.value).splitlines()[-1])
    assert command[:4] == [
        "repre",
        "pretrain",
        "--from",
        f"runs/my photos{'/checkpoints/stable.pt' * (schedule == 'wsd')}",
    ]
    assert main(command[1:]) == 0
    end = load_checkpoint(Path("runs/my photos-2/checkpoints/last.pt"))
    assert end["step"] == (6 if schedule == "wsd" else 3)
    with pytest.raises(UserError, match="another config:\n  epochs: 2 here, 1 there\n  seed: 1 here, 0 there"):
        train(replace(made, epochs=2, seed=1))
    with pytest.raises(UserError, match="'runs/my photos-2-2'"):
        train(replace(made, epochs=2))
