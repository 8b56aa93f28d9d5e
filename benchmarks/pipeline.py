"""The whole pipeline, from JPEG files to updated weights, against rivals: images per second, memory, waiting for data.

    python benchmarks/pipeline.py                                  # a small ViT on the CPU, SimCLR
    python benchmarks/pipeline.py --preset cuda                    # ViT-S/16 at 224 in bf16
    python benchmarks/pipeline.py --preset cuda --method dino      # 2 x 224 + 6 x 96

Every contender runs alone in a process and an environment of its own, on the same images, encoder, image size, batch and
precision; the contenders take turns, and the ratios are of medians within this one run. The images are drawn here (see
images.py), or a folder of your own with --images. Each contender saves a grid of the views that it trained on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rival_environments import interpreter, make
from synthetic_photos import draw_images
from machine import machine, words

HERE = Path(__file__).parent
CONTENDERS = {
    "repre": ("ours.py", [], None),
    "repre with the branch": ("ours.py", ["--branch"], None),
    "plain": ("plain.py", [], None),
    "lightly": ("with_lightly.py", [], "lightly"),
    "lightly-train": ("with_lightly_train.py", [], "lightly-train"),
    "stable-pretraining": ("with_stable_pretraining.py", [], "stable-pretraining"),
    "stable-pretraining, batched": ("with_stable_pretraining.py", ["--batched"], "stable-pretraining"),
}
"""Contender: its script, further words for it, and its environment, where that is not this one."""
SIMCLR_ONLY = ("stable-pretraining", "stable-pretraining, batched")
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"size": 96, "local_size": 48, "n_local": 6, "prototypes": 4096, "patch": 16, "dim": 192, "depth": 4, "heads": 3,
            "batch": 64, "steps": 24, "warmup": 4, "device": "cpu", "precision": "fp32", "count": 2048},
    "cuda": {"size": 224, "local_size": 96, "n_local": 6, "prototypes": 65536, "patch": 16, "dim": 384, "depth": 12,
             "heads": 6, "batch": 256, "steps": 60, "warmup": 20, "device": "cuda", "precision": "bf16", "count": 20480},
    "toy": {"size": 32, "local_size": 16, "n_local": 2, "prototypes": 64, "patch": 8, "dim": 32, "depth": 2, "heads": 2,
            "batch": 8, "steps": 2, "warmup": 1, "device": "cpu", "precision": "fp32", "count": 32},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--method", choices=("simclr", "dino"), default="simclr")
    parser.add_argument("--images", help="a folder of JPEG files; by default drawn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=max(1, min(16, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--share", action="store_true", help="rivals see this environment's torch: less to install")
    parser.add_argument("--installed", action="store_true", help="leave out rivals without an environment; make none")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    names = [name for name in given.only if given.method == "simclr" or name not in SIMCLR_ONLY]
    if given.installed:
        names = [n for n in names if CONTENDERS[n][2] is None or interpreter(CONTENDERS[n][2]).exists()]
    found = compete(names, given.preset, given.method, rounds=given.rounds, workers=given.workers, out=given.out,
                    images=given.images, share=given.share)  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"pipeline-{given.method}-{given.preset}"
    (given.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    (given.out / f"{name}.md").write_text(text)
    print(text)


def compete(
    names: list[str], preset: str, method: str, *, rounds: int, workers: int, out: Path, images: str | None, share: bool
) -> dict[str, Any]:
    """All figures of all contenders, taken in turn."""
    job = dict(PRESETS[preset]) | {"method": method, "workers": workers, "out": str(out / f"views-{method}-{preset}")}
    count = job.pop("count")
    job["images"] = images or str(draw_images(HERE / "data" / str(count), count))
    pythons = {
        name: make(CONTENDERS[name][2], share=share) if CONTENDERS[name][2] else sys.executable for name in names
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(run(name, str(pythons[name]), job))
    job["images"] = Path(job["images"]).name
    return {"machine": machine(job["device"]), "task": job, "runs": runs}


def run(name: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
    """One contender, once; its figures."""
    script, extra, _ = CONTENDERS[name]
    options = [word for key, value in job.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [python, str(HERE / "rivals" / script), *extra, *options], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"name"')]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    found = json.loads(lines[-1])
    del found["task"]
    return found


def table(result: dict[str, Any]) -> str:
    runs, job = result["runs"], result["task"]
    rate = {name: [one["images_per_s"] for one in found] for name, found in runs.items()}
    rivals = {name: statistics.median(values) for name, values in rate.items() if not name.startswith("repre")}
    best = max(rivals.values(), default=0.0)
    views = f"2 views of {job['size']} px"
    if job["method"] == "dino":
        views += f" and {job['n_local']} of {job['local_size']}, {job['prototypes']} prototypes"
    lines = [
        f"{job['method']}, ViT {job['dim']} x {job['depth']}, patch {job['patch']}, {views} from JPEG files of 500 x 375, "
        f"batch {job['batch']}, {job['precision']}, {job['device']}, {job['workers']} decoding processes; "
        f"{len(next(iter(runs.values())))} rounds. {words(result['machine'])}",
        "",
        "| | images/s, median (range) | against the best rival | waiting for data | peak memory | what it does |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in rate.items():
        middle = statistics.median(values)
        ratio = f"{middle / best:.2f} x" if best else ""
        wait = statistics.median(one["data_wait"] for one in runs[name])
        memory = max(one["memory_gib"] for one in runs[name])
        lines.append(
            f"| {name} | {middle:.1f} ({min(values):.1f} to {max(values):.1f}) | {ratio} | {wait:.0%} | {memory:.2f} GiB "
            f"| {runs[name][0]['does']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
