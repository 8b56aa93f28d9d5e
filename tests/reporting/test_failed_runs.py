"""Runs broken on purpose: the report of each names the cause and a command that the command line accepts."""

import os
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repre import api
from repre.cli.main import main
from repre.config import RunConfig, load_yaml
from repre.data.views.render import make_views
from repre.errors import RunError
from repre.models.encoder import Encoder
from repre.reporting import write_report
from repre.reporting.run_data import read_run
from repre.reporting.verdict import judge
from repre.training import failure_record, loop
from repre.training.failure_record import FailureRecord
from repre.training.loop import train
from repre.training.next_commands import lower_lr, short
from repre.training.run_folder import RunFolder
from repre.utils.signals import Interrupted
from tests.own_process import call
from tests.reporting.commands import check_command
from tests.reporting.test_page import outline
from tests.training.toy import toy


def photos(folder: Path, count: int = 16) -> Path:
    folder.mkdir()
    for i in range(count):
        np.save(folder / f"{i:02d}.npy", np.random.default_rng(i).integers(0, 255, (36, 36, 3)).astype(np.uint8))
    return folder


def small(tmp_path: Path, **changes: Any) -> RunConfig:
    """Four epochs of four steps."""
    config = toy(tmp_path / "run", data=str(photos(tmp_path / "photos")), epochs=4, batch_size=4, **changes)
    return replace(config, runtime=replace(config.runtime, monitor_samples=8))


def text_of(run: Path) -> str:
    """The text of the report that lies in a run's folder, in single spaces."""
    return re.sub(r"\s+", " ", " ".join(outline(run / "report.html").text))


def record(run: Path) -> FailureRecord:
    found = failure_record.read_failure(run)
    assert found is not None
    return found


def assert_told(run: Path, error: BaseException, *, headline: str, command: str) -> None:
    """The report is there and red; it and the error name the cause and the command, which parses."""
    text = text_of(run)
    assert re.search(headline, text), text[:600]
    assert command in text
    assert 'class="verdict bad"' in (run / "report.html").read_text()
    notes = "\n".join(error.__notes__)
    assert command in notes
    assert f"report: {run / 'report.html'}" in notes
    for step in record(run).next_steps:
        check_command(step.command)


def ends(config: RunConfig) -> BaseException:
    with pytest.raises((Exception, KeyboardInterrupt)) as caught:
        api.pretrain(config)
    return caught.value


def at_step(step: int, act: Callable[[], None]) -> Callable[..., Any]:
    """make_views, which also does something in one step, counted from 1."""
    count = 0

    def make_views_and_act(*args: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            act()
        return make_views(*args, **settings)

    return make_views_and_act


# ------------------------------------------------------------------------------------------------- five and more


def test_diverged(tmp_path: Path) -> None:
    config = small(tmp_path)
    config = replace(config, optim=replace(config.optim, lr=1e30, clip_grad_norm=None, warmup_fraction=0.0))
    error = ends(config)
    run = tmp_path / "run"
    lr = "2e-4"  # the highest published rate, 5e-4 for 256 images, by the square root for the base batch size of 32
    assert_told(
        run,
        error,
        headline=rf"Diverged at step \d+ of 16: the learning rate is far too high; start again with --optim.lr {lr}",
        command=f"repre pretrain --config {run}/config.yaml --out {run}-lr{lr} --optim.lr {lr}",
    )
    assert record(run).kind == "diverged"
    assert "No collapse" not in text_of(run), "the embeddings before training say nothing about the end"
    assert not re.search(r"(PSNR, dB|Effective rank|Correspondence) [\d.]+", text_of(run).split("Did it learn?")[0])


def test_killed_by_a_signal_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = small(tmp_path), tmp_path / "run"
    monkeypatch.setattr(loop, "make_views", at_step(6, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    error = ends(config)
    assert isinstance(error, Interrupted)
    assert error.code == 143
    command = f"repre pretrain --resume {run}"
    assert_told(run, error, headline=r"Stopped by SIGTERM .* at step \d+ of 16; everything is saved", command=command)
    monkeypatch.setattr(loop, "make_views", make_views)
    api.pretrain(replace(load_yaml(run / "config.yaml"), out=str(run)))
    assert not (run / "failure.json").exists()
    assert "Stopped by" not in text_of(run)


def test_killed_without_a_word(tmp_path: Path) -> None:
    """SIGKILL leaves no record."""
    config, run = small(tmp_path), tmp_path / "run"

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    process = call(lambda: train(config, probe=probe))
    assert process.returncode == -signal.SIGKILL, process.stderr
    write_report(run)
    text = text_of(run)
    assert "Ended without a message after step 8 (killed, or the machine stopped); resume it" in text
    assert f"repre pretrain --resume {run}" in text
    assert "No collapse" not in text or "step 4" in text


def test_unreadable_data(tmp_path: Path) -> None:
    config, run = small(tmp_path), tmp_path / "run"
    for index in range(2, 16):
        (tmp_path / "photos" / f"{index:02d}.npy").write_bytes(b"not an array")
    error = ends(config)
    command = f"repre data check {tmp_path / 'photos'}"
    assert_told(
        run, error, headline=r"Stopped before the first step: images cannot be used; list every file", command=command
    )
    assert ".npy" in text_of(run)
    assert record(run).next_steps[-1].command == f"repre pretrain --resume {run}"


def test_an_image_that_is_not_finite_is_no_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*args: Any, **settings: Any) -> Any:
        views = make_views(*args, **settings)
        views.images[0][1, 0, 3, 3] = float("nan")
        return views

    monkeypatch.setattr(loop, "make_views", spoiled)
    ends(small(tmp_path))
    found = record(tmp_path / "run")
    assert (found.kind, found.step) == ("data", 1)
    assert found.next_steps[-1].command.endswith("--runtime.not-finite skip")


def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")

    monkeypatch.setattr(loop, "train_step", fail)
    run = tmp_path / "run"
    error = ends(replace(small(tmp_path), batch_size=8))
    options = "--batch-size 4"
    if "grad-checkpointing" in record(run).next_steps[0].do:
        options = "--encoder.grad-checkpointing"
    assert_told(run, error, headline=rf"Ran out of memory .*{options}", command=options)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first checkpoint, so that its size tells how much the next one needs."""
    config, run = small(tmp_path), tmp_path / "run"
    save = loop.RunState.save

    def fill(self: Any, folder: RunFolder, progress: dict[str, Any]) -> None:
        if folder.last.is_file():
            full = SimpleNamespace(free=1000)
            monkeypatch.setattr(failure_record.shutil, "disk_usage", lambda path: full)
            raise OSError(28, "No space left on device", str(folder.last))
        save(self, folder, progress)

    monkeypatch.setattr(loop.RunState, "save", fill)
    error = ends(config)
    headline = r"Could not write to the disk after step 8 of 16; free \d+ MiB more \(0 MiB are free, a checkpoint needs"
    assert_told(run, error, headline=headline, command=f"repre pretrain --resume {run}")


def test_a_dead_worker_and_a_mistake_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = small(tmp_path), tmp_path / "run"
    errors: list[Exception] = [RunError("a worker process died", kind="worker"), ZeroDivisionError("by zero")]
    titles = ("A process that reads images died", "Ended by an unexpected ZeroDivisionError")
    for raised, title in zip(errors, titles):

        def fail(*args: Any, error: Exception = raised, **settings: Any) -> None:
            raise error

        monkeypatch.setattr(loop, "train_step", fail)
        error = ends(config)
        assert_told(run, error, headline=f"{title} before the first step", command=f"repre pretrain --resume {run}")


# --------------------------------------------------------------------------------------------------- the record


def test_a_running_run_is_not_called_dead(tmp_path: Path) -> None:
    config = small(tmp_path)
    folder = RunFolder(config.out)
    folder.prepare(config)
    assert read_run(folder.path).running
    assert judge(read_run(folder.path)).headline.startswith("Still running")
    folder.release()
    assert judge(read_run(folder.path)).headline.startswith("Ended without a message before its first logged step")
    folder.lock.unlink()
    assert judge(read_run(folder.path)).headline.startswith("Not finished"), "without a lock nobody can tell"


def test_the_loss_of_a_process_does_not_replace_the_message_of_the_one_that_failed(tmp_path: Path) -> None:
    for kind, message in (("memory", "first"), ("lost", "second")):
        error = RunError(message, kind=kind)  # type: ignore[arg-type]
        failure_record.record_failure(tmp_path, {}, error, kind=error.kind, step=3, total=9)
    assert record(tmp_path).message == "first"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": 1}', '{"next_steps": [3]}'])
def test_a_damaged_record_is_no_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "failure.json").write_text(content)
    assert failure_record.read_failure(tmp_path) is None


def test_the_learning_rate_that_is_advised() -> None:
    advised = [short(lower_lr({"optim": {"lr": lr, "base_batch_size": 256}})) for lr in (1e6, 1e-2, 6e-4, 1.5e-4)]
    assert advised == ["5e-4", "5e-4", "2e-4", "5e-5"]
    assert short(lower_lr({})) == "5e-5"


def test_the_command_line_points_to_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    error = RunError("it broke")
    error.add_note("resume:\n  repre pretrain --resume x")
    error.add_note("report: x/report.html")
    with pytest.MonkeyPatch.context() as patch:

        def fail(config: RunConfig) -> None:
            raise error

        patch.setattr(api, "pretrain", fail)
        assert main(["pretrain"]) == 1
    printed = capsys.readouterr().err
    assert printed == "repre: it broke\nresume:\n  repre pretrain --resume x\nreport: x/report.html\n"
    assert shlex.split(printed.splitlines()[2])[0] == "repre"
