"""The training step alone: cost of the reconstruction branch, cost and savings of the gradient cache, share of the ceiling.

    python benchmarks/step.py                       # ViT-S/16 and Swin-T at 224 with small batches on the CPU; ~20 minutes
    python benchmarks/step.py --preset cuda         # batches that fill a GPU, bf16
    python benchmarks/step.py --preset frameworks   # every framework x {ViT, Swin}, without and with the branch

A step is `repre.training.step.train_step`: everything from views to updated weights. Every variant runs alone in its own
process, so that its peak memory is its own. The variants alternate, and ratios are between times of the same round. The
ceiling replays the step's own matrix products, attention and convolutions, with operands of the same shapes, strides and
types, one after the other and nothing else.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ceiling import Recorder, replay
from machine import describe_machine, machine

from repre.config import ComputeConfig, RunConfig
from repre.data.views.render import make_views
from repre.data.views.view_recipes import ViewsConfig
from repre.recipes import recipe
from repre.training.run_state import RunState
from repre.training.step import train_step
from repre.types import Batch, Views
from repre.utils.device import pick_precision
from repre.utils.io import write_json

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """One way to take a step."""

    recipe: str
    """Recipe of the model."""
    batch: int
    """Images in the step."""
    micro_batch: int = 0
    """Images encoded at once; 0 encodes the whole batch."""
    branch: bool = False
    """Whether the reconstruction branch takes part."""
    small: bool = False
    """Whether the encoder is shrunk to `SMALL`, for batches that a CPU can handle."""
    ceiling: bool = False
    """Whether the ceiling is timed as well."""


@dataclass(frozen=True)
class Preset:
    """The variants and their sizes on one kind of machine."""

    variants: dict[str, Variant]
    """Variants by name."""
    size: int
    """Side of the global views in pixels."""
    small_size: int
    """Side of the global views for small encoders."""
    steps: int
    """Timed steps per round."""
    device: str
    """cpu or cuda; cuda runs in bf16."""


SMALL: dict[str, Any] = {"embed_dim": 192, "depth": 4, "num_heads": 3}
VIT, SWIN = "vit-small-moco-v3-timm", "swin-tiny-moby"


def variants(batch: int, large_batch: int, micro_batch: int, *, small: bool) -> dict[str, Variant]:
    """Returns the variants of a preset.

    Args:
        batch: batch size for the branch and the ceiling.
        large_batch: batch size for the gradient cache; it may be too large to be encoded at once.
    """
    return {
        "ViT-S/16": Variant(VIT, batch, ceiling=True),
        "ViT-S/16, branch": Variant(VIT, batch, branch=True),
        "Swin-T": Variant(SWIN, batch),
        "Swin-T, branch": Variant(SWIN, batch, branch=True),
        "cache: whole batch": Variant(VIT, large_batch // 4, branch=True, small=small),
        "cache: in pieces": Variant(VIT, large_batch // 4, micro_batch, branch=True, small=small),
        "cache: large batch in pieces": Variant(VIT, large_batch, micro_batch, branch=True, small=small),
    }


def framework_variants(vit: str, swin: str, batch: int) -> dict[str, Variant]:
    """Returns the recipes of every framework for two encoders, without and with the branch."""
    frameworks = ("moco-v3", "dino", "moby", "byol", "simclr", "dinov2", "ibot", "pixels")
    return {
        f"{framework}, {encoder}{', branch' * branch}": Variant(f"{encoder}-{framework}", batch, branch=branch)
        for framework in frameworks
        for encoder in (vit, swin)
        for branch in (False, True)
        if branch or framework != "pixels"
    }


PRESETS = {
    "frameworks": Preset(
        framework_variants("vit-tiny", "swin-tiny", 4), size=224, small_size=96, steps=3, device="cpu"
    ),
    "frameworks-cuda": Preset(
        framework_variants("vit-small", "swin-tiny", 64), size=224, small_size=224, steps=10, device="cuda"
    ),
    "cpu": Preset(variants(8, 1024, 64, small=True), size=224, small_size=96, steps=3, device="cpu"),
    "cuda": Preset(variants(256, 4096, 256, small=False), size=224, small_size=224, steps=10, device="cuda"),
    "toy": Preset(
        {
            "ViT, branch": Variant(VIT, 4, 2, branch=True, small=True),
            "ViT": Variant(VIT, 4, small=True, ceiling=True),
        },
        size=32,
        small_size=32,
        steps=1,
        device="cpu",
    ),
}
RATIOS = {
    "the branch on ViT-S/16": ("ViT-S/16, branch", "ViT-S/16"),
    "the branch on Swin-T": ("Swin-T, branch", "Swin-T"),
    "the gradient cache": ("cache: in pieces", "cache: whole batch"),
    "the gradient cache at four times the batch": ("cache: large batch in pieces", "cache: whole batch"),
}
"""Question -> the two variants whose time per image is divided."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="size of the steps")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every variant")
    parser.add_argument("--only", nargs="*", help="names of variants; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    parser.add_argument("--measure-here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    if args.measure_here:
        print(json.dumps(measure(preset.variants[args.measure_here], preset)))
        return
    names = args.only or list(preset.variants)
    if unknown := set(names) - set(preset.variants):
        parser.error(f"--only: no variant {', '.join(sorted(unknown))}; use {', '.join(preset.variants)}")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names:
            print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(measure_in_process(args.preset, name))
    results = {
        "machine": machine(preset.device),
        "variants": {name: asdict(preset.variants[name]) for name in names},
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"step-{args.preset}.json", results)
    text = table(results)
    (args.out / f"step-{args.preset}.md").write_text(text)
    print(text)


def measure_in_process(preset: str, variant: str) -> dict[str, float]:
    """Measures a variant in its own process; returns no metrics if its batch does not fit into memory."""
    process = subprocess.run(
        [sys.executable, __file__, "--preset", preset, "--measure-here", variant],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode and "out of memory" in process.stderr:
        return {}
    if process.returncode:
        raise SystemExit(f"{variant} failed:\n{process.stderr[-3000:]}")
    metrics: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return metrics


# ------------------------------------------------------------------------------------------------------- measuring


def measure(variant: Variant, preset: Preset) -> dict[str, float]:
    """Measures a variant in this process: time per image, peak memory and, if asked for, the share of the ceiling."""
    device = torch.device(preset.device)
    step = build_step(build_config(variant, preset), device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    seconds = median_seconds(step, preset.steps, device)
    metrics = {
        "ms_per_image": 1e3 * seconds / variant.batch,
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "before_gib": before / 2**20,
    }
    if device.type == "cuda":
        metrics["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if variant.ceiling:
        with Recorder() as recorder:
            step()
        ceiling_seconds = median_seconds(replay(recorder.calls, device), preset.steps, device)
        metrics["ceiling_share"] = ceiling_seconds / seconds
        metrics["tflop_per_s"] = recorder.flops / seconds / 1e12
    return metrics


def build_config(variant: Variant, preset: Preset) -> RunConfig:
    """Returns the config of the run that the step belongs to."""
    config = recipe(variant.recipe)
    if variant.small:
        config = replace(config, encoder=replace(config.encoder, model_args=SMALL))
    weight = config.reconstruction.weight if variant.branch else 0.0
    return replace(
        config,
        batch_size=variant.batch,
        views=replace(config.views, size=preset.small_size if variant.small else preset.size),
        reconstruction=replace(config.reconstruction, weight=weight),
        compute=ComputeConfig(precision="bf16" if preset.device == "cuda" else "fp32", micro_batch=variant.micro_batch),
    )


def build_step(config: RunConfig, device: torch.device) -> Callable[[], object]:
    """Returns a function that takes one training step on random pixels, in the middle of a run."""
    state = RunState(config, device)
    return partial(
        train_step,
        state.model,
        state.optimizer,
        random_views(config, state.views, device),
        optim=config.optim,
        batch_size=config.batch_size,
        progress=0.5,
        seed=0,
        micro_batch=config.compute.micro_batch,
        precision=state.precision,
        scaler=state.scaler,
    )


def random_views(config: RunConfig, views: ViewsConfig, device: torch.device) -> Views:
    """Returns the views of a batch of random images."""
    generator = torch.Generator().manual_seed(0)
    batch, side = config.batch_size, max(views.shape)
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    positions = torch.arange(batch)
    images = Batch(pixels, torch.full((batch, 2), side), positions, positions, 0)
    dtype = torch.float32 if device.type == "cpu" else pick_precision(config.compute.precision, device)
    return make_views(images, views, seed=0, device=device, dtype=dtype)


def median_seconds(function: Callable[[], object], calls: int, device: torch.device) -> float:
    """Returns the median duration of a call in seconds."""
    durations = []
    for _ in range(calls):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


# ------------------------------------------------------------------------------------------------------- reporting


def table(results: dict[str, Any]) -> str:
    """Returns the results in Markdown."""
    lines = [
        f"{describe_machine(results['machine'])}; {max(map(len, results['runs'].values()))} rounds",
        "",
        "| | batch | micro-batch | ms per image, median (range) | peak memory | share of the ceiling |",
        "|---|---|---|---|---|---|",
    ]
    for name, rounds in results["runs"].items():
        variant, measured = results["variants"][name], [metrics for metrics in rounds if metrics]
        sizes = f"{variant['batch']} | {variant['micro_batch'] or 'whole'}"
        if not measured:
            lines.append(f"| {name} | {sizes} | does not fit | | |")
            continue
        times = [metrics["ms_per_image"] for metrics in measured]
        memory = max(metrics["memory_gib"] for metrics in measured)
        ceiling = ""
        if variant["ceiling"]:
            share, rate = (
                statistics.median(metrics[key] for metrics in measured) for key in ("ceiling_share", "tflop_per_s")
            )
            ceiling = f"{share:.0%}, {rate:.3g} TFLOP/s"
        milliseconds = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        lines.append(f"| {name} | {sizes} | {milliseconds} | {memory:.2f} GiB | {ceiling} |")
    return "\n".join([*lines, "", *ratio_lines(results["runs"])]) + "\n"


def ratio_lines(runs: dict[str, list[dict[str, float]]]) -> list[str]:
    """Returns one line per entry of `RATIOS`: the median and the range of the ratios of all rounds."""
    lines = []
    for question, (numerator, denominator) in RATIOS.items():
        ratios = [
            a["ms_per_image"] / b["ms_per_image"]
            for a, b in zip(runs.get(numerator, []), runs.get(denominator, []))
            if a and b
        ]
        if ratios:
            median = statistics.median(ratios)
            lines.append(f"- {question}: {median:.3f} times as long per image ({min(ratios):.3f} to {max(ratios):.3f})")
    return lines


if __name__ == "__main__":
    main()
