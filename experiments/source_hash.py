"""A hash of the code that results depend on, which every result holds."""

import hashlib
from pathlib import Path

import repre

HASHED_MODULES = (
    "build_scenes", "compose_scenes", "source_images", "debian_packages", "datasets", "measure", "time_ratio", "real_images",
    "fair_ends",
)  # fmt: skip
"""Modules of this folder that results depend on."""


def source_hash() -> str:
    """Returns a short hash of the code that results depend on: the package, and `HASHED_MODULES`."""
    package, here = Path(repre.__file__).parent, Path(__file__).parent
    paths = [*sorted(package.rglob("*.py")), *(here / f"{name}.py" for name in HASHED_MODULES)]
    parts = [f"{path.parent.name}/{path.name}".encode() + path.read_bytes() for path in paths]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]
