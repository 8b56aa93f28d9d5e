"""The rows of `small_data`: one training each, as changes of one basic setting, the most important first."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.data.views.view_recipes import ViewsConfig, dino_views, moco_v3_views, simclr_views
from repre.frameworks import DINOConfig, FrameworkConfig, MoCoV3Config, SimCLRConfig
from repre.models.decoder import DecoderConfig
from repre.models.encoder import Argument, EncoderConfig
from repre.recipes import recipe
from repre.training.optim import OptimConfig

NAMES = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch16_224"}
FRAMEWORKS: dict[str, FrameworkConfig] = {
    "moco-v3": MoCoV3Config(),
    "simclr": SimCLRConfig(),
    "dino": DINOConfig(
        prototypes=1024, momentum=0.98, teacher_temperature_warmup=0.3, freeze_last_layer=0.02, center_momentum=0.8
    ),
}


@dataclass(frozen=True)
class Row:
    """One training, or with 0 steps the random start, and the data that it is measured on."""

    data: str = "camvid"
    encoder: str = "tiny"
    patch: int = 16
    size: int = 160
    framework: str = "moco-v3"
    weight: float = 10.0
    balance: float = 0.0
    lr: float = 5e-4
    """Peak learning rate of the optimizer, whatever the batch."""
    batch: int = 64
    steps: int = 600
    """At least; the run has whole epochs."""
    crop: float = 0.2
    """Smallest share of the image's area that a crop covers."""
    frozen_patches: bool = False
    seed: int = 0
    recipe: str = ""
    """A recipe whose settings replace all of these except data, batch, steps, weight and seed."""
    model_args: dict[str, Argument] = field(default_factory=dict)

    @property
    def is_dense(self) -> bool:
        """Whether the data have masks; otherwise class folders."""
        return self.data == "camvid"

    @property
    def name(self) -> str:
        """All settings in short."""
        branch = f"w{self.weight:g}" + (f" balance{self.balance:g}" if self.balance else "")
        how = f"{self.framework} {branch} lr{self.lr:g} b{self.batch} s{self.steps} c{self.crop:g}"
        how += " frozen-patches" if self.frozen_patches else ""
        how = f"{self.recipe} w{self.weight:g} b{self.batch} s{self.steps}" if self.recipe else how
        how += f" seed{self.seed}" if self.seed else ""
        return f"{self.data} {self.encoder}/{self.patch}@{self.size} {how if self.steps else 'random'}"

    @property
    def random_init(self) -> str:
        """The encoder without training, as `--encoder` accepts it."""
        values = {"image_size": self.size, "patch_size": self.patch, **self.model_args}
        return f"random:{NAMES[self.encoder]}[{','.join(f'{key}={value!r}' for key, value in values.items())}]"

    def config(
        self, images: str, out: Path, *, count: int, job_device: str, workers: int, monitor_samples: int
    ) -> RunConfig:
        """The run on `count` images."""
        epochs = -(-self.steps // max(1, count // self.batch))
        config = recipe(self.recipe) if self.recipe else self.own_settings()
        return replace(
            config,
            data=images,
            out=str(out),
            epochs=epochs,
            batch_size=self.batch,
            seed=self.seed,
            reconstruction=replace(config.reconstruction, weight=self.weight, balance=self.balance),
            compute=ComputeConfig(compile="off", micro_batch=0),
            runtime=RuntimeConfig(
                device=job_device,
                workers=workers,
                eval_every_epochs=max(1, epochs // 2),
                monitor_samples=monitor_samples,
                log_every=50,
            ),
        )

    def own_settings(self) -> RunConfig:
        """Encoder, framework, views and optimizer of a row without a recipe."""
        return RunConfig(
            encoder=EncoderConfig(
                name=NAMES[self.encoder],
                patch_size=self.patch,
                freeze_patch_embed=self.frozen_patches,
                model_args=self.model_args,
            ),
            framework=FRAMEWORKS[self.framework],
            decoder=DecoderConfig(dim=64),
            views=self.views(),
            optim=OptimConfig(
                lr=self.lr, base_batch_size=self.batch, warmup_fraction=0.1, weight_decay=0.05, clip_grad_norm=3.0
            ),
        )

    def views(self) -> ViewsConfig:
        """The views of the framework, with the smallest crop of the row."""
        if self.framework == "dino":
            return dino_views(self.size, local_size=self.size // 32 * 16, n_local=4, split=max(self.crop, 0.25))
        views = moco_v3_views(self.size) if self.framework == "moco-v3" else simclr_views(self.size)
        first, second = (replace(view, scale=(self.crop, 1.0)) for view in (views.first, views.second))
        return replace(views, first=first, second=second)


def rows(*changes: dict[str, Any], base: Row | None = None) -> list[Row]:
    """A row for each dictionary of changes; `branch=(…)` gives one for every weight."""
    made = []
    for change in changes:
        change = dict(change)
        for weight in change.pop("branch", (change.pop("weight", 10.0),)):
            made.append(replace(base or Row(), weight=weight, **change))
    return made


BOTH = {"branch": (10.0, 0.0)}
PUBLISHED = {"encoder": "small", "size": 224, "recipe": "vit-small-moco-v3"}
"""The published recipe at batch 64: its learning rate shrinks with the batch, to 3.75e-5."""
PHOTOS = Row(data="photos", size=64, patch=8)

ROWS = [
    *rows(BOTH, {"steps": 0}, *({"lr": lr, **BOTH} for lr in (1e-3, 1e-4)), {"lr": 2e-3}),
    *rows(PUBLISHED, {"seed": 1, **BOTH}, {"steps": 1500}, {"crop": 0.4}, {"crop": 0.08}, {"framework": "simclr"}),
    *rows(BOTH, {"steps": 0}, base=PHOTOS),
    *rows(
        {"encoder": "small", "size": 224, "steps": 0},
        {"size": 224},
        {"size": 224, "steps": 0},
        {"steps": 1500, "weight": 0.0},
    ),
    *rows({"lr": 1e-3, **BOTH}, {"framework": "simclr", **BOTH}, {"crop": 0.4, **BOTH}, base=PHOTOS),
    *rows({"patch": 8, "size": 80, **BOTH}, {"patch": 8, "size": 80, "steps": 0}, {"frozen_patches": True}),
    *rows(
        {"encoder": "small", **BOTH},
        {"encoder": "small", "steps": 0},
        {"seed": 2, **BOTH},
        {"weight": 100.0},
        {"weight": 1.0},
    ),
    *rows({"balance": 1.0}, {"lr": 3.7e-5}, {"lr": 2e-3, "weight": 0.0}, {"batch": 32, **BOTH}, {"batch": 128, **BOTH}),
    *rows({"framework": "simclr", "weight": 0.0}, {"crop": 0.4, "weight": 0.0}, {"crop": 0.08, "weight": 0.0}),
    *rows({"framework": "dino", "branch": (1.0, 0.0)}, {"steps": 300, **BOTH}, {"frozen_patches": True, "weight": 0.0}),
    *rows({"steps": 1500, **BOTH}, {"framework": "dino", "branch": (1.0, 0.0)}, base=PHOTOS),
]
TOY = Row(size=32, batch=4, steps=2, model_args={"embed_dim": 32, "depth": 4, "num_heads": 2})
TOY_ROWS = [
    *rows({}, {"steps": 0}, {"framework": "dino", "weight": 0.0}, base=TOY),
    *rows({"patch": 8, "framework": "simclr"}, base=replace(TOY, data="photos")),
]
