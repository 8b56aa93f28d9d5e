"""The result of an evaluation, and what defines it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repre.config_values import to_dict
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.data.labels.same_images import Fingerprinted
from repre.evaluation.fitted.fitted_model import FittedModel
from repre.models.resolve import GIVEN, ResolvedEncoder
from repre.utils.io import json_hash
from repre.utils.printable_text import say

NO_EFFECT = ("runtime", "save_predictions", "save_encoder", "accept_labels")
"""Fields of a config that change no metric."""


@dataclass(frozen=True)
class Result:
    """The result of one evaluation of one encoder.

    Attributes:
        metrics: values by name; shares lie in [0, 1].
        main: name of the metric to compare encoders by.
        details: plain values for the stored JSON: metrics per class, counts, chosen settings, seconds.
        higher_is_better: whether a higher main metric is better.
        fitted: the model that was fitted on the largest label fraction, to keep beside the result; None if nothing was.
    """

    metrics: dict[str, float]
    main: str
    details: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
    fitted: FittedModel | None = field(default=None, compare=False, repr=False)


def definition(evaluation: str, resolved: ResolvedEncoder, config: Any) -> dict[str, Any]:
    """Returns what defines a result: the evaluation, the encoder with its weights, and the config."""
    given = {"mean": resolved.mean, "std": resolved.std} if resolved.of_pixels == GIVEN else {}
    return {
        "evaluation": evaluation,
        "encoder": to_dict(resolved.config) | {"weights": resolved.fingerprint} | given,
        "config": {name: value for name, value in to_dict(config).items() if name not in NO_EFFECT},
    }


def pair_identity(*parts: Fingerprinted) -> str:
    """A hash of which files the training and the test images are."""
    return json_hash([part.fingerprint() for part in parts], length=16)


def data_details(train: Fingerprinted, test: Fingerprinted, named: str | None, notes: Sequence[str]) -> dict[str, Any]:
    """Prints the notes on the data of a dense evaluation; returns what its result says about them.

    Args:
        named: other data to test on, if the user named any.
    """
    for note in notes:
        say(note)
    test_set = named or ("held out" if HELD_OUT_NOTE in notes else "val")
    return {"notes": list(notes), "data_identity": pair_identity(train, test), "test_set": test_set}
