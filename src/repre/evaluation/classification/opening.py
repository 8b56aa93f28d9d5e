"""Opens the encoder and the labeled images of an evaluation by classes."""

from typing import Protocol

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.problems import Problems
from repre.evaluation.features import Transform, eval_transform
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.image_size import Size


class ClassConfig(Protocol):
    """What the configs of evaluations by classes have in common."""

    @property
    def data(self) -> str: ...
    @property
    def test(self) -> str | None: ...
    @property
    def accept_labels(self) -> bool: ...
    @property
    def size(self) -> Size | None: ...
    @property
    def crop_pct(self) -> float | None: ...
    @property
    def value_range(self) -> tuple[float, float] | None: ...
    @property
    def seed(self) -> int: ...


def open_for(resolved: ResolvedEncoder, config: ClassConfig) -> tuple[Encoder, Transform, LabeledSplits]:
    """Returns the encoder on the CPU, its test transform, and the labeled images.

    Raises:
        UserError: a mistake in the data or the config.
    """
    encoder = resolved.build(image_size=config.size, seed=config.seed)
    transform = eval_transform(resolved, encoder, crop_pct=config.crop_pct, value_range=config.value_range)
    splits = open_labeled(
        config.data,
        test=config.test,
        problems=Problems(accept=config.accept_labels),
        **transform.decoding(encoder.config.channels),
    )
    return encoder, transform, splits
