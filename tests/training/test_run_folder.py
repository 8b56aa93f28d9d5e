"""The small files of a run survive torn lines, long logs and a second process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repre.config import RunConfig
from repre.errors import UserError
from repre.training import run_folder
from repre.training.run_folder import RunFolder
from tests.training.toy import toy


def claimed(tmp_path: Path) -> tuple[RunFolder, RunConfig]:
    config = toy(tmp_path / "run")
    folder = RunFolder(config.out)
    assert not folder.claim(config)
    return folder, config


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "lo', b"\x00\x00\x00\x00", b'\xff\xfe{"step"', b'{"loss": 1.0}\n', b"7\n"]
)
def test_metrics_survive_a_torn_line(tmp_path: Path, torn: bytes) -> None:
    folder, _ = claimed(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step, "loss": float("nan")})
    with open(folder.metrics, "ab") as file:
        file.write(torn)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2]
    folder.trim(2)
    folder.append_metrics({"step": 3})
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]


def test_trim_keeps_each_step_once_and_drops_what_was_not_saved(tmp_path: Path) -> None:
    folder, _ = claimed(tmp_path)
    for step in (1, 2, 2, 3, 4):
        folder.append_metrics({"step": step})
        folder.append_not_finite({"step": step})
    folder.trim(3)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2, 3]
    assert "4" not in folder.not_finite.read_text()


def test_long_logs_rotate_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "LOG_BYTES", 100)
    folder, _ = claimed(tmp_path)
    for number in range(60):
        folder.append_log(f"line {number}: \udcff")  # a name that is no UTF-8
    logs = sorted(p.name for p in folder.path.glob("log*.txt"))
    assert logs == ["log.1.txt", "log.2.txt", "log.3.txt", "log.txt"]
    assert "line 59: \\udcff" in folder.log.read_text()
    assert all((folder.path / name).stat().st_size < 200 for name in logs)


@pytest.mark.skipif(run_folder.fcntl is None, reason="no locks on this system")
def test_a_second_process_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    folder, config = claimed(tmp_path)
    folder.release()
    code = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is writing"):
            RunFolder(config.out).claim(config)
        other.communicate(b"\n")
    assert not RunFolder(config.out).claim(config)  # the lock went with the process


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*names: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.fsync", read_only)
    config = toy(tmp_path / "run")
    with pytest.raises(UserError, match=r"Read-only file system.*name another folder"):
        RunFolder(config.out).claim(config)


def test_a_start_that_was_killed_before_its_config_is_no_hindrance(tmp_path: Path) -> None:
    config = toy(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for name in (".lock", ".config.yaml.partial"):
        (tmp_path / "run" / name).write_text("half")
    assert not RunFolder(config.out).claim(config)
