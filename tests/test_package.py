"""What `import repre` offers is there, and importing it loads no torch."""

import subprocess
import sys

import repre


def test_every_public_name_is_found_and_listed() -> None:
    for name in repre.__all__:
        assert getattr(repre, name).__name__ == name if name != "RECIPES" else repre.RECIPES
    assert set(repre._HOME) == set(repre.__all__)
    assert set(repre.__all__) < set(dir(repre))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import repre, sys; repre.UserError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(repre, "nothing")
