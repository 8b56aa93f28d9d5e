"""The Dockerfile, without Docker: what it copies is there, and the wheel that it builds from these files alone runs."""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import repre

ROOT = Path(__file__).parents[1]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/install.md").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.M)


def copied() -> list[tuple[str, str]]:
    """Source and destination of everything that comes from the clone."""
    pairs = []
    for words in (line.split() for line in instructions("COPY") if "--from" not in line):
        pairs += [(source, words[-1]) for source in words[:-1]]
    return pairs


def is_ignored(path: str) -> bool:
    """What .dockerignore says of a path: the last pattern that fits it or a folder above it decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = Path(path).parts
            whole = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            names = parts if "**/" in line else whole
            ignored = not line.startswith("!") if any(fnmatch(name, pattern) for name in names) else ignored
    return ignored


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    assert copied()
    for source, _ in copied():
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
    assert is_ignored(".venv")
    assert is_ignored("runs/photos/log.txt")
    assert is_ignored("src/repre/__pycache__/config.pyc")


def test_it_runs_repre_as_a_user_without_rights() -> None:
    assert instructions("ENTRYPOINT") == ['["repre"]']
    assert instructions("USER") == ["repre"]
    assert instructions("WORKDIR")[-1] in PAGE
    assert yaml.safe_load(instructions("CMD")[0]) == ["--help"]
    for argument in re.findall(r"--build-arg (\w+)=", PAGE):
        assert any(line.startswith(f"{argument}=") for line in instructions("ARG"))


@pytest.mark.slow
def test_the_wheel_of_the_copied_files_runs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed; it is part of repre[dev]")
    source = tmp_path / "source"
    for name, to in copied():
        target = source / to / name if to == "./" else source / to
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    (build,) = (part for line in instructions("RUN") for part in line.split("&&") if "-m build" in part)
    arguments = build.split()
    assert arguments[:4] == ["python", "-m", "build", "--wheel"]
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "wheels")]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(tmp_path / "installed"), str(wheel)], check=True, capture_output=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); import repre; print(repre.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; from repre.cli.main import main; main(['--version'])"],
        cwd=tmp_path,
        env={},
        check=True,
        capture_output=True,
        text=True,
    )
    path, version = ran.stdout.split()
    assert path.startswith(str(tmp_path))
    assert version == repre.__version__
    assert wheel.name in PAGE
