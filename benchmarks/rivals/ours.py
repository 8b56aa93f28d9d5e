"""repre on the same task: its own command, timed by its own metrics after the warm-up."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import report, save_grid, task

import repre
from repre.config import ComputeConfig, RunConfig, RuntimeConfig
from repre.data.loader import Loader
from repre.data.sources import open_source
from repre.data.views import make_views, simclr_views
from repre.encoder import EncoderConfig
from repre.frameworks import SimCLRConfig
from repre.model import ReconstructionConfig
from repre.optim import OptimConfig


def main() -> None:
    branch = "--branch" in sys.argv
    if branch:
        sys.argv.remove("--branch")
    job, name = task(), "repre with the branch" if branch else "repre"
    count = len(open_source(job.images))
    steps_per_epoch = count // job.batch
    epochs = -(-(job.steps + job.warmup) // steps_per_epoch)
    out = Path(job.out) / "run"
    shutil.rmtree(out, ignore_errors=True)
    config = RunConfig(
        data=job.images,
        out=str(out),
        epochs=epochs,
        batch_size=job.batch,
        encoder=EncoderConfig(
            name="vit_tiny_patch16_224",
            patch_size=job.patch,
            model_args={"embed_dim": job.dim, "depth": job.depth, "num_heads": job.heads},
        ),
        framework=SimCLRConfig(hidden=2048, out=256, temperature=0.2),
        reconstruction=ReconstructionConfig(weight=1.0 if branch else 0.0),
        views=simclr_views(job.size),
        optim=OptimConfig(lr=1e-4),
        compute=ComputeConfig(precision="bf16" if job.precision == "bf16" else "fp32"),
        runtime=RuntimeConfig(device=job.device, workers=job.workers, log_every=1, check_every=10**6, monitor_images=8),
    )
    batch = next(iter(_loader(config)))
    save_grid(make_views(batch, config.views, seed=0, device="cpu").images, job, "repre")
    run = repre.pretrain(config)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    timed = rows[job.warmup : job.warmup + job.steps]
    seconds = [job.batch / row["images_per_s"] for row in timed]
    wait = sum(row["data_wait"] * s for row, s in zip(timed, seconds)) / sum(seconds)
    report(
        name,
        dataclasses.replace(job),
        images_per_s=job.batch * len(timed) / sum(seconds),
        data_wait=wait,
        transforms=f"repre {repre.__version__} views on the device, {job.workers} decoding processes",
    )


def _loader(config: RunConfig) -> Loader:
    source = open_source(config.data, canvas=config.canvas)
    return Loader(source, batch_size=config.batch_size, epochs=1, seed=0, canvas=config.canvas, workers=0)


if __name__ == "__main__":
    main()
