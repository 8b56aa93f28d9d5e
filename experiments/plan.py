"""What is measured, as data: the confirmatory comparison, fixed beforehand, and the exploratory tables.

A run is a start (pre-trained, supervised or at random) on one data set; a row of a table names one run and what it is
compared with at equal seeds. One run may stand in several tables and is trained once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from experiments.baselines import PixelsConfig
from experiments.presets import Data, Kind, Preset
from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.models.decoder import DecoderConfig
from repre.models.repre import ReconstructionConfig
from repre.recipes import recipe

CONFIRMATORY = (("moco-v3", "vit"), ("moby", "swin"))
FRESH = 10
"""First seed of the confirmatory comparison: those before it are the exploration's, which the defaults were chosen from."""
VIT_LEVELS = 4
"""Maps that a flat encoder of four blocks or more gives."""
CHEAP = ("foreground", "miou", "knn", "linear")
"""Evaluations on frozen encoders."""
BRANCH = (*CHEAP, "gradients")
WAVES = {
    name: number
    for number, names in enumerate(
        (
            ("foreground", "knn", "linear", "objects", "gradients"),
            ("miou", "miou-labels", "foreground-labels"),
            ("upernet", "foreground-upernet"),
            ("detect", "foreground-detect", "detect-labels", "foreground-detect-labels"),
        )
    )
    for name in names
}
"""Evaluation: the wave in which it is measured. All cheap ones of a table come before the first dear one."""
TITLES = {
    "confirmatory": "Confirmatory: does the branch help?",
    "1": "1. Frameworks and encoders, equal epochs and equal wall-clock (exploratory)",
    "2": "2. Is the hierarchy crucial? (exploratory)",
    "3": "3. Against other starts (exploratory)",
    "4": "4. Label efficiency (exploratory)",
    "5": "5. Beyond the paper (exploratory)",
    "stamps": "StampScenes: three folds (exploratory)",
    "data": "Other data (exploratory)",
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start, but for its seed."""

    name: str
    """Unique within a preset; the folder of its results."""
    kind: Literal["pretrain", "random", "supervised"]
    config: RunConfig
    """Of the pre-training; of the others its encoder and views count."""
    data: Data
    """What it is trained on."""
    dense: Data
    """Images with masks and boxes."""
    single: Data
    """Images with one object each, for labels of whole images."""
    as_long_as: str | None = None
    """Name of a start; this one is given the time that it takes, in whole epochs."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    table: str
    label: str
    start: Start
    against: str | None
    """Label of the row that it is compared with."""
    seeds: int
    evaluations: tuple[str, ...]

    @property
    def each_seed(self) -> range:
        first = FRESH if self.table == "confirmatory" else 0
        return range(first, first + self.seeds)


@dataclass(frozen=True)
class Task:
    """One thing to measure."""

    table: str
    start: Start
    seed: int
    evaluation: str


def tasks(rows: list[Row]) -> list[Task]:
    """All of them, each once: table by table, within a table wave by wave, then seed by seed over all its rows; so
    what an early stop leaves behind are complete pairs."""
    order: dict[tuple[str, int, str], tuple[tuple[int, ...], Task]] = {}
    tables = list(TITLES)
    for number, row in enumerate(rows):
        for seed in row.each_seed:
            for place, evaluation in enumerate(row.evaluations):
                rank = (tables.index(row.table), WAVES[evaluation], seed, number, place)
                task = Task(row.table, row.start, seed, evaluation)
                key = (row.start.name, seed, evaluation)
                order[key] = min(order.get(key, (rank, task)), (rank, task), key=lambda pair: pair[0])
    return [task for _, task in sorted(order.values(), key=lambda pair: pair[0])]


class Plan:
    """The rows of a preset."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        classes = "foreground-" if preset.primary == "foreground" else ""
        self.full = (*CHEAP, f"{classes}upernet", f"{classes}detect")
        """Those and what is trained end to end, on the classes that the preset's starts can tell apart."""
        self.few_labels = (f"{preset.primary}-labels", f"{classes}detect-labels")

    def rows(self) -> list[Row]:
        return [
            *self.confirmatory(), *self.frameworks(), *self.hierarchy(), *self.starts(), *self.labels(), *self.beyond(),
            *self.stamps(), *self.other_data(),
        ]  # fmt: skip

    # -------------------------------------------------------------------------------------------------- starts

    def start(
        self,
        framework: str,
        encoder: str,
        variant: str = "branch",
        *,
        kind: Kind = "fashion",
        fold: int = 0,
        reconstruction: ReconstructionConfig | None = None,
        decoder: DecoderConfig | None = None,
        change: dict[str, object] | None = None,
        as_long_as: str | None = None,
        fresh: bool = False,
    ) -> Start:
        """A pre-trained start; `plain` is the framework without the branch, `branch` RePre's defaults.

        Args:
            change: fields of the views.
            fresh: tested on scenes of its own, for the confirmatory comparison.
        """
        preset = self.preset
        default = (
            recipe(f"vit-tiny-{framework}").reconstruction if framework in preset.frameworks else ReconstructionConfig()
        )
        if variant.startswith("plain"):
            default = replace(default, weight=0.0)
        config = RunConfig(
            epochs=preset.epochs,
            batch_size=preset.batch,
            encoder=preset.encoders[encoder],
            framework=preset.frameworks[framework] if framework in preset.frameworks else PixelsConfig(),
            decoder=decoder or DecoderConfig(dim=preset.decoder_width[encoder]),
            reconstruction=reconstruction or default,
            views=replace(preset.views(framework), mask_patch=preset.mask_patch, **(change or {})),
            optim=preset.optim.get(framework, preset.optim["moco-v3"]),
            compute=ComputeConfig(precision=preset.precision),
            runtime=RuntimeConfig(
                device=preset.device, workers=preset.workers, log_every=20, eval_every_epochs=1000, monitors=False
            ),
        )
        name = f"{'fresh-' * fresh}{kind}-{framework}-{encoder}-{variant}" + (f"-fold{fold}" if fold else "")
        return self._start(name, "pretrain", config, kind, fold, as_long_as=as_long_as, fresh=fresh)

    def other(self, how: Literal["random", "supervised"], encoder: str, *, fresh: bool = False) -> Start:
        """The encoder at random, or trained on the labels of the images that the others are pre-trained on."""
        like = self.start("moco-v3", encoder, "plain", fresh=fresh)
        name = like.name.replace("moco-v3", how).replace("-plain", "")
        return self._start(name, how, like.config, "fashion", 0, fresh=fresh)

    def _start(
        self, name: str, how: Literal["pretrain", "random", "supervised"], config: RunConfig, kind: Kind, fold: int,
        *, as_long_as: str | None = None, fresh: bool = False,
    ) -> Start:  # fmt: skip
        preset = self.preset
        dense, single = (preset.labels(kind, fold=fold, single=one, fresh=fresh) for one in (False, True))
        return Start(
            name=name, kind=how, config=config, data=preset.data(kind, fold=fold), dense=dense, single=single,
            as_long_as=as_long_as,
        )  # fmt: skip

    def row(
        self, table: str, label: str, start: Start, against: str | None = None, evaluations: tuple[str, ...] = CHEAP
    ) -> Row:
        seeds = self.preset.confirmatory_seeds if table == "confirmatory" else self.preset.seeds
        return Row(table=table, label=label, start=start, against=against, seeds=seeds, evaluations=evaluations)

    # -------------------------------------------------------------------------------------------------- tables

    def confirmatory(self) -> Iterator[Row]:
        """Fixed beforehand: two frameworks with their encoders, RePre's defaults against the plain framework, at seeds that
        no exploration has seen, in dense figures on scenes that are composed anew of the same articles and photographs."""
        for framework, encoder in CONFIRMATORY:
            label = f"{framework} + {encoder}"
            plain = self.start(framework, encoder, "plain", fresh=True)
            yield self.row("confirmatory", label, plain, f"random {encoder}")
            yield self.row("confirmatory", f"{label} + branch", self.start(framework, encoder, fresh=True), label)
        for encoder in ("vit", "swin"):  # what the figures are without any training
            yield self.row("confirmatory", f"random {encoder}", self.other("random", encoder, fresh=True))

    def frameworks(self) -> Iterator[Row]:
        for framework in ("moco-v3", "dino", "moby"):
            for encoder in ("vit", "swin"):
                label = f"{framework} + {encoder}"
                branch = self.start(framework, encoder)
                longer = self.start(framework, encoder, "plain-as-long", as_long_as=branch.name)
                yield self.row("1", label, self.start(framework, encoder, "plain"), None, self.full)
                yield self.row("1", f"{label} + branch", branch, label, self.full)
                yield self.row("1", f"{label}, as long as with the branch", longer, f"{label} + branch", self.full)

    def hierarchy(self) -> Iterator[Row]:
        """Each row changes one thing of RePre's defaults; only the last two change two."""
        width = self.preset.decoder_width["vit"]

        def one(label: str, variant: str, **more: object) -> Row:
            return self.row("2", label, self.start("moco-v3", "vit", variant, **more), "defaults", BRANCH)  # type: ignore[arg-type]

        def weighed(*weights: float) -> Iterator[Row]:
            for weight in weights:
                if weight != ReconstructionConfig().weight:
                    changed = ReconstructionConfig(weight=weight)
                    yield one(f"weight {weight:g}", f"weight{weight:g}", reconstruction=changed)

        yield self.row("2", "without the branch", self.start("moco-v3", "vit", "plain"), "defaults")
        yield self.row("2", "defaults", self.start("moco-v3", "vit"), None, BRANCH)
        yield from weighed(3.0, 30.0, 100.0)
        yield one("the view as target", "view", change={"target": "view"})
        yield one("last level", "last-level", decoder=DecoderConfig(dim=width, levels=(VIT_LEVELS - 1,)))
        yield from weighed(1.0)
        yield one("linear decoder", "linear-decoder", decoder=DecoderConfig(kind="linear", dim=width))
        yield one("40 % masked", "mask0.4", change={"mask_ratio": 0.4})
        yield one("two levels", "two-levels", decoder=DecoderConfig(dim=width, levels=(1, 3)))
        yield one("L2", "l2", reconstruction=ReconstructionConfig(loss="l2"))
        yield one("first view only", "first-view", reconstruction=ReconstructionConfig(views="first"))
        yield one("75 % masked", "mask0.75", change={"mask_ratio": 0.75})
        yield from weighed(0.1)
        yield one(
            "weight 30, the view as target", "weight30-view", reconstruction=ReconstructionConfig(weight=30.0),
            change={"target": "view"},
        )  # fmt: skip
        yield self.row("2", "weight 1, the view as target", self.first_guess("moco-v3", "vit"), "defaults", BRANCH)

    def first_guess(self, framework: str, encoder: str) -> Start:
        """The branch as it was before anything was measured: weight 1, and the target is what the encoder saw."""
        return self.start(
            framework,
            encoder,
            "first-guess",
            reconstruction=ReconstructionConfig(weight=1.0),
            change={"target": "view"},
        )

    def starts(self) -> Iterator[Row]:
        """Every other start against RePre's. The rivals see as many images; the supervised start as many views."""
        last = (VIT_LEVELS - 1,)
        decoder = DecoderConfig(dim=self.preset.decoder_width["vit"], levels=last)
        masked = {"mask_ratio": 0.6}
        ours = "RePre: moco-v3 + branch"
        yield self.row("3", ours, self.start("moco-v3", "vit"), None, self.full)
        for label, start in (
            ("random", self.other("random", "vit")),
            ("supervised", self.other("supervised", "vit")),
            ("moco-v3", self.start("moco-v3", "vit", "plain")),
            ("dino", self.start("dino", "vit", "plain")),
            (
                "masked pixels alone (after SimMIM)",
                self.start("pixels", "vit", "simmim", decoder=DecoderConfig(kind="linear"), change=masked),
            ),
            ("the branch alone", self.start("pixels", "vit", "alone")),
            (
                "masked student, last level (after CMAE)",
                self.start("moco-v3", "vit", "cmae", decoder=decoder, change=masked),
            ),
        ):
            yield self.row("3", label, start, ours, self.full)

    def labels(self) -> Iterator[Row]:
        wanted = self.few_labels
        yield self.row("4", "random", self.other("random", "vit"), None, wanted)
        yield self.row("4", "supervised", self.other("supervised", "vit"), "random", wanted)
        yield self.row("4", "moco-v3", self.start("moco-v3", "vit", "plain"), "random", wanted)
        yield self.row("4", "moco-v3 + branch", self.start("moco-v3", "vit"), "moco-v3", wanted)

    def beyond(self) -> Iterator[Row]:
        """Where the branch's first guess did not help, and what the monitors suggest instead."""
        last = VIT_LEVELS - 1
        later = DecoderConfig(dim=self.preset.decoder_width["vit"], levels=(last - 1, last))
        for framework, encoder in (("moco-v3", "vit"), ("moby", "swin")):
            plain = f"{framework} + {encoder}"

            def one(label: str, start: Start, plain: str = plain) -> Row:
                return self.row("5", f"{plain}, {label}", start, plain, BRANCH)

            def ours(variant: str, framework: str = framework, encoder: str = encoder, **more: object) -> Start:
                return self.start(framework, encoder, variant, **more)  # type: ignore[arg-type]

            yield self.row("5", plain, ours("plain"))
            yield one("weight 1, the view as target", self.first_guess(framework, encoder))
            yield one("defaults", ours("branch"))
            yield one("until 75 % of the run", ours("until", reconstruction=ReconstructionConfig(end_fraction=0.75)))
            yield one("gradients balanced at 0.1", ours("balance", reconstruction=ReconstructionConfig(balance=0.1)))
        yield self.row(
            "5", "moco-v3 + vit, later levels", self.start("moco-v3", "vit", "later-levels", decoder=later), "moco-v3 + vit",
            BRANCH,
        )  # fmt: skip

    def stamps(self) -> Iterator[Row]:
        for framework, encoder in CONFIRMATORY:
            for fold in self.preset.folds:
                label = f"{framework} + {encoder}, fold {fold}"
                plain = self.start(framework, encoder, "plain", kind="stamps", fold=fold)
                branch = self.start(framework, encoder, kind="stamps", fold=fold)
                yield self.row("stamps", label, plain, None, (*CHEAP, "objects"))
                yield self.row("stamps", f"{label} + branch", branch, label, (*CHEAP, "objects"))

    def other_data(self) -> Iterator[Row]:
        kinds: tuple[Kind, ...] = ("scenes", "fashion-mnist") if self.preset.packages else ("scenes",)
        for kind in kinds:
            label = f"{kind}, moco-v3 + vit"
            wanted = ("knn", "linear") if kind == "fashion-mnist" else CHEAP
            yield self.row("data", label, self.start("moco-v3", "vit", "plain", kind=kind), None, wanted)
            yield self.row("data", f"{label} + branch", self.start("moco-v3", "vit", kind=kind), label, wanted)
