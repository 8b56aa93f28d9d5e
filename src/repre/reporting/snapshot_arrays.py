"""Reads the arrays of a run's snapshots (see `repre.training.monitoring.snapshots`) and skips unknown or damaged ones."""

import zipfile
from pathlib import Path

import numpy as np

MAX_BYTES = 256_000_000
"""Largest unpacked size of one array."""


def read_arrays(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """Reads the arrays by name, all of one length; if they cannot be used, gives none and adds a sentence to `notes`."""
    if not path.is_file():
        return {}
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        with np.load(path, allow_pickle=False) as archive:
            for name, size in sizes.items():
                if size <= MAX_BYTES and name in archive.files and is_valid(name, array := archive[name]):
                    arrays[name] = array
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        notes.append(f"snapshots/features.npz cannot be read ({type(error).__name__}); its images are left out.")
        return {}
    if len({len(array) for array in arrays.values()}) > 1:
        notes.append("snapshots/features.npz contains arrays of different lengths; its images are left out.")
        return {}
    return arrays


def is_valid(name: str, array: np.ndarray) -> bool:
    """Whether an array has the type and the dimensions that snapshots of this name have."""
    if array.size == 0:
        return False
    if name == "patches":
        return array.dtype == np.int8 and array.ndim == 4
    if name in ("neighbors", "neighbor_cosines"):
        return array.ndim == 2 and array.dtype.kind == ("i" if name == "neighbors" else "f")
    if name == "neighbor_images":
        return array.dtype == np.uint8 and array.ndim == 5 and array.shape[-1] == 3
    is_image = name in ("images", "rebuilt") or name.rpartition("_")[0] in ("rebuilt_level", "pca_level")
    return is_image and array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3
