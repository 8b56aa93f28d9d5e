"""The small files of a run survive incomplete lines, long logs and a second process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repre.config import RunConfig, load_yaml
from repre.errors import UserError
from repre.training import run_folder
from repre.training.loop import train
from repre.training.run_folder import RunFolder
from repre.utils import folder_lock
from tests.training.toy import toy


def prepared(tmp_path: Path) -> tuple[RunFolder, RunConfig]:
    config = toy(tmp_path / "run")
    folder = RunFolder(config.out)
    assert not folder.prepare(config)
    return folder, config


@pytest.mark.parametrize(
    "incomplete", [b'{"step": 3, "lo', b"\x00\x00\x00\x00", b'\xff\xfe{"step"', b'{"loss": 1.0}\n', b"7\n"]
)
def test_metrics_survive_an_incomplete_line(tmp_path: Path, incomplete: bytes) -> None:
    folder, _ = prepared(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step, "loss": float("nan")})
    with open(folder.metrics, "ab") as file:
        file.write(incomplete)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2]
    folder.discard_after(2)
    folder.append_metrics({"step": 3})
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]


def test_every_step_is_logged_once_after_a_restart(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    for step in (1, 2, 2, 3, 4):
        folder.append_metrics({"step": step})
        folder.append_not_finite({"step": step})
    folder.append_list(folder.changed, ["a.jpg"])
    folder.discard_after(3)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3]
    assert "4" not in folder.not_finite.read_text()
    assert folder.changed.exists()
    folder.discard_after(0)  # a run that starts again
    assert folder.read_metrics() == []
    assert not folder.changed.exists()


def test_the_csv_has_a_column_for_every_name(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    folder.append_metrics({"step": 1, "loss": 2.5})
    folder.append_metrics({"step": 2, "loss": float("inf"), "rankme": 3.0})
    folder.write_csv()
    assert folder.csv.read_text().splitlines() == ["step,loss,rankme", "1,2.5,", "2,,3.0"]


def test_lists_hold_file_names_as_they_are_on_the_disk(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    names = [b"a\xff.jpg", "ü.jpg".encode()]
    folder.write_list(folder.unreadable, [os.fsdecode(names[0])])
    folder.append_list(folder.unreadable, [os.fsdecode(names[1])])
    assert folder.unreadable.read_bytes().splitlines() == names


def test_alarms_are_written_once_there_are_any(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    folder.write_alarms([])
    assert not folder.alarms.exists()
    folder.write_alarms([{"step": 1, "value": float("nan")}])
    assert folder.alarms.read_text() == '{"step": 1, "value": null}\n'
    folder.write_alarms([])
    assert folder.alarms.read_text() == ""


def test_another_run_is_refused_with_its_differences(tmp_path: Path) -> None:
    folder, config = prepared(tmp_path)
    folder.last.write_bytes(b"a checkpoint")
    folder.release()
    with pytest.raises(UserError, match=r"another config:\n  seed: 7 here, 0 there\nname another --out"):
        RunFolder(config.out).prepare(replace(config, seed=7))
    same = RunFolder(config.out)
    assert not same.prepare(replace(config, runtime=replace(config.runtime, log_every=5)))  # runtime may change
    same.release()


def test_a_run_that_saved_nothing_gives_way_to_corrected_settings(tmp_path: Path) -> None:
    folder, config = prepared(tmp_path)
    folder.append_metrics({"step": 1})
    folder.append_log("the first settings")
    (tmp_path / "run/notes.txt").write_text("of the user")
    folder.release()
    again = RunFolder(config.out)
    assert not again.prepare(replace(config, seed=7))
    again.release()
    assert load_yaml(again.config).seed == 7
    assert not again.metrics.exists()
    assert not again.log.exists()
    assert (tmp_path / "run/notes.txt").is_file()


def test_a_finished_run_is_recognized_and_other_files_are_refused(tmp_path: Path) -> None:
    folder, config = prepared(tmp_path)
    folder.summary.write_text("{}")
    assert RunFolder(config.out).prepare(config)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run of repre"):
        RunFolder(tmp_path / "other").prepare(config)
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "other" / "notes.txt").prepare(config)


def test_long_logs_rotate_and_the_oldest_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "MAX_LOG_BYTES", 100)
    folder, _ = prepared(tmp_path)
    for number in range(60):
        folder.append_log(f"line {number}: \udcff")  # a file name that is not UTF-8
    logs = sorted(p.name for p in folder.path.glob("log*.txt"))
    assert logs == ["log.1.txt", "log.2.txt", "log.3.txt", "log.txt"]
    assert "line 59: \\udcff" in folder.log.read_text()
    assert all((folder.path / name).stat().st_size < 200 for name in logs)


@pytest.mark.skipif(folder_lock.fcntl is None, reason="no locks on this system")
def test_a_second_process_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "LOCK_TIMEOUT", 0.0)
    folder, config = prepared(tmp_path)
    folder.release()
    code = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match=r"another process \(\d+\) is writing"):
            RunFolder(config.out).prepare(config)
        holder.communicate(b"\n")
    assert not RunFolder(config.out).prepare(config)  # the lock ended with the process


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.fsync", read_only)
    config = toy(tmp_path / "run")
    with pytest.raises(UserError, match=r"Read-only file system.*name another folder"):
        RunFolder(config.out).prepare(config)


def test_files_of_a_start_that_was_killed_before_its_config_are_accepted(tmp_path: Path) -> None:
    config = toy(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for name in (".lock", ".config.yaml.partial"):
        (tmp_path / "run" / name).write_text("half")
    assert not RunFolder(config.out).prepare(config)


def test_a_refused_command_leaves_no_folder_and_the_corrected_one_may_use_it(tmp_path: Path) -> None:
    folder, config = prepared(tmp_path)
    folder.release()
    again = RunFolder(config.out)
    again.prepare(config)
    again.withdraw()  # it did not begin the run
    again.release()
    assert folder.config.is_file()
    for data in (str(tmp_path / "nowhere"), "scenes:2:32"):  # fewer images than a batch
        new = replace(config, out=str(tmp_path / "new"), data=data)
        with pytest.raises(UserError, match=r"no folder|batch"):
            train(replace(new, out=str(tmp_path / "parents/new")))
        assert not (tmp_path / "parents").exists()


def test_a_run_without_a_readable_image_says_why(tmp_path: Path) -> None:
    config = toy(tmp_path / "run", data=str(tmp_path / "photos"))
    (tmp_path / "photos").mkdir()
    for number in range(config.batch_size):
        (tmp_path / f"photos/{number:03}.png").write_text("no picture")
    with pytest.raises(UserError, match=r"none of .* sampled images of .* can be read, such as .*\.png: not an image"):
        train(config)


def test_every_environment_of_a_run_is_kept_and_a_new_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = prepared(tmp_path)

    def begin_with(threads: int) -> str | None:
        monkeypatch.setattr(run_folder, "environment", lambda: {"torch": "2.13", "threads": threads})
        return folder.begin(config)

    assert begin_with(1) is None
    assert begin_with(1) is None
    said = begin_with(2)
    assert said is not None
    assert "not bit-equal" in said
    assert "threads 2, before 1" in said
    assert "torch" not in said
    assert begin_with(2) is None
    assert begin_with(4) is not None
    kept = json.loads(folder.environment.read_text())
    assert [kept["threads"], *(one["threads"] for one in kept["earlier"])] == [4, 1, 2]
    folder.release()
