"""Which files of folders and archives are used: patterns of names. It loads no torch, for the help of commands."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FileChoice:
    """Which files of folders, lists and archives are used."""

    include: tuple[str, ...] = ()
    """Use only files whose name in the folder or archive matches one of these patterns; * also matches slashes."""
    exclude: tuple[str, ...] = ()
    """Leave out files that match one of these patterns, such as '*_mask.png'."""
    any_ending: bool = False
    """Also use files in folders that have another ending, or none, but contain an image."""
    masks: Literal["leave", "take"] = "leave"
    """`leave` out masks and other label images that are stored with images and named after them, or `take` them as
    images."""
