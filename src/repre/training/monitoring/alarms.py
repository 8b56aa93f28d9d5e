"""When a figure of a look or a step is a cause for alarm, what the likely cause is, and the fix."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from repre.training.monitoring.limits import MAX_GRADIENT_RATIO, MIN_GRADIENT_COSINE

Scope = Literal["validation", "step"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A figure beyond its limit so many times in a row.

    Attributes:
        monitor: name of the figure; * stands for any ending.
        scope: whether looks or logged steps are asked.
        below, above: the limit.
        of_start: with it, the figure must also be below (above) this multiple of what it was when first seen.
        also: another figure of the same look or step, which must be below (-1) or above (+1) a value: (name, side, value).
        patience: times in a row.
        cause, fix: in words.
    """

    monitor: str
    scope: Scope
    below: float | None = None
    above: float | None = None
    of_start: float | None = None
    also: tuple[str, int, float] | None = None
    patience: int = 1
    cause: str
    fix: str

    def limit(self, start: float) -> float:
        """The value beyond which the figure is out of order."""
        own = self.below if self.below is not None else self.above
        assert own is not None, "a rule has a limit"
        if self.of_start is None:
            return own
        return min(own, self.of_start * start) if self.below is not None else max(own, self.of_start * start)

    def broken(self, value: float, start: float, figures: Mapping[str, Any]) -> bool:
        if self.also is not None:
            name, side, bound = self.also
            other = figures.get(name)
            if other is None or side * other <= side * bound:
                return False
        return value < self.limit(start) if self.below is not None else value > self.limit(start)


RULES: tuple[Rule, ...] = (
    # ---------------------------------------------------------------------------------------------------- the data
    Rule(
        monitor="distinct_images",
        scope="validation",
        below=0.5,
        cause="more than half of the sampled images are copies of others",
        fix="Probe into what --data names: a folder of duplicates, one file many times, or frames of a still video; "
        "keep one of each",
    ),
    # ------------------------------------------------------------------------------------------------- the optimizer
    Rule(
        monitor="update_size",
        scope="step",
        above=0.15,
        patience=2,
        cause="a single step changes the weights by a large part of their length: the learning rate is far too high",
        fix="Divide --optim.lr by 10 to 100, or lengthen --optim.warmup-fraction",
    ),
    Rule(
        monitor="weight_size",
        scope="step",
        above=0.0,
        of_start=25.0,
        cause="the encoder's weights have grown out of all proportion: the learning rate is far too high",
        fix="Divide --optim.lr by 10 to 100 and start again",
    ),
    # ----------------------------------------------------------------------------------------------------- collapse
    Rule(
        monitor="embedding_std",
        scope="validation",
        below=0.15,
        of_start=0.2,
        patience=2,
        cause="the embeddings collapse: all images get nearly the same one",
        fix="Lower --optim.lr or lengthen --optim.warmup-fraction; check the framework's temperature and momentum",
    ),
    Rule(
        monitor="rankme",
        scope="validation",
        below=2.0,
        of_start=0.3,
        patience=2,
        cause="the embeddings collapse to a line: only one or two of their directions are used",
        fix="Lower --optim.lr, take a larger --batch-size or more negatives, or weaker weight decay",
    ),
    Rule(
        monitor="batch_std",
        scope="step",
        below=0.05,
        of_start=0.1,
        patience=10,
        cause="the embeddings of a batch are all nearly the same: collapse",
        fix="Lower --optim.lr or lengthen --optim.warmup-fraction; check temperature and momentum of the framework",
    ),
    Rule(
        monitor="uniformity",
        scope="validation",
        above=-0.1,
        of_start=0.1,
        patience=2,
        cause="views of different images lie on one spot of the sphere: nothing pushes them apart",
        fix="Lower --optim.lr; with negatives, lower the temperature or take a larger --batch-size",
    ),
    Rule(
        monitor="alignment",
        scope="validation",
        above=1.9,
        patience=3,
        cause="two views of an image agree no more than strangers: the contrastive task is not learned",
        fix="Weaken the augmentation (larger --views.first.scale and .second.scale, less color change), or train longer",
    ),
    # ------------------------------------------------------------------------------------------------- the teacher
    Rule(
        monitor="teacher_follows",
        scope="validation",
        below=1e-3,
        patience=2,
        cause="the student moves and the teacher does not: its momentum is 1 or nearly so",
        fix="Lower --framework.momentum (0.99 to 0.996 at the start)",
    ),
    Rule(
        monitor="teacher_agreement",
        scope="validation",
        below=0.02,
        patience=3,
        cause="teacher and student say unrelated things of the same view: the teacher cannot keep up",
        fix="Lower --framework.momentum or --optim.lr",
    ),
    # ---------------------------------------------------------------------------------------------- the temperature
    Rule(
        monitor="negative_share",
        scope="step",
        above=0.998,
        patience=10,
        cause="all negatives weigh the same, so that none teaches anything: the temperature is far too high",
        fix="Lower --framework.temperature (0.1 to 0.5)",
    ),
    Rule(
        monitor="effective_negatives",
        scope="step",
        below=2.0,
        also=("negative_share", -1, 0.2),
        patience=4,
        cause="one negative outweighs all others: the temperature is far too low",
        fix="Raise --framework.temperature (0.1 to 0.5)",
    ),
    Rule(
        monitor="prototype_information",
        scope="step",
        below=0.02,
        also=("prototype_entropy", 1, 1.0),
        patience=10,
        cause="the teacher gives every image the same, flat distribution over prototypes: its temperature is too high, or "
        "it has collapsed",
        fix="Lower --framework.teacher-temperature (0.04 to 0.07) and --optim.lr",
    ),
    Rule(
        monitor="prototype_information",
        scope="step",
        below=0.02,
        also=("prototype_entropy", -1, 1.0),
        patience=20,
        cause="the teacher gives every image the same prototype: collapse",
        fix="Lower --framework.center-momentum so that the center follows, raise --framework.teacher-temperature-start, or "
        "lower --optim.lr",
    ),
    Rule(
        monitor="teacher_entropy",
        scope="step",
        below=0.05,
        patience=10,
        cause="the teacher is certain of one prototype for every image: its temperature is far too low",
        fix="Raise --framework.teacher-temperature-start and --framework.teacher-temperature (0.04 to 0.07)",
    ),
    # ---------------------------------------------------------------------------------------------- patch features
    Rule(
        monitor="correspondence",
        scope="validation",
        below=1.0,
        of_start=0.4,
        patience=3,
        cause="patches have lost what told them apart: matching between views is far worse than before training",
        fix="Lower --optim.lr; give the branch more weight (--reconstruction.weight)",
    ),
    Rule(
        monitor="patch_rank",
        scope="validation",
        below=2.5,
        of_start=0.3,
        patience=2,
        cause="the patch features collapse: all patches of all images look nearly the same",
        fix="Lower --optim.lr; give the branch more weight (--reconstruction.weight)",
    ),
    Rule(
        monitor="level_similarity_*",
        scope="validation",
        above=0.9999,
        patience=10,
        cause="two neighboring levels still say the same: the blocks between them have learned nothing",
        fix="Raise --optim.lr, or name levels that are farther apart (--encoder.out-indices)",
    ),
    # ---------------------------------------------------------------------------------------------- reconstruction
    Rule(
        monitor="psnr",
        scope="validation",
        below=100.0,
        of_start=0.93,
        patience=2,
        cause="the reconstruction is worse than before training",
        fix="Lower --optim.lr",
    ),
    Rule(
        monitor="ssim",
        scope="validation",
        below=1.0,
        of_start=0.7,
        patience=2,
        cause="the reconstruction shows less of the images' structure than before training",
        fix="Lower --optim.lr",
    ),
    Rule(
        monitor="level_share_*",
        scope="validation",
        below=1e-4,
        patience=2,
        cause="the decoder does not use this level, so that the branch teaches nothing to the blocks that lead to it",
        fix="Lower --optim.lr; or rebuild from this level without the shallower ones (--decoder.levels)",
    ),
    # -------------------------------------------------------------------------------------- balance of the objectives
    Rule(
        monitor="gradient_ratio",
        scope="validation",
        above=MAX_GRADIENT_RATIO,
        patience=2,
        cause="the pixel loss drowns the contrastive loss in the blocks that both train",
        fix="Divide --reconstruction.weight by about this figure",
    ),
    Rule(
        monitor="gradient_cosine_*",
        scope="validation",
        below=MIN_GRADIENT_COSINE,
        patience=3,
        cause="the two losses pull a block in opposite directions",
        fix="Lower --reconstruction.weight, or rebuild from shallower levels (--decoder.levels)",
    ),
)
"""Limits leave a wide margin to the five frameworks' healthy runs (tests/training/test_broken_runs.py), untrained encoders
included: their embeddings are often nearly alike, so collapse is told by comparison with the first look."""


@dataclass(frozen=True)
class Alarm:
    """A rule that fired."""

    step: int
    monitor: str
    value: float
    limit: float
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"ALARM {self.monitor} is {self.value:.3g} (limit {self.limit:.3g}): {self.cause}. {self.fix}"


class Health:
    """Follows the figures of a run and says when one is out of order, once per rule. A function of the figures alone, so
    that a resumed run finds its state by reading them again."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self.rules = tuple(rules)
        self.start: dict[str, float] = {}
        self.in_a_row: dict[tuple[Rule, str], int] = {}
        self.alarms: list[Alarm] = []
        self.spoken: set[Rule] = set()

    def observe(self, scope: Scope, figures: Mapping[str, Any]) -> list[Alarm]:
        """Takes the figures of a look or a logged step, in order; gives the alarms that are new."""
        new = []
        for name, value in figures.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            start = self.start.setdefault(name, value)
            for rule in self.rules:
                if rule.scope != scope or not fnmatch(name, rule.monitor):
                    continue
                key = (rule, name)
                self.in_a_row[key] = self.in_a_row.get(key, 0) + 1 if rule.broken(value, start, figures) else 0
                if self.in_a_row[key] >= rule.patience and rule not in self.spoken:
                    self.spoken.add(rule)
                    new.append(Alarm(int(figures["step"]), name, value, rule.limit(start), rule.cause, rule.fix))
        self.alarms += new
        return new

    def replay(self, rows: Iterable[Mapping[str, Any]], validations: Iterable[Mapping[str, Any]]) -> None:
        """Takes what a run has logged so far, in the order in which it was seen."""
        seen: list[tuple[int, Scope, Mapping[str, Any]]] = [(row["step"], "step", row) for row in rows]
        seen += [(look["step"], "validation", look) for look in validations]
        for _, scope, figures in sorted(seen, key=lambda one: (one[0], one[1] == "validation")):
            self.observe(scope, figures)

    def as_dicts(self) -> list[dict[str, Any]]:
        return [asdict(alarm) for alarm in self.alarms]
