"""What an evaluation says: figures, the one that counts, and what a reader may want beside them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """The outcome of one evaluation of one encoder.

    Attributes:
        metrics: figures by name; shares in [0, 1].
        main: the name of the figure to compare encoders by.
        details: plain values for the JSON beside the encoder: per-class figures, what was chosen, counts, seconds.
        higher_is_better: of the main figure.
    """

    metrics: dict[str, float]
    main: str
    details: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
