"""Errors of the system in words: which path, what helps, and whose mistake it is."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from repre import api
from repre.errors import RunError, UserError
from repre.utils.os_errors import describe_os_error, no_permission, reason_of
from tests.cli.conftest import Repre

LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", LONG),
        ("report", "RUN", "--out", LONG),
        ("pretrain", "--data", LONG, "--out", "o"),
        ("pretrain", "--data", "DATA", "--out", LONG),
        ("pretrain", "--config", LONG),
        ("pretrain", "--resume", LONG),
        ("pretrain", "--from", LONG, "--out", "o"),
        ("eval", "knn", "--encoder", LONG),
        ("eval", "knn", "--encoder", "random:vit_tiny_patch16_224", "--data", f"folder:{LONG}"),
        ("embed", "--encoder", LONG, "--data", "DATA"),
        ("embed", "--encoder", "random:vit_tiny_patch16_224", "--data", LONG),
        ("export", "--encoder", LONG),
        ("export", "--model", LONG),
        ("predict", "--model", LONG, "DATA", "--out", "o"),
        ("reconstruct", "--run", LONG, "a.png"),
        ("plan", "--data", LONG),
        ("compare", LONG),
        ("data", "check", LONG),
        ("data", "shard", LONG, "--out", "o"),
        ("data", "shard", "DATA", "--out", LONG),
        ("data", "scenes", "--out", LONG),
        ("data", "check", "--labels", f"coco:{LONG}"),
    ],
)
def test_names_that_are_too_long(
    arguments: tuple[str, ...], repre: Repre, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = repre(*(str(photos) if argument == "DATA" else argument for argument in arguments))
    assert code == 2, err
    assert err.startswith("repre: ") or "\nrepre: " in err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["file in place of a folder", "loop", "folder in place of a file"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "BAD"),
        ("report", "RUN", "--out", "BAD"),
        ("pretrain", "--data", "BAD", "--out", "o"),
        ("pretrain", "--config", "BAD"),
        ("embed", "--encoder", "BAD", "--data", "DATA"),
        ("embed", "--encoder", "random:vit_tiny_patch16_224", "--data", "BAD"),
        ("predict", "--model", "BAD", "DATA", "--out", "o"),
        ("export", "--encoder", "BAD"),
        ("reconstruct", "--run", "RUN", "BAD"),
        ("data", "check", "BAD"),
    ],
)
def test_paths_of_a_wrong_kind(
    arguments: tuple[str, ...], kind: str, repre: Repre, run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    bad = {"loop": "loop/x", "folder in place of a file": "folder", "file in place of a folder": "file/x"}[kind]
    values = {"BAD": bad, "RUN": str(run_copy), "DATA": str(tmp_path)}
    before = sorted(tmp_path.iterdir())
    code, _, err = repre(*(values.get(argument, argument) for argument in arguments))
    assert code == 2, err
    assert sorted(tmp_path.iterdir()) == before


def raised(number: int, *paths: str) -> OSError:
    names: list[object] = [paths[0], None, paths[1]] if len(paths) > 1 else [*paths]
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (raised(errno.EACCES, "/photos/a/b"), UserError, "/photos/a/b: permission denied"),
        (raised(errno.EPERM, "/photos"), UserError, "permission denied"),
        (raised(errno.EACCES, "/etc/secret"), RunError, "/etc/secret: permission denied"),
        (raised(errno.ENOTDIR, "/photos/a"), UserError, "a folder is needed"),
        (raised(errno.EISDIR, "/photos"), UserError, "a file is needed"),
        (raised(errno.ENOENT, "/photos/7.png"), UserError, "moved or deleted"),
        (raised(errno.ENOENT, "/x", "/photos/7.png"), UserError, "/photos/7.png"),
        (raised(errno.ENOENT, "relative/7.png"), UserError, "moved or deleted"),
        (raised(errno.ENAMETOOLONG, f"/photos/{LONG}"), UserError, "300 bytes"),
        (raised(errno.ELOOP, "/photos/l"), UserError, "links"),
        (raised(errno.ENOSPC, "/photos/x"), RunError, "no space left on device; free some space"),
        (raised(errno.EROFS, "/photos/x"), RunError, "read-only file system"),
        (raised(errno.EMFILE, "/photos/x"), RunError, "ulimit -n"),
        (raised(errno.EMFILE), RunError, "ulimit -n"),
        (raised(errno.ENOMEM), RunError, "memory"),
        (ValueError("embedded null byte"), UserError, "null character"),
    ],
)
def test_what_happened_where_and_a_fix(error: Exception, kind: type[Exception], words: str) -> None:
    described = describe_os_error(error, ["--data", "png:/photos", "--epochs=3"])
    assert isinstance(described, kind)
    assert words in str(described)


@pytest.mark.parametrize(
    "error",
    [
        raised(errno.ENOENT, "/usr/lib/repre/page.html"),
        raised(errno.EISDIR, "/usr/lib/repre"),
        raised(errno.EINVAL, "/photos/x"),
        raised(errno.EBADF),
        OSError("no number"),
        ValueError("a bug"),
    ],
)
def test_mistakes_of_the_program_keep_their_traceback(error: Exception) -> None:
    assert describe_os_error(error, ["--data", "/photos"]) is None


def test_debug_shows_every_traceback(monkeypatch: pytest.MonkeyPatch, repre: Repre) -> None:
    monkeypatch.setenv("REPRE_DEBUG", "1")
    with pytest.raises(OSError, match="too long"):
        repre("report", LONG)


def test_a_cache_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path))
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        described = describe_os_error(raised(number, str(tmp_path / "maps" / "x")), [])
        assert isinstance(described, RunError)
        assert "REPRE_CACHE" in str(described)


def test_the_message_is_one_line_for_any_name(repre: Repre, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise raised(errno.EACCES, "/photos/a\nb\x1b[31m" + "c" * 500)

    monkeypatch.setattr(api, "report", fail)
    code, _, err = repre("report", "/photos")
    assert (code, err.count("\n")) == (2, 1)
    assert "a\\nb\\x1b[31m" in err
    assert len(err) < 400


def test_a_working_folder_that_is_gone(repre: Repre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    code, _, err = repre("pretrain", "--data", "x", "--out", "y")
    assert code in (1, 2), err
    assert "repre: " in err


def test_a_reason_names_the_folder_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter every folder; tests/faults/hostile.py takes this right away."""
    error = raised(errno.EACCES, str(tmp_path / "closed" / "a" / "b.png"))
    (tmp_path / "closed").mkdir()
    assert reason_of(error) == "Permission denied"
    assert no_permission(error) == "no permission to read it"  # type: ignore[arg-type]
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "closed")
    folder = f"you may not enter the folder {tmp_path / 'closed'}"
    assert reason_of(error) == f"Permission denied: {folder}"
    assert no_permission(error) == f"no permission to read it: {folder}"  # type: ignore[arg-type]
    assert reason_of(raised(errno.ENOSPC, str(tmp_path))) == "No space left on device"
    assert reason_of(ValueError("embedded null byte")) == "embedded null byte"
