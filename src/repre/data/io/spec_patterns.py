"""Several paths written as one: numbered shards in braces, as WebDataset writes them, and the patterns of a shell."""

import glob
import itertools
import os
import re
from pathlib import Path

from repre.errors import UserError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_PATHS = 1_000_000
"""A pattern in braces that stands for more is refused."""


def expand_braces(spec: str) -> list[str]:
    """``a-{00..02}.tar`` stands for a-00.tar, a-01.tar and a-02.tar, ``{a,b}.tar`` for a.tar and b.tar.

    Raises:
        UserError: a range is empty, or the pattern stands for a million paths or more.
    """
    choices: list[list[str]] = []
    position = count = 0
    for found in BRACES.finditer(spec):
        options = _options(spec, found[1])
        choices += [[spec[position : found.start()]], options]
        position = found.end()
        count = max(count, 1) * len(options)
        if count > MAX_PATHS:
            raise UserError(f"--data {spec} stands for more than {MAX_PATHS} paths; name fewer")
    return ["".join(parts) for parts in itertools.product(*choices, [spec[position:]])]


def _options(spec: str, inside: str) -> list[str]:
    if (numbers := RANGE.fullmatch(inside)) is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if not first <= last < first + MAX_PATHS:
        raise UserError(f"--data {spec}: the range {inside} is empty or too long; write {{0000..0099}}")
    return [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]


def has_pattern(spec: str) -> bool:
    """Whether a path is a pattern of a shell, such as ``photos/*/raw``."""
    return glob.has_magic(spec)


def expand_pattern(spec: str) -> tuple[Path, list[str]]:
    """The folder before the first part with a pattern, and what matches, relative to it and sorted by its bytes.

    Raises:
        UserError: nothing matches.
    """
    parts = Path(spec).expanduser().parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    found = glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True)
    if not found:
        raise UserError(f"--data {spec}: nothing matches; quote the pattern so that the shell leaves it alone")
    return root, sorted(found, key=os.fsencode)
