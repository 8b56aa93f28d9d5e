"""Reads the snapshots of a run (see `repre.training.monitoring.snapshots`); what is foreign or damaged is left out."""

import zipfile
from pathlib import Path

import numpy as np

LARGEST = 256_000_000
"""Bytes that one array may unpack to."""


def read_arrays(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """The arrays by name, of one length; empty, with a word in `notes`, where they cannot be used."""
    if not path.is_file():
        return {}
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        with np.load(path, allow_pickle=False) as archive:
            for name, size in sizes.items():
                if size <= LARGEST and name in archive.files:
                    array = archive[name]
                    if fits(name, array):
                        found[name] = array
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        notes.append(f"snapshots/features.npz cannot be read ({type(error).__name__}); its pictures are left out.")
        return {}
    count = {len(array) for array in found.values()}
    if len(count) > 1:
        notes.append("snapshots/features.npz holds arrays of different lengths; its pictures are left out.")
        return {}
    return found


def fits(name: str, array: np.ndarray) -> bool:
    """Whether an array is what the snapshots of that name have to be."""
    if array.size == 0:
        return False
    if name == "patches":
        return array.dtype == np.int8 and array.ndim == 4
    if name in ("neighbors", "neighbor_cosines"):
        return array.ndim == 2 and array.dtype.kind == ("i" if name == "neighbors" else "f")
    if name == "neighbor_images":
        return array.dtype == np.uint8 and array.ndim == 5 and array.shape[-1] == 3
    known = name in ("images", "rebuilt") or name.rpartition("_")[0] in ("rebuilt_level", "pca_level")
    return known and array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3
