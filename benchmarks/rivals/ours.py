"""repre on the same task: its own command, timed by its own metrics after the warm-up.

The canvas holds the whole images, so that crops are cut from the pixels that everybody else's are cut from.
"""

import json
import math
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from contender import BOTTLENECK, DINO_HIDDEN, HIDDEN, OUT, TEMPERATURE, Task, report, save_grid, task

import repre
from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader, LoaderConfig
from repre.data.views.render import dino_views, make_views, simclr_views
from repre.frameworks import DINOConfig, SimCLRConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training.optim import OptimConfig

CANVAS = 500


def every(job: Task) -> int:
    """Steps between two lines of metrics, so that one falls on the end of the warm-up and one on the last step."""
    return math.gcd(job.warmup, job.steps)


def config(job: Task, *, branch: bool) -> RunConfig:
    steps_per_epoch = len(open_source(job.images)) // job.batch
    simclr = job.method == "simclr"
    dino = DINOConfig(hidden_dim=DINO_HIDDEN, bottleneck_dim=BOTTLENECK, prototypes=job.prototypes)
    return RunConfig(
        data=job.images,
        out=str(Path(job.out) / ("run-branch" if branch else "run")),
        epochs=-(-(job.steps + job.warmup) // steps_per_epoch),
        batch_size=job.batch,
        encoder=EncoderConfig(
            name="vit_tiny_patch16_224",
            patch_size=job.patch,
            model_args={"embed_dim": job.dim, "depth": job.depth, "num_heads": job.heads},
        ),
        framework=SimCLRConfig(hidden_dim=HIDDEN, out_dim=OUT, temperature=TEMPERATURE) if simclr else dino,
        reconstruction=ReconstructionConfig() if branch else ReconstructionConfig(weight=0.0),
        views=simclr_views(job.size) if simclr else dino_views(job.size, job.local_size, job.n_local),
        optim=OptimConfig(lr=1e-4),
        loader=LoaderConfig(decode_size=CANVAS),
        compute=ComputeConfig(precision="bf16" if job.precision == "bf16" else "fp32"),
        runtime=RuntimeConfig(
            device=job.device, workers=job.workers, log_every=every(job), eval_every_epochs=10**6, monitors=False
        ),
    )


def main() -> None:
    branch = "--branch" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--branch"]
    job, name = task(), "repre with the branch" if branch else "repre"
    run = config(job, branch=branch)
    shutil.rmtree(run.out, ignore_errors=True)
    path = repre.pretrain(run).path
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if job.warmup < row["step"] <= job.warmup + job.steps]
    seconds = [every(job) * job.batch / row["images_per_s"] for row in timed]
    report(
        name,
        job,
        images_per_s=job.steps * job.batch / sum(seconds),
        data_wait=sum(row["data_wait"] * s for row, s in zip(timed, seconds)) / sum(seconds),
        does=f"repre {repre.__version__}: PIL decoding in {job.workers} processes, "
        f"{'which make the views of a batch' if job.device == 'cpu' else 'views of the batch on the device'}; fused AdamW",
    )
    source = open_source(run.data, canvas=run.decode_size)
    loader = Loader(source, batch_size=run.batch_size, epochs=1, seed=run.seed, canvas=run.decode_size, workers=0)
    save_grid(make_views(next(iter(loader)), run.rendered_views, seed=run.seed, device="cpu").images, job, "repre")


if __name__ == "__main__":
    main()
