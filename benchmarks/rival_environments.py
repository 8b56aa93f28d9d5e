"""One virtual environment per rival library, in benchmarks/envs, with the torch, timm and Pillow of this environment."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RIVALS = {"lightly": "1.6.0", "lightly-train": "0.18.0", "stable-pretraining": "0.1.8"}
"""Package -> version of the published results."""
SHARED_VERSIONS = ("torch", "torchvision", "timm", "pillow")


def interpreter(rival: str) -> Path:
    """Returns the Python interpreter of a rival's environment, which may not exist yet."""
    return HERE / "envs" / rival / "bin" / "python"


def ensure_environment(rival: str, *, share: bool) -> Path:
    """Returns the interpreter of a rival's environment; creates the environment if it is missing.

    Args:
        share: use the packages of this environment instead of installing torch again, which saves some GiB.
    """
    python = interpreter(rival)
    if python.exists():
        return python
    folder = HERE / "envs" / rival
    print(f"creating {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    requirements = [f"{rival}=={RIVALS[rival]}"]
    if share:
        import torch

        site_packages = next(folder.glob("lib/python*/site-packages"))
        (site_packages / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    else:
        requirements += [f"{package}=={version(package).split('+')[0]}" for package in SHARED_VERSIONS]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python
