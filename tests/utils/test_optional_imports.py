"""Libraries of extras: what is missing is named with a command that installs it."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from repre.errors import UserError
from repre.utils.optional_imports import install_command, require

METADATA = [
    "torch>=2.11",
    'big-cat>=2; extra == "zoo"',
    "cat[fur] ; python_version > '3' and extra=='zoo'",
    "x; extra == 'z'",
]


def test_a_library_that_is_there_is_returned() -> None:
    assert require("json.decoder", extra="zoo", purpose="--data x").JSONDecoder


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: METADATA)
    for module in ("no_cat", "no_cat.paw"):
        with pytest.raises(UserError) as error:
            require(module, extra="zoo", purpose="--data zoo:a")
        expected = "--data zoo:a needs no_cat, which is not installed; run: pip install 'big-cat>=2' 'cat[fur]'"
        assert str(error.value) == expected


def test_without_metadata_the_clone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: METADATA)
    assert install_command("nothing") == "pip install -e '.[nothing]' in the folder of the clone"

    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("zoo") == "pip install -e '.[zoo]' in the folder of the clone"


def test_a_library_that_breaks_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_cat.py").write_text("import no_tail_here")
    (tmp_path / "halved_cat.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    for module, words in (("broken_cat", "no_tail_here"), ("halved_cat", "no_such_name")):
        with pytest.raises(UserError, match=rf"needs {module}, which cannot be imported \(.*{words}"):
            require(module, extra="zoo", purpose="--data x")


def test_it_needs_no_torch() -> None:
    code = "import sys, repre.utils.optional_imports; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
