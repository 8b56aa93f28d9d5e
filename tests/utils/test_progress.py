"""Progress on a terminal and elsewhere."""

import re
import sys

import pytest

from repre.utils.progress import Progress

ROW = {"loss": 1.23456, "lr": 1e-3, "images_per_s": 812.4, "data_wait": 0.05, "pixel": None, "knn": 0.5}


def test_lines_give_epoch_remaining_time_and_known_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(start=0, total=20, steps_per_epoch=10)
    progress.update(11, ROW)
    progress.update(12, None)
    progress.update(13, ROW)  # too soon after the line before
    progress.update(20, ROW)  # the last one always
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    metrics = r"loss 1\.235 lr 1\.0e-03 812 img/s data wait 5%"
    assert re.fullmatch(rf"step 11/20 epoch 2/2 left \d+:\d\d {metrics}", lines[0])
    assert re.fullmatch(rf"step 20/20 epoch 2/2 left 0:00 {metrics}", lines[1])
    assert len(lines) == 2


def test_other_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(start=0, total=2, steps_per_epoch=1, enabled=False)
    progress.update(2, ROW)
    progress.write("a message")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_with_messages_above(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(start=1, total=4, steps_per_epoch=2)
    progress.update(2, ROW)
    progress.write("a message")
    for step in (3, 4):
        progress.update(step, ROW)
    progress.close()
    out, err = capsys.readouterr()
    assert out == "a message\n"
    assert "epoch 2/2" in err
    assert "4/4" in err
