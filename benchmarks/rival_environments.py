"""An environment of its own for every rival, under benchmarks/envs, with the torch, timm and pillow of this one."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RIVALS = {"lightly": "1.6.0", "lightly-train": "0.18.0", "stable-pretraining": "0.1.8"}
"""Packages and the versions that the published figures are about."""
SAME = ("torch", "torchvision", "timm", "pillow")


def interpreter(rival: str) -> Path:
    return HERE / "envs" / rival / "bin" / "python"


def make(rival: str, *, share: bool) -> Path:
    """The rival's interpreter; its environment is made where there is none.

    Args:
        share: see this environment's packages instead of installing torch once more, which saves some GiB.
    """
    python = interpreter(rival)
    if python.exists():
        return python
    folder = HERE / "envs" / rival
    print(f"making {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = [f"{rival}=={RIVALS[rival]}"]
    if share:
        import torch

        site = next(folder.glob("lib/python*/site-packages"))
        (site / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    else:
        wanted += [f"{package}=={version(package).split('+')[0]}" for package in SAME]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python
