"""Progress on a terminal and elsewhere."""

import re
import sys
import time

import pytest

from repre.utils.progress import Progress, track
from tests.terminal import output_on_terminal

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
    assert re.fullmatch(rf"step 11/20 epoch 2/2 left \? {metrics}", lines[0])
    assert re.fullmatch(rf"step 20/20 epoch 2/2 left 0:00 {metrics}", lines[1])
    assert len(lines) == 2


def test_the_remaining_time_leaves_out_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It compiles, which may take as long as hundreds of others."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(start=0, total=100, steps_per_epoch=10)
    for step, seconds in ((1, 80), (2, 6), (3, 6)):
        now += seconds
        progress.update(step, ROW)
    assert re.findall(r"left (\S+)", capsys.readouterr().out) == ["?", "9:48", "9:42"]


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


LONG_RUN = """
import time
from repre.utils.progress import Progress
row = {"loss": 12.34567, "contrastive": 11.23456, "pixel": 1.23456, "lr": 1.5e-4, "images_per_s": 12345.6, "mfu": 0.41,
       "data_wait": 0.05}
progress = Progress(start=0, total=900_000, steps_per_epoch=900)
progress._first = 1, time.monotonic() - 9 * 3600
for step in (450_000, 450_001):
    progress.update(step, row)
    progress._bar.refresh()
progress.write("a message")
progress.close()
"""
COUNTED = """
import sys, time
from repre.utils.progress import ItemCount
with ItemCount("images", total=1_281_167, keep=True) as counter:
    for _ in range(3):
        counter.update(123_456)
        time.sleep(0.15)
"""


def on_terminal(code: str, columns: int) -> list[str]:
    """What a program writes to a terminal of so many columns: every state of every line."""
    printed = output_on_terminal([sys.executable, "-c", code], columns=columns)
    return [line for line in re.split(r"[\r\n]|\x1b\[[A-Z]", printed.decode()) if line.strip()]


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_the_bar_shows_what_matters_and_wraps_nothing(columns: int) -> None:
    lines = on_terminal(LONG_RUN, columns)
    assert all(len(line) < columns for line in lines)
    newest = [line for line in lines if "left" in line][-1]
    assert re.search(r"left (8:59:\d\d|9:00:00) 12346 img/s data wait 5%", newest)
    assert ("epoch 501/1000 50%" in newest) == (columns > 40)
    assert ("loss 12.346" in newest) == (columns == 80)
    assert any(line.strip() == "a message" for line in lines)


def test_a_wide_terminal_shows_everything_and_a_bar() -> None:
    newest = [line for line in on_terminal(LONG_RUN, 200) if "left" in line][-1]
    assert re.match(r"epoch 501/1000 50% 450001/900000 left \S+ 12346 img/s data wait 5% loss 12\.346 ", newest)
    assert re.search(r"contrastive 11\.235 pixel 1\.235 lr 1\.5e-04 41% MFU \|.+\|$", newest)


@pytest.mark.parametrize("columns", [80, 60])
def test_a_count_wraps_nothing(columns: int) -> None:
    lines = on_terminal(COUNTED, columns)
    assert all(len(line) <= columns for line in lines)
    assert "370368/1281167" in lines[-1]


def test_a_file_gets_counts_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in track(range(40), "embed", total=40):
        now[0] += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [  # after 5 seconds, then 10, then 20
        "embed: 6/40 images, left 0:34",
        "embed: 17/40 images, left 0:23",
        "embed: 38/40 images, left 0:02",
    ]


def test_a_count_without_a_total_and_in_another_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("repre.utils.progress.FIRST_COUNT_SECONDS", -1.0)
    assert list(track(iter("ab"), "list s3://photos", total=None, unit="file")) == ["a", "b"]
    assert capsys.readouterr().err.splitlines()[0] == "list s3://photos: 1 files"
    monkeypatch.setenv("RANK", "1")
    list(track(range(3), "images", total=3))
    assert capsys.readouterr().err == ""
