"""What every part of the GPU script gets: its sizes, folders and time, and where it writes its rows."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from repre.config import ComputeConfig, RunConfig
from repre.data.views.view_recipes import dino_views
from repre.frameworks import DINOConfig
from repre.models.encoder import EncoderConfig
from repre.recipes import recipe

RECIPES = {
    "simclr": "vit-small-simclr",
    "moco-v3": "vit-small-moco-v3-timm",
    "dino": "vit-small-dino",
    "moby": "swin-tiny-moby",
}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that the parts do."""

    device: str
    """cpu or cuda."""
    precision: str
    """fp32 or bf16."""
    modes: tuple[str, ...]
    """Values of `compute.compile` to measure."""
    size: int
    """Side of the global views in pixels."""
    local_size: int
    """Side of DINO's local views."""
    n_local: int
    """Number of DINO's local views."""
    prototypes: int
    """Number of DINO's prototypes."""
    batch: int
    """Images in a step."""
    pyramid_batch: int
    """Images in a step of a Swin transformer."""
    steps: int
    """Timed steps in a round."""
    rounds: int
    """Rounds of timed steps."""
    canvases: tuple[int, ...]
    """Sides of the canvases that views are made from."""
    workers: int
    """Decoding processes."""
    count: int
    """Number of images."""
    recipe_batch: int
    """Batch size of the published recipe."""
    recipe_steps: int
    """Steps of the published recipe."""
    cards_gib: tuple[float, ...]
    """Memory of the smaller cards to imitate."""
    pipeline: str
    """Preset of pipeline.py."""
    contenders: dict[str, tuple[str, ...]]
    """Contenders of pipeline.py, by method; rivals first."""
    lease: tuple[str, ...]
    """Options of `experiments.run`."""
    product: int
    """Side of the square matrices whose product shows the state of the device."""


SCALES = {
    "gpu": Scale(
        device="cuda", precision="bf16", modes=("off", "on"), size=224, local_size=96, n_local=6, prototypes=65536,
        batch=256, pyramid_batch=128, steps=10, rounds=3, canvases=(448, 500), workers=16, count=20480,
        recipe_batch=1024, recipe_steps=40, cards_gib=(12, 24), pipeline="cuda",
        contenders={
            "simclr": ("lightly-train", "stable-pretraining, batched", "repre", "repre, later epochs"),
            "dino": ("lightly-train", "repre", "repre, later epochs"),
        },
        lease=("--preset", "lease", "--processes", "6"), product=8192,
    ),
    "toy": Scale(
        device="cpu", precision="fp32", modes=("off",), size=32, local_size=16, n_local=2, prototypes=64,
        batch=4, pyramid_batch=2, steps=1, rounds=1, canvases=(64,), workers=1, count=32,
        recipe_batch=8, recipe_steps=3, cards_gib=(12,), pipeline="toy",
        contenders={"simclr": ("lightly-train", "repre"), "dino": ("lightly-train",)},
        lease=(
            "--preset", "real-toy", "--processes", "2", "--only", "camvid-confirmatory", "--seeds", "1",
            "--methods", "plain", "random",
        ),
        product=64,
    ),
}  # fmt: skip
TOY_ENCODERS = {
    "vit": EncoderConfig(
        name="vit_tiny_patch16_224", patch_size=8, model_args={"embed_dim": 32, "depth": 2, "num_heads": 2}
    ),
    "swin": EncoderConfig(
        name="swin_tiny_patch4_window7_224",
        model_args={"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4},
    ),
}
TOY_PYRAMID_SIZE = 64
TOY_HIDDEN_DIM = 32


class Skip(Exception):
    """A part cannot run here; the message says why."""


@dataclass(frozen=True)
class Context:
    """What a part gets."""

    scale: Scale
    """Sizes."""
    images: Path
    """Folder of JPEG files."""
    work: Path
    """Folder for whatever the part leaves behind; it is deleted in the end."""
    out: Path
    """Folder of the results, for files that belong to them."""
    rows: Path
    """File of this part's rows."""
    deadline: float
    """Time of the monotonic clock at which the part is killed."""
    real: Path | None = None
    """Folder with the real images of the experiments."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the part is killed."""
        return self.deadline - time.monotonic()

    def emit(self, table: str, **row: Any) -> None:
        """Adds a row to a table of the results. A list of numbers is shown as its median and range."""
        with self.rows.open("a") as file:
            file.write(json.dumps({"table": table, "row": row}) + "\n")

    def require_cuda(self) -> None:
        """Raises Skip on a scale without a CUDA device."""
        if self.scale.device != "cuda":
            raise Skip("no CUDA")


class Part(NamedTuple):
    """One part of the script."""

    seconds: float
    """Time limit."""
    run: Callable[[Context], None]
    """Does the work in a process of its own."""


def run_config(scale: Scale, method: str, *, branch: bool, compiled: str) -> RunConfig:
    """Returns the config of a run of a method at a scale.

    Args:
        compiled: value of `compute.compile`.
    """
    config = recipe(RECIPES[method])
    is_toy, is_pyramid = scale.device == "cpu", method == "moby"
    size = TOY_PYRAMID_SIZE if is_toy and is_pyramid else scale.size
    views = replace(config.views, size=size)
    if is_toy:
        framework = replace(config.framework, hidden_dim=TOY_HIDDEN_DIM)  # type: ignore[call-arg]
        config = replace(config, encoder=TOY_ENCODERS["swin" if is_pyramid else "vit"], framework=framework)
    if isinstance(config.framework, DINOConfig):
        views = dino_views(size, scale.local_size, scale.n_local)
        config = replace(config, framework=replace(config.framework, prototypes=scale.prototypes))
    return replace(
        config,
        batch_size=scale.pyramid_batch if is_pyramid else scale.batch,
        views=views,
        reconstruction=replace(config.reconstruction, weight=config.reconstruction.weight if branch else 0.0),
        compute=ComputeConfig(precision=scale.precision, compile=compiled, micro_batch=0),  # type: ignore[arg-type]
    )
