"""Rates leave out what is no training; messages survive names that are not UTF-8."""

from dataclasses import replace
from pathlib import Path

import pytest

from repre.training import run_log
from repre.training.run_folder import RunFolder
from repre.training.run_log import RunLog, Throughput
from tests.training.toy import toy


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(run_log.time, "monotonic", lambda: self.now)


def test_the_rate_after_a_validation_is_that_of_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    throughput = Throughput(batch_size=32, step=10)
    clock.now += 4  # 5 steps
    with throughput.paused():
        clock.now += 100  # a validation
    clock.now += 4  # 5 more
    throughput.add_wait(2)
    assert throughput.read(20) == pytest.approx({"images_per_s": 10 * 32 / 8, "data_wait": 0.25})
    clock.now += 2
    assert throughput.read(24) == pytest.approx({"images_per_s": 4 * 32 / 2, "data_wait": 0.0})
    assert throughput.total_waited == 2


def test_the_share_of_the_devices_peak_is_logged_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    throughput = Throughput(batch_size=32, step=0, peak_images_per_s=160.0)
    clock.now += 2
    assert throughput.read(5)["mfu"] == pytest.approx(5 * 32 / 2 / 160)


def test_messages_go_to_the_log_and_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toy(tmp_path)
    log = RunLog(replace(config, out=str(tmp_path)), RunFolder(tmp_path))
    log.message("unreadable: \udcff.png")
    log.start_progress(step=0, total=10, steps_per_epoch=5)
    log.message("step 1")
    log.close()
    assert capsys.readouterr().out.splitlines() == ["unreadable: \\udcff.png", "step 1"]
    assert (tmp_path / "log.txt").read_text().splitlines() == ["unreadable: \\udcff.png", "step 1"]
