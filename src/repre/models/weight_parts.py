"""Finds the encoder among the tensors of a file: the prefix of its names, and the other tensors."""

import re
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor

DEEPEST = 8
"""Levels of dictionaries that are searched for tensors."""
TEACHERS = re.compile(r"teacher|(?:^|_)ema(?:_|$)|target_(?:encoder|network)")
"""Names of averaged copies that the authors evaluate and publish; taken first."""
STUDENTS = re.compile(r"student|momentum|(?:^|_)k$")
"""Names of copies that are taken last. MoCo and MoBY average theirs too, but evaluate and publish the other one."""
NO_ENCODERS = re.compile(r"decoder|predictor")
"""Parts of a file whose names may look like an encoder's."""


class EncoderPart(NamedTuple):
    """Where the encoder's tensors lie in a file."""

    prefix: str
    """What stands before their names, with the last dot."""
    left_out: tuple[str, ...]
    """Prefixes of further encoders of this kind, such as the student beside the teacher."""


def flatten(content: Any) -> dict[str, Tensor]:
    """All tensors in nested dictionaries, by their keys joined with dots. Other values are left out."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(value: dict[Any, Any], prefix: str, depth: int) -> None:
        if id(value) in seen or depth > DEEPEST:
            return
        seen.add(id(value))
        for key, item in value.items():
            if isinstance(item, Tensor):
                tensors[f"{prefix}{key}"] = item
            elif isinstance(item, dict):
                visit(item, f"{prefix}{key}.", depth + 1)

    if isinstance(content, dict):
        visit(content, "", 0)
    return tensors


def find_encoder(names: Collection[str], model_keys: Collection[str]) -> EncoderPart:
    """Finds the prefix under which the most names of the model's parameters lie.

    Of several encoders (half of the best one's names make one), a teacher or average comes first and a student last.

    Args:
        names: of the tensors in a file, in timm's or Meta's layout.
        model_keys: names of the model's parameters.
    """
    keys, counts = set(model_keys), Counter[str]()
    for name in names:
        start = 0
        while True:
            if name[start:] in keys:
                counts[name[:start]] += 1
            if (dot := name.find(".", start)) < 0:
                break
            start = dot + 1
    for prefix in [prefix for prefix in counts if NO_ENCODERS.search(prefix)]:
        del counts[prefix]
    if not counts:
        return EncoderPart("", ())
    most = max(counts.values())
    prefixes = sorted(
        (prefix for prefix, count in counts.items() if 2 * count >= most),
        key=lambda prefix: (_rank(prefix), -counts[prefix], len(prefix)),
    )
    return EncoderPart(prefixes[0], tuple(prefixes[1:]))


def _rank(prefix: str) -> int:
    words = prefix.split(".")
    if any(TEACHERS.search(word) for word in words):
        return 0
    return 2 if any(STUDENTS.search(word) for word in words) else 1
