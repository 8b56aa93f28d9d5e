"""The rules of the alarms: which values of a metric indicate a failing run, the likely cause, and the fix.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from repre.training.monitoring.limits import MAX_GRADIENT_RATIO, MIN_GRADIENT_COSINE, MIN_GRADIENT_RATIO

Scope = Literal["validation", "step"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A range of values of one metric; exactly one of the two limits is set.

    Attributes:
        monitor: name of the metric; * stands for any ending.
        below, above: the value must be strictly below or above this.
    """

    monitor: str
    below: float | None = None
    above: float | None = None

    def contains(self, value: float) -> bool:
        if self.below is not None:
            return value < self.below
        assert self.above is not None, "a bound has a limit"
        return value > self.above


@dataclass(frozen=True, kw_only=True)
class Rule(Bound):
    """Raises an alarm when a metric lies beyond its limit several times in a row.

    Attributes:
        scope: whether the metric comes from validations or from logged steps.
        start_ratio: if set, the value must also lie below (above) this multiple of the metric's first value.
        only_if: a second metric of the same validation or step, which must lie in this range too.
        patience: how many times in a row.
        after: share of the run before which the rule is silent.
        of_contrast: whether only a framework that trains the embedding has to keep the metric within its limit. Without one
            a class token may give all images the same embedding.
        cause, fix: one clause and one sentence for the user.
    """

    scope: Scope
    start_ratio: float | None = None
    only_if: Bound | None = None
    patience: int = 1
    after: float = 0.0
    of_contrast: bool = False
    cause: str
    fix: str

    def limit(self, start: float) -> float:
        """The value beyond which the rule is violated.

        Args:
            start: first value of the metric in the run.
        """
        if self.below is not None:
            return self.below if self.start_ratio is None else min(self.below, self.start_ratio * start)
        assert self.above is not None, "a rule has a limit"
        return self.above if self.start_ratio is None else max(self.above, self.start_ratio * start)

    def is_violated(self, value: float, start: float, metrics: Mapping[str, Any]) -> bool:
        """Whether one value of the metric lies beyond the limit.

        Args:
            start: first value of the metric in the run.
            metrics: all metrics of the same validation or step, for `only_if`.
        """
        if self.only_if is not None:
            other = metrics.get(self.only_if.monitor)
            if other is None or not self.only_if.contains(other):
                return False
        return value < self.limit(start) if self.below is not None else value > self.limit(start)


RULES: tuple[Rule, ...] = (
    # ---------------------------------------------------------------------------------------------------- the data
    Rule(
        monitor="distinct_images",
        scope="validation",
        below=0.5,
        cause="more than half of the sampled images are copies of others",
        fix="Check --data for a folder of duplicates, one file many times, or frames of a still video; keep one of each",
    ),
    # ------------------------------------------------------------------------------------------------- the optimizer
    Rule(
        monitor="update_size",
        scope="step",
        above=0.15,
        patience=2,
        cause="a single step changes the weights by a large part of their norm: the learning rate is far too high",
        fix="Divide --optim.lr by 10 to 100, or lengthen --optim.warmup-fraction",
    ),
    Rule(
        monitor="weight_size",
        scope="step",
        above=0.0,
        start_ratio=25.0,
        cause="the encoder's weights have grown far too large: the learning rate is far too high",
        fix="Divide --optim.lr by 10 to 100 and start again",
    ),
    # ----------------------------------------------------------------------------------------------------- collapse
    Rule(
        monitor="embedding_std",
        scope="validation",
        below=0.15,
        start_ratio=0.2,
        patience=2,
        of_contrast=True,
        cause="the embeddings collapse: all images get nearly the same one",
        fix="Lower --optim.lr or lengthen --optim.warmup-fraction; check the framework's temperature and momentum",
    ),
    Rule(
        monitor="rankme",
        scope="validation",
        below=2.0,
        start_ratio=0.3,
        patience=2,
        of_contrast=True,
        cause="the embeddings collapse to a line: they use only one or two dimensions",
        fix="Lower --optim.lr, use a larger --batch-size or more negatives, or lower the weight decay",
    ),
    Rule(
        monitor="batch_std",
        scope="step",
        below=0.05,
        start_ratio=0.1,
        patience=10,
        of_contrast=True,
        cause="the embeddings collapse: all images of a batch get nearly the same one",
        fix="Lower --optim.lr or lengthen --optim.warmup-fraction; check the framework's temperature and momentum",
    ),
    Rule(
        monitor="uniformity",
        scope="validation",
        above=-0.1,
        start_ratio=0.1,
        patience=2,
        of_contrast=True,
        cause="views of different images have nearly the same embedding: nothing pushes them apart",
        fix="Lower --optim.lr; if the framework has negatives, lower its temperature or use a larger --batch-size",
    ),
    Rule(
        monitor="alignment",
        scope="validation",
        above=1.9,
        patience=3,
        of_contrast=True,
        cause="two views of one image are no more alike than views of different images: the contrastive task is not learned",
        fix="Weaken the augmentation (larger --views.first.scale and .second.scale, less color change), or train longer",
    ),
    # ------------------------------------------------------------------------------------------------- the teacher
    Rule(
        monitor="teacher_follows",
        scope="validation",
        below=1e-3,
        patience=2,
        cause="the student moves and the teacher does not: the teacher's momentum is 1 or very close to it",
        fix="Lower --framework.momentum (0.99 to 0.996 at the start)",
    ),
    Rule(
        monitor="teacher_agreement",
        scope="validation",
        below=0.02,
        patience=3,
        cause="teacher and student give unrelated embeddings for the same view: the teacher cannot keep up",
        fix="Lower --framework.momentum or --optim.lr",
    ),
    # ---------------------------------------------------------------------------------------------- the temperature
    Rule(
        monitor="negative_share",
        scope="step",
        above=0.998,
        patience=10,
        cause="all negatives have the same weight, so the model learns nothing from them: the temperature is far too high",
        fix="Lower --framework.temperature (0.1 to 0.5)",
    ),
    Rule(
        monitor="effective_negatives",
        scope="step",
        below=2.0,
        only_if=Bound(monitor="negative_share", below=0.2),
        patience=4,
        cause="one negative outweighs all others: the temperature is far too low",
        fix="Raise --framework.temperature (0.1 to 0.5)",
    ),
    Rule(
        monitor="prototype_information",
        scope="step",
        below=0.02,
        only_if=Bound(monitor="prototype_entropy", above=1.0),
        patience=10,
        cause="the teacher gives every image the same flat distribution over prototypes: its temperature is too high, or it "
        "has collapsed",
        fix="Lower --framework.teacher-temperature (0.04 to 0.07) and --optim.lr",
    ),
    Rule(
        monitor="prototype_information",
        scope="step",
        below=0.02,
        only_if=Bound(monitor="prototype_entropy", below=1.0),
        patience=20,
        cause="the teacher collapses: it gives every image the same prototype",
        fix="Lower --framework.center-momentum so that the center follows, raise --framework.teacher-temperature-start, or "
        "lower --optim.lr",
    ),
    Rule(
        monitor="teacher_entropy",
        scope="step",
        below=0.05,
        patience=10,
        cause="the teacher assigns every image to one prototype with certainty: its temperature is far too low",
        fix="Raise --framework.teacher-temperature-start and --framework.teacher-temperature (0.04 to 0.07)",
    ),
    # ---------------------------------------------------------------------------------------------- patch features
    Rule(
        monitor="correspondence",
        scope="validation",
        below=1.0,
        start_ratio=0.4,
        patience=3,
        cause="patch features no longer identify their location: they match between views far worse than before training",
        fix="Lower --optim.lr, or raise --reconstruction.weight",
    ),
    Rule(
        monitor="patch_rank",
        scope="validation",
        below=2.5,
        start_ratio=0.3,
        patience=2,
        cause="the patch features collapse: all patches of all images get nearly the same one",
        fix="Lower --optim.lr, or raise --reconstruction.weight",
    ),
    Rule(
        monitor="level_similarity_*",
        scope="validation",
        above=0.9999,
        patience=10,
        cause="two neighboring levels have the same features: the blocks between them have learned nothing",
        fix="Raise --optim.lr, or choose levels that are farther apart (--encoder.out-indices)",
    ),
    # ---------------------------------------------------------------------------------------------- reconstruction
    Rule(
        monitor="psnr",
        scope="validation",
        below=100.0,
        start_ratio=0.93,
        patience=2,
        cause="the reconstruction is worse than before training",
        fix="Lower --optim.lr",
    ),
    Rule(
        monitor="ssim",
        scope="validation",
        below=1.0,
        start_ratio=0.7,
        patience=2,
        cause="the reconstruction shows less structure of the images than before training",
        fix="Lower --optim.lr",
    ),
    Rule(
        monitor="level_share_*",
        scope="validation",
        below=1e-4,
        patience=2,
        cause="the decoder does not use this level, so the pixel loss does not train the blocks that lead to it",
        fix="Lower --optim.lr, or reconstruct from this level without the shallower ones (--decoder.levels)",
    ),
    # ----------------------------------------------------------------------------------- balance between the losses
    Rule(
        monitor="gradient_ratio",
        scope="validation",
        above=MAX_GRADIENT_RATIO,
        patience=2,
        cause="the pixel loss drowns the contrastive loss in the blocks that both train",
        fix="Divide --reconstruction.weight by about this value",
    ),
    Rule(
        monitor="gradient_ratio",
        scope="validation",
        below=MIN_GRADIENT_RATIO,
        patience=3,
        after=0.25,  # a healthy ratio may begin at 0.004 and pass 1 before half of the run (docs/small-data.md)
        cause="the reconstruction branch is inert: compared with the contrastive loss it hardly changes the blocks "
        "that both train",
        fix="Multiply --reconstruction.weight by 10. If psnr is below psnr_flat too, first raise --optim.lr; for few images "
        "use the recipe small-data",
    ),
    Rule(
        monitor="gradient_cosine_*",
        scope="validation",
        below=MIN_GRADIENT_COSINE,
        patience=3,
        cause="the two losses pull a block in opposite directions",
        fix="Lower --reconstruction.weight, or reconstruct from shallower levels (--decoder.levels)",
    ),
)
"""The limits leave a wide margin to healthy runs of all frameworks (tests/training/test_broken_runs.py). An untrained
encoder often gives all images nearly the same embedding, so the rules for collapse compare with the first value."""


def rules_for(*, contrast: bool) -> tuple[Rule, ...]:
    """The rules for a run with or without a framework that trains the embedding."""
    return tuple(rule for rule in RULES if contrast or not rule.of_contrast)
