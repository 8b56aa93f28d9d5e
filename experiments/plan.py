"""What is measured, as data: the confirmatory comparison, which was fixed beforehand, and the exploratory tables.

real_plan.py has the one on real images.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from experiments.methods import FIRST_SEEDS, Method, Row
from experiments.presets import Kind, Preset
from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.data.views.view_recipes import MaskConfig
from repre.frameworks import PixelsConfig
from repre.models.decoder import DecoderConfig
from repre.models.repre import ReconstructionConfig
from repre.recipes import recipe

CONFIRMATORY = (("moco-v3", "vit"), ("moby", "swin"))
"""Framework and encoder of the confirmatory pairs."""
VIT_LEVELS = 4
"""Number of feature maps of a plain transformer with four blocks or more."""
FROZEN = ("foreground", "miou", "knn", "linear")
"""Evaluations of frozen encoders."""
FROZEN_AND_GRADIENTS = (*FROZEN, "gradients")


class Plan:
    """The rows of all tables at the size of a preset."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        prefix = "foreground-" if preset.primary == "foreground" else ""
        self.all_evaluations = (*FROZEN, f"{prefix}upernet", f"{prefix}detect")
        """Frozen and end-to-end evaluations, on classes that the preset's methods can separate."""
        self.label_evaluations = (f"{preset.primary}-labels", f"{prefix}detect-labels")

    def rows(self) -> list[Row]:
        """Returns the rows of all tables."""
        return [
            *self.confirmatory(), *self.frameworks(), *self.hierarchy(), *self.methods(), *self.labels(), *self.beyond(),
            *self.stamps(), *self.other_data(),
        ]  # fmt: skip

    # -------------------------------------------------------------------------------------------------- methods

    def pretrained(
        self,
        framework: str,
        encoder: str,
        variant: str = "branch",
        *,
        kind: Kind = "fashion",
        fold: int = 0,
        reconstruction: ReconstructionConfig | None = None,
        decoder: DecoderConfig | None = None,
        views: dict[str, Any] | None = None,
        same_time_as: str | None = None,
        fresh: bool = False,
    ) -> Method:
        """Returns a pre-training.

        Args:
            variant: `plain...` is the framework without the branch, `branch` has RePre's defaults; any other name goes
                with the settings below.
            views: fields of the views to replace.
            fresh: evaluate on new scenes, for the confirmatory comparison.
        """
        preset = self.preset
        default = self.default_reconstruction(framework)
        if variant.startswith("plain"):
            default = replace(default, weight=0.0)
        config = RunConfig(
            epochs=preset.counts(kind).epochs,
            batch_size=preset.batch_size,
            encoder=preset.encoders[encoder],
            framework=preset.frameworks[framework] if framework in preset.frameworks else PixelsConfig(),
            decoder=decoder or DecoderConfig(dim=preset.decoder_dim[encoder]),
            reconstruction=reconstruction or default,
            views=replace(preset.views(framework), **(views or {})),
            optim=preset.optim.get(framework, preset.optim["moco-v3"]),
            compute=ComputeConfig(precision=preset.precision),
            runtime=RuntimeConfig(
                device=preset.device, workers=preset.workers, log_every=20, eval_every_epochs=1000, monitors=False
            ),
        )
        name = f"{'fresh-' * fresh}{kind}-{framework}-{encoder}-{variant}" + (f"-fold{fold}" if fold else "")
        return self._method(name, "pretrain", config, kind, fold, same_time_as=same_time_as, fresh=fresh)

    def default_reconstruction(self, framework: str) -> ReconstructionConfig:
        """Returns the branch of a framework's recipe; without a framework, the defaults."""
        if framework in self.preset.frameworks:
            return recipe(f"vit-tiny-{framework}").reconstruction
        return ReconstructionConfig()

    def masked(self, ratio: float) -> dict[str, Any]:
        """Returns settings for `pretrained` that hide this share of the patches, with the mean color instead of a token."""
        mask = MaskConfig(kind="random", ratio=(ratio, ratio), patch=self.preset.mask_patch)
        return {"reconstruction": ReconstructionConfig(masked_input="pixels"), "views": {"mask": mask}}

    def not_pretrained(self, kind: Literal["random", "supervised"], encoder: str, *, fresh: bool = False) -> Method:
        """Returns the encoder at random init, or trained on the labels of the images that the others pre-train on."""
        plain = self.pretrained("moco-v3", encoder, "plain", fresh=fresh)
        name = plain.name.replace("moco-v3", kind).replace("-plain", "")
        return self._method(name, kind, plain.config, "fashion", 0, fresh=fresh)

    def _method(
        self, name: str, method_kind: Literal["pretrain", "random", "supervised"], config: RunConfig, data_kind: Kind,
        fold: int, *, same_time_as: str | None = None, fresh: bool = False,
    ) -> Method:  # fmt: skip
        preset = self.preset
        dense, single = (
            preset.labeled_data(data_kind, fold=fold, single=single, fresh=fresh) for single in (False, True)
        )
        return Method(
            name=name, kind=method_kind, config=config, data=preset.pretraining_data(data_kind, fold=fold), dense=dense,
            single=single, same_time_as=same_time_as,
        )  # fmt: skip

    def row(
        self, table: str, label: str, method: Method, baseline: str | None = None, evaluations: tuple[str, ...] = FROZEN
    ) -> Row:
        """Returns a row with the preset's number of seeds."""
        n_seeds = self.preset.n_confirmatory_seeds if table in FIRST_SEEDS else self.preset.n_seeds
        return Row(table=table, label=label, method=method, baseline=baseline, n_seeds=n_seeds, evaluations=evaluations)

    # -------------------------------------------------------------------------------------------------- tables

    def confirmatory(self) -> Iterator[Row]:
        """Fixed beforehand: two pairs of framework and encoder, RePre's defaults against the plain framework.

        The seeds are not in any exploratory table. Dense metrics use new scenes of the same articles and photographs.
        """
        for framework, encoder in CONFIRMATORY:
            label = f"{framework} + {encoder}"
            plain = self.pretrained(framework, encoder, "plain", fresh=True)
            branch = self.pretrained(framework, encoder, fresh=True)
            yield self.row("confirmatory", label, plain, f"random init {encoder}")
            yield self.row("confirmatory", f"{label} + branch", branch, label)
        for encoder in ("vit", "swin"):
            random = self.not_pretrained("random", encoder, fresh=True)
            yield self.row("confirmatory", f"random init {encoder}", random)

    def frameworks(self) -> Iterator[Row]:
        """Table 1: every framework with every encoder, at equal epochs and at equal training time."""
        evaluations = self.all_evaluations
        for framework in ("moco-v3", "dino", "moby"):
            for encoder in ("vit", "swin"):
                label = f"{framework} + {encoder}"
                plain, branch = (self.pretrained(framework, encoder, variant) for variant in ("plain", "branch"))
                longer = self.pretrained(framework, encoder, "plain-as-long", same_time_as=branch.name)
                yield self.row("1", label, plain, None, evaluations)
                yield self.row("1", f"{label} + branch", branch, label, evaluations)
                yield self.row("1", f"{label}, training time of the branch", longer, f"{label} + branch", evaluations)

    def hierarchy(self) -> Iterator[Row]:
        """Table 2: each row changes one setting of RePre's defaults; the last two rows change two."""
        dim = self.preset.decoder_dim["vit"]

        def changed(label: str, variant: str, **settings: Any) -> Row:
            method = self.pretrained("moco-v3", "vit", variant, **settings)
            return self.row("2", label, method, "defaults", FROZEN_AND_GRADIENTS)

        def weight(value: float) -> Row:
            return changed(f"weight {value:g}", f"weight{value:g}", reconstruction=ReconstructionConfig(weight=value))

        yield self.row("2", "without the branch", self.pretrained("moco-v3", "vit", "plain"), "defaults")
        yield self.row("2", "defaults", self.pretrained("moco-v3", "vit"), None, FROZEN_AND_GRADIENTS)
        yield from (weight(value) for value in (3.0, 30.0, 100.0))
        yield changed("augmented view as target", "view", views={"target": "view"})
        yield changed("last level only", "last-level", decoder=DecoderConfig(dim=dim, levels=(VIT_LEVELS - 1,)))
        yield weight(1.0)
        yield changed("linear decoder", "linear-decoder", decoder=DecoderConfig(kind="linear", dim=dim))
        yield changed("40 % masked", "mask0.4", **self.masked(0.4))
        yield changed("two levels", "two-levels", decoder=DecoderConfig(dim=dim, levels=(1, 3)))
        yield changed("L2", "l2", reconstruction=ReconstructionConfig(loss="l2"))
        yield changed("first view only", "first-view", reconstruction=ReconstructionConfig(views="first"))
        yield changed("75 % masked", "mask0.75", **self.masked(0.75))
        yield weight(0.1)
        settings = {"reconstruction": ReconstructionConfig(weight=30.0), "views": {"target": "view"}}
        yield changed("weight 30, augmented view as target", "weight30-view", **settings)
        first = self.first_defaults("moco-v3", "vit")
        yield self.row("2", "weight 1, augmented view as target", first, "defaults", FROZEN_AND_GRADIENTS)

    def first_defaults(self, framework: str, encoder: str) -> Method:
        """Returns the branch with its defaults before any measurement: weight 1, and the augmented view as target."""
        reconstruction = ReconstructionConfig(weight=1.0)
        return self.pretrained(
            framework, encoder, "first-guess", reconstruction=reconstruction, views={"target": "view"}
        )

    def methods(self) -> Iterator[Row]:
        """Table 3: other methods against RePre. All see as many images; the supervised baseline sees as many views."""
        last_level = DecoderConfig(dim=self.preset.decoder_dim["vit"], levels=(VIT_LEVELS - 1,))
        masked = self.masked(0.6)
        repre = "RePre: moco-v3 + branch"
        yield self.row("3", repre, self.pretrained("moco-v3", "vit"), None, self.all_evaluations)
        for label, method in (
            ("random init", self.not_pretrained("random", "vit")),
            ("supervised", self.not_pretrained("supervised", "vit")),
            ("moco-v3", self.pretrained("moco-v3", "vit", "plain")),
            ("dino", self.pretrained("dino", "vit", "plain")),
            (
                "masked pixels only (after SimMIM)",
                self.pretrained("pixels", "vit", "simmim", decoder=DecoderConfig(kind="linear"), **masked),
            ),
            ("branch only", self.pretrained("pixels", "vit", "alone")),
            (
                "masked student, last level only (after CMAE)",
                self.pretrained("moco-v3", "vit", "cmae", decoder=last_level, **masked),
            ),
        ):
            yield self.row("3", label, method, repre, self.all_evaluations)

    def labels(self) -> Iterator[Row]:
        """Table 4: how the metrics fall with fewer labels."""
        evaluations = self.label_evaluations
        yield self.row("4", "random init", self.not_pretrained("random", "vit"), None, evaluations)
        yield self.row("4", "supervised", self.not_pretrained("supervised", "vit"), "random init", evaluations)
        yield self.row("4", "moco-v3", self.pretrained("moco-v3", "vit", "plain"), "random init", evaluations)
        yield self.row("4", "moco-v3 + branch", self.pretrained("moco-v3", "vit"), "moco-v3", evaluations)

    def beyond(self) -> Iterator[Row]:
        """Table 5: settings that the monitors suggest where the branch's first defaults did not help."""
        for framework, encoder in CONFIRMATORY:
            label = f"{framework} + {encoder}"
            plain = self.pretrained(framework, encoder, "plain")
            until = self.pretrained(framework, encoder, "until", reconstruction=ReconstructionConfig(end_fraction=0.75))
            balance = self.pretrained(framework, encoder, "balance", reconstruction=ReconstructionConfig(balance=0.1))
            yield self.row("5", label, plain)
            for setting, method in (
                ("weight 1, augmented view as target", self.first_defaults(framework, encoder)),
                ("defaults", self.pretrained(framework, encoder)),
                ("branch until 75 % of the run", until),
                ("gradients balanced at 0.1", balance),
            ):
                yield self.row("5", f"{label}, {setting}", method, label, FROZEN_AND_GRADIENTS)
        decoder = DecoderConfig(dim=self.preset.decoder_dim["vit"], levels=(VIT_LEVELS - 2, VIT_LEVELS - 1))
        last_levels = self.pretrained("moco-v3", "vit", "later-levels", decoder=decoder)
        yield self.row("5", "moco-v3 + vit, last two levels", last_levels, "moco-v3 + vit", FROZEN_AND_GRADIENTS)

    def stamps(self) -> Iterator[Row]:
        """StampScenes: the confirmatory pairs on photographic objects, with each fold as the test set."""
        evaluations = (*FROZEN, "objects")
        for framework, encoder in CONFIRMATORY:
            for fold in self.preset.folds:
                label = f"{framework} + {encoder}, fold {fold}"
                plain = self.pretrained(framework, encoder, "plain", kind="stamps", fold=fold)
                branch = self.pretrained(framework, encoder, kind="stamps", fold=fold)
                yield self.row("stamps", label, plain, None, evaluations)
                yield self.row("stamps", f"{label} + branch", branch, label, evaluations)

    def other_data(self) -> Iterator[Row]:
        """The embedded scenes, and plain Fashion-MNIST."""
        kinds: tuple[Kind, ...] = ("scenes", "fashion-mnist") if self.preset.packages else ("scenes",)
        for kind in kinds:
            label = f"{kind}, moco-v3 + vit"
            evaluations = ("knn", "linear") if kind == "fashion-mnist" else FROZEN
            plain, branch = (self.pretrained("moco-v3", "vit", variant, kind=kind) for variant in ("plain", "branch"))
            yield self.row("data", label, plain, None, evaluations)
            yield self.row("data", f"{label} + branch", branch, label, evaluations)
