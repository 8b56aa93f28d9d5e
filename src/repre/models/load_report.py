"""Reports how start weights were loaded: which tensors an encoder took from a file, and what was adapted, left out or
missing."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from repre.errors import named

SHOWN = 3
"""Names of a list that a message shows."""


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into an encoder. `str` gives it as one line."""

    source: str
    """The file or the published weights."""
    layout: str
    """Whose names the parameters had."""
    part: str = ""
    """Prefix of the encoder in the file; empty where the file is an encoder."""
    left_out: tuple[str, ...] = ()
    """Prefixes of further encoders in the file."""
    loaded: int = 0
    """Tensors that were loaded: their names and shapes match."""
    adapted: tuple[str, ...] = ()
    """Adaptations of shapes, in words."""
    unused: tuple[str, ...] = ()
    """Tensors of the file that are no part of the encoder, such as heads and decoders."""
    missing: tuple[str, ...] = ()
    """Parameters that the file lacks."""
    unexpected: tuple[str, ...] = ()
    """Parameters of the file that the model lacks."""
    misshapen: tuple[str, ...] = ()
    """Parameters whose shape in the file is another one."""

    which: str = ""
    """Whose weights they are, if a run of repre wrote them: the teacher's or the student's."""

    @property
    def is_partial(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def differences(self) -> str:
        """Counts and names of the parameters that do not match; empty where all do."""
        kinds = {
            "missing": self.missing,
            "not in the model": self.unexpected,
            "of another shape": self.misshapen,
        }
        return "; ".join(f"{len(names)} {kind} ({shorten(names)})" for kind, names in kinds.items() if names)

    @property
    def words(self) -> str:
        """What happened, without the name of the file."""
        origin = f"{self.which} weights, {self.layout}" if self.which else self.layout
        if self.part:
            origin += f" under {self.part}"
        if self.left_out:
            origin += f" (not {', '.join(self.left_out)})"
        facts = [f"{self.loaded} tensors loaded, {len(self.missing)} missing, {len(self.unused)} unused", *self.adapted]
        parts = [f"{origin}; {', '.join(facts)}"]
        if self.is_partial:
            parts.append(f"loaded in part: {self.differences()}")
        if self.unused:
            parts.append(f"unused: {by_first_name(self.unused)}")
        return "; ".join(parts)

    def __str__(self) -> str:
        return f"encoder.weights {self.source}: {self.words}"


def shorten(names: Collection[str]) -> str:
    """The first names of a list, and how many follow."""
    return named(names, most=SHOWN)


def by_first_name(names: Collection[str]) -> str:
    """Counts names by what stands before their first dot: ``head.*, decoder_blocks.* (96)``."""
    counts = Counter(name.partition(".")[0] + (".*" if "." in name else "") for name in names)
    return ", ".join(group if count == 1 else f"{group} ({count})" for group, count in sorted(counts.items()))
