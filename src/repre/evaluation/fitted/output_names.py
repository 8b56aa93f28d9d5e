"""Names for files that are written for images: those of the images, made safe and unique."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 180
"""Bytes of one part of a name; longer ones are cut and end with a hash."""


def output_names(names: Iterable[str]) -> list[str]:
    """Returns a relative path without an ending for every image, such as ``a/photo`` for ``a/photo.jpg``.

    Images that differ in the ending alone keep it (``photo.jpg``, ``photo.png``); of equal names, as in several folders,
    the later ones end with their number. No path leaves its folder, whatever the names are.
    """
    safe = [_safe(name) for name in names]
    stems = [_stem(name) for name in safe]
    counts = Counter(stem.casefold() for stem in stems)
    found: list[str] = []
    used: set[str] = set()
    for number, (name, stem) in enumerate(zip(safe, stems)):
        candidate = stem if counts[stem.casefold()] == 1 else name
        while candidate.casefold() in used:
            candidate = f"{candidate}-{number}"
        used.add(candidate.casefold())
        found.append(candidate)
    return found


def _safe(name: str) -> str:
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return "/".join(map(_safe_part, parts)) or "image"


def _safe_part(part: str) -> str:
    part = re.sub(r'[\x00-\x1f\x7f:*?"<>|]', "-", part)
    encoded = os.fsencode(part)
    if len(encoded) <= LONGEST:
        return part
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: LONGEST - 13].decode('utf-8', 'ignore')}-{digest}"


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{os.path.splitext(file)[0]}"
