"""repre on the same task: `repre.pretrain`, timed by its own metrics after the warm-up.

Images are decoded at full size, so that crops come from the same pixels as those of the other contenders.

default          every image is decoded, as in the first epoch
--later-epochs   the warm-up is an epoch longer, and the timed steps read what it decoded from the cache
--branch         with the reconstruction branch
"""

import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from contender import (
    BOTTLENECK_DIM,
    DINO_HIDDEN_DIM,
    HIDDEN_DIM,
    OUT_DIM,
    TEMPERATURE,
    Task,
    parse_task,
    report,
    save_grid,
)

import repre
from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader, LoaderConfig
from repre.data.views.render import make_views
from repre.data.views.view_recipes import dino_views, simclr_views
from repre.frameworks import DINOConfig, SimCLRConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training.optim import OptimConfig

DECODE_SIZE = 500


def log_every(task: Task) -> int:
    """Returns the steps between two lines of metrics: one line ends the warm-up and one is at the last timed step."""
    return math.gcd(task.warmup, task.steps)


def steps_per_epoch(task: Task) -> int:
    """Returns the steps of an epoch."""
    return len(open_source(task.images)) // task.batch


def run_config(task: Task, *, branch: bool, later_epochs: bool) -> RunConfig:
    """Returns the config of the run."""
    simclr = task.method == "simclr"
    dino = DINOConfig(hidden_dim=DINO_HIDDEN_DIM, bottleneck_dim=BOTTLENECK_DIM, prototypes=task.prototypes)
    return RunConfig(
        data=task.images,
        out=str(Path(task.out) / ("run-branch" if branch else "run")),
        epochs=-(-(task.steps + task.warmup) // steps_per_epoch(task)),
        batch_size=task.batch,
        encoder=EncoderConfig(
            name="vit_tiny_patch16_224",
            patch_size=task.patch,
            model_args={"embed_dim": task.dim, "depth": task.depth, "num_heads": task.heads},
        ),
        framework=SimCLRConfig(hidden_dim=HIDDEN_DIM, out_dim=OUT_DIM, temperature=TEMPERATURE) if simclr else dino,
        reconstruction=ReconstructionConfig() if branch else ReconstructionConfig(weight=0.0),
        views=simclr_views(task.size) if simclr else dino_views(task.size, task.local_size, task.n_local),
        optim=OptimConfig(lr=1e-4),
        loader=LoaderConfig(decode_size=DECODE_SIZE, cache="on" if later_epochs else "off"),
        compute=ComputeConfig(
            precision="bf16" if task.precision == "bf16" else "fp32",
            compile="on" if task.device.startswith("cuda") else "off",  # auto would not, for so short a run
        ),
        runtime=RuntimeConfig(
            device=task.device, workers=task.workers, log_every=log_every(task), eval_every_epochs=10**6, monitors=False
        ),
    )


def main() -> None:
    branch, later_epochs = "--branch" in sys.argv, "--later-epochs" in sys.argv
    sys.argv = [word for word in sys.argv if word not in ("--branch", "--later-epochs")]
    task = parse_task()
    if later_epochs:
        task = replace(task, warmup=task.warmup + steps_per_epoch(task))
    cache = Path(task.out) / "cache"
    os.environ["REPRE_CACHE"] = str(cache)
    config = run_config(task, branch=branch, later_epochs=later_epochs)
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(config.out, ignore_errors=True)
    path = repre.pretrain(config).path
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if task.warmup < row["step"] <= task.warmup + task.steps]
    seconds = [log_every(task) * task.batch / row["images_per_s"] for row in timed]
    report(
        "repre with the branch" if branch else "repre, later epochs" if later_epochs else "repre",
        task,
        images_per_s=task.steps * task.batch / sum(seconds),
        data_wait=sum(row["data_wait"] * s for row, s in zip(timed, seconds)) / sum(seconds),
        does=f"repre {repre.__version__}: {'decoded images from the cache' if later_epochs else 'PIL decoding'} in "
        f"{task.workers} processes, "
        f"{'which make the views of a batch' if task.device == 'cpu' else 'views of the batch on the device'}; fused AdamW",
    )
    shutil.rmtree(cache, ignore_errors=True)
    source = open_source(config.data, canvas=config.decode_size)
    loader = Loader(
        source, batch_size=config.batch_size, epochs=1, seed=config.seed, canvas=config.decode_size, workers=0
    )
    save_grid(
        make_views(next(iter(loader)), config.rendered_views, seed=config.seed, device="cpu").images, task, "repre"
    )


if __name__ == "__main__":
    main()
