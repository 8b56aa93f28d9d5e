"""The step alone: what the reconstruction branch costs, what the gradient cache costs and saves, how far below the ceiling.

    python benchmarks/step.py                       # ViT-S/16 and Swin-T at 224 with small batches on the CPU; ~20 minutes
    python benchmarks/step.py --preset cuda         # batches that fill a GPU, bf16

A step is everything from views to updated weights: encoder, teacher, heads, losses, gradients, clipping, AdamW, moving
average. Every variant runs alone in a process of its own (so that its peak memory is its own), the variants take turns, and
ratios are of medians within this one run. The ceiling replays the step's own matrix products, attention and convolutions
on operands of the same shapes, strides and types, one after the other and nothing else.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ceiling import Recorder, replay
from machine import machine, words

from repre.config import RunConfig
from repre.data.views.render import make_views
from repre.models.repre import build_model
from repre.recipes import recipe
from repre.training.loop import clip_gradients, gradient_norm
from repre.training.optim import build_optimizer, set_schedule
from repre.training.step import forward_backward
from repre.types import Batch, Views

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """One way to take a step.

    Attributes:
        model: the recipe.
        batch: images in the step.
        micro_batch: images encoded at once; 0: all.
        branch: with the reconstruction branch.
        small: the encoder shrunk to `SMALL`, for batches that a CPU can take.
        ceiling: also time the ceiling.
    """

    model: str
    batch: int
    micro_batch: int = 0
    branch: bool = False
    small: bool = False
    ceiling: bool = False


SMALL = {"embed_dim": 192, "depth": 4, "num_heads": 3}
VIT, SWIN = "vit-small-moco-v3", "swin-tiny-moby"
Preset = dict[str, Variant]


def preset(batch: int, large: int, piece: int, *, small: bool) -> Preset:
    """The variants at a batch for the branch and the ceiling, and a large one for the gradient cache.

    Args:
        large: a batch whose pieces fit, and which whole may not.
        piece: the micro-batch.
    """
    return {
        "ViT-S/16": Variant(VIT, batch, ceiling=True),
        "ViT-S/16, branch": Variant(VIT, batch, branch=True),
        "Swin-T": Variant(SWIN, batch),
        "Swin-T, branch": Variant(SWIN, batch, branch=True),
        "cache: whole batch": Variant(VIT, large // 4, branch=True, small=small),
        "cache: in pieces": Variant(VIT, large // 4, piece, branch=True, small=small),
        "cache: large batch in pieces": Variant(VIT, large, piece, branch=True, small=small),
    }


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"variants": preset(8, 1024, 64, small=True), "size": 224, "small_size": 96, "steps": 3, "device": "cpu"},
    "cuda": {"variants": preset(256, 4096, 256, small=False), "size": 224, "small_size": 224, "steps": 10, "device": "cuda"},
    "toy": {"variants": {"ViT, branch": Variant(VIT, 4, 2, branch=True, small=True),
                         "ViT": Variant(VIT, 4, small=True, ceiling=True)},
            "size": 32, "small_size": 32, "steps": 1, "device": "cpu"},
}  # fmt: skip
PAIRS = {
    "the branch on ViT-S/16": ("ViT-S/16, branch", "ViT-S/16"),
    "the branch on Swin-T": ("Swin-T, branch", "Swin-T"),
    "the gradient cache": ("cache: in pieces", "cache: whole batch"),
    "the gradient cache at four times the batch": ("cache: large batch in pieces", "cache: whole batch"),
}
"""What is asked: the time per image of the first over that of the second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    settings = PRESETS[given.preset]
    if given.one:
        print(json.dumps(measure(settings["variants"][given.one], settings)))
        return
    names = given.only or list(settings["variants"])
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(given.rounds):
        for name in names:
            print(f"round {number + 1} of {given.rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(alone(given.preset, name))
    found = {
        "machine": machine(settings["device"]),
        "variants": {name: asdict(settings["variants"][name]) for name in names},
        "runs": runs,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"step-{given.preset}.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    (given.out / f"step-{given.preset}.md").write_text(text)
    print(text)


def alone(name: str, variant: str) -> dict[str, float]:
    """Measures a variant in a process of its own; no figures where its batch does not fit."""
    done = subprocess.run(
        [sys.executable, __file__, "--preset", name, "--one", variant], capture_output=True, text=True, check=False
    )
    if done.returncode and "out of memory" in done.stderr:
        return {}
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


# ------------------------------------------------------------------------------------------------------- measuring


def measure(variant: Variant, settings: dict[str, Any]) -> dict[str, float]:
    device = torch.device(settings["device"])
    config = build_config(variant, settings["small_size" if variant.small else "size"])
    step = Step(config, variant, device)
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    seconds = clock(step, settings["steps"], device)
    found = {
        "ms_per_image": 1e3 * seconds / variant.batch,
        "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "before_gib": baseline / 2**20,
    }
    if device.type == "cuda":
        found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if variant.ceiling:
        with Recorder() as recorder:
            step()
        best = clock(replay(recorder.calls, device), settings["steps"], device)
        found |= {"ceiling_share": best / seconds, "tflop_per_s": recorder.flops / seconds / 1e12}
    return found


def build_config(variant: Variant, size: int) -> RunConfig:
    config = recipe(variant.model)
    if variant.small:
        config = replace(config, encoder=replace(config.encoder, model_args=SMALL))
    weight = config.reconstruction.weight if variant.branch else 0.0
    return replace(
        config,
        views=replace(config.views, size=size),
        reconstruction=replace(config.reconstruction, weight=weight),
    )


class Step:
    """A step of training on random pixels, as the loop takes it."""

    def __init__(self, config: RunConfig, variant: Variant, device: torch.device) -> None:
        self.config, self.variant = config, variant
        self.precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.model = build_model(
            encoder=config.encoder_at_size,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=config.reconstruction,
            seed=0,
        ).to(device)
        self.model.train()
        self.optimizer = build_optimizer(config.optim, self.model, no_weight_decay=self.model.encoder.no_weight_decay)
        self.views = views(config, variant.batch, device)

    def __call__(self) -> None:
        set_schedule(self.optimizer, self.config.optim, progress=0.5, batch_size=self.variant.batch)
        losses = forward_backward(
            self.model, self.views, progress=0.5, seed=0, micro_batch=self.variant.micro_batch, precision=self.precision
        )
        clip_gradients(self.model, gradient_norm(self.model), self.config.optim.clip_grad_norm)
        self.model.framework.before_step(0.5)
        self.optimizer.step()
        self.model.framework.after_step(self.model.encoder, losses.diagnostics, 0.5)
        self.optimizer.zero_grad(set_to_none=True)


def views(config: RunConfig, batch: int, device: torch.device) -> Views:
    generator = torch.Generator().manual_seed(0)
    side = config.views.size
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    positions = torch.arange(batch)
    whole = Batch(pixels, torch.full((batch, 2), side), positions, positions, 0)
    return make_views(whole, config.rendered_views, seed=0, device=device)


def clock(function: Any, times: int, device: torch.device) -> float:
    """Seconds of one call: the median."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


# ----------------------------------------------------------------------------------------------------------- words


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{words(found['machine'])}; {max(map(len, found['runs'].values()))} rounds",
        "",
        "| | batch | micro-batch | ms per image, median (range) | peak memory | share of the ceiling |",
        "|---|---|---|---|---|---|",
    ]
    for name, rounds in found["runs"].items():
        variant, done = found["variants"][name], [one for one in rounds if one]
        sizes = f"{variant['batch']} | {variant['micro_batch'] or 'whole'}"
        if not done:
            lines.append(f"| {name} | {sizes} | does not fit | | |")
            continue
        times = [one["ms_per_image"] for one in done]
        share = [one["ceiling_share"] for one in done if "ceiling_share" in one]
        rate = [one["tflop_per_s"] for one in done if "tflop_per_s" in one]
        told = f"{statistics.median(share):.0%}, {statistics.median(rate):.3g} TFLOP/s" if share else ""
        lines.append(
            f"| {name} | {sizes} | {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {max(one['memory_gib'] for one in done):.2f} GiB | {told} |"
        )
    return "\n".join([*lines, "", *ratios(found["runs"])]) + "\n"


def ratios(runs: dict[str, list[dict[str, float]]]) -> list[str]:
    """What is asked, round by round: each round's own ratio, and their median."""
    told = []
    for words_, (one, other) in PAIRS.items():
        pairs = [
            a["ms_per_image"] / b["ms_per_image"] for a, b in zip(runs.get(one, []), runs.get(other, [])) if a and b
        ]
        if pairs:
            middle = statistics.median(pairs)
            told.append(f"- {words_}: {middle:.3f} times as long per image ({min(pairs):.3f} to {max(pairs):.3f})")
    return told


if __name__ == "__main__":
    main()
