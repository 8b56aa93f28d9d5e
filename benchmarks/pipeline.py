"""The whole pipeline, from JPEG files to updated weights, against rivals: images per second, memory, waiting for data.

    python benchmarks/pipeline.py                      # a small ViT on the CPU
    python benchmarks/pipeline.py --preset cuda        # ViT-S/16 at 224 in bf16

Every contender runs alone in a process and an environment of its own, on the same images, encoder, image size, batch and
precision; the contenders take turns, and the ratios are of medians within this one run. The images are drawn here: scenes
of 500 x 375 pixels as JPEG of quality 90, or a folder of your own with --images.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RIVALS = {
    "repre": ("ours.py", [], []),
    "repre with the branch": ("ours.py", ["--branch"], []),
    "plain": ("plain.py", [], []),
    "lightly": ("with_lightly.py", [], ["lightly"]),
}
"""Contender: its script, further words for it, and the packages of its environment beside this one's."""
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"size": 96, "patch": 16, "dim": 192, "depth": 4, "heads": 3, "batch": 64, "steps": 12, "warmup": 3,
            "device": "cpu", "precision": "fp32", "count": 1024},
    "cuda": {"size": 224, "patch": 16, "dim": 384, "depth": 12, "heads": 6, "batch": 256, "steps": 60, "warmup": 20,
             "device": "cuda", "precision": "bf16", "count": 8192},
    "toy": {"size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2, "batch": 8, "steps": 2, "warmup": 1,
            "device": "cpu", "precision": "fp32", "count": 32},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--images", help="a folder of JPEG files; by default drawn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=max(1, min(16, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--only", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    job = dict(PRESETS[given.preset]) | {"workers": given.workers, "out": str(given.out / f"views-{given.preset}")}
    count = job.pop("count")
    job["images"] = given.images or str(draw_images(HERE / "data" / str(count), count))

    interpreters = {name: environment(name) for name in given.only}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
    for number in range(given.rounds):
        for name in given.only:
            print(f"round {number + 1} of {given.rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(run(name, interpreters[name], job))
    given.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(job["device"]), "task": job, "runs": runs}
    (given.out / f"pipeline-{given.preset}.json").write_text(json.dumps(result, indent=1) + "\n")
    text = table(result)
    (given.out / f"pipeline-{given.preset}.md").write_text(text)
    print(text)


def run(name: str, interpreter: str, job: dict[str, Any]) -> dict[str, Any]:
    """One contender, once; its figures."""
    script, words, _ = RIVALS[name]
    options = [word for key, value in job.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [interpreter, str(HERE / "rivals" / script), *words, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment(name: str) -> str:
    """The interpreter of a contender: this one, or one of its own that sees this one's torch and timm."""
    packages = RIVALS[name][2]
    if not packages:
        return sys.executable
    folder = HERE / "envs" / name
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        site = site_packages()
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "shared.pth").write_text(f"{site}\n")
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
    return str(interpreter)


def site_packages() -> str:
    import torch

    return str(Path(torch.__file__).parents[1])


def draw_images(folder: Path, count: int) -> Path:
    """Scenes of 500 x 375 pixels as JPEG files."""
    from PIL import Image

    from repre.data.scenes import ScenesConfig, draw_scene

    folder.mkdir(parents=True, exist_ok=True)
    config = ScenesConfig(size=500, max_objects=4)
    for index in range(len(list(folder.glob("*.jpg"))), count):
        image = draw_scene(config, split="train", index=index).image[:375]
        Image.fromarray(image).save(folder / f"{index:06d}.jpg", quality=90)
    return folder


def machine(device: str) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    found: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name()
    return found | {package: version(package) for package in ("torch", "torchvision", "timm", "pillow")}


def table(result: dict[str, Any]) -> str:
    runs, job = result["runs"], result["task"]
    rate = {name: [one["images_per_s"] for one in found] for name, found in runs.items()}
    rivals = {name: statistics.median(values) for name, values in rate.items() if not name.startswith("repre")}
    best = max(rivals.values(), default=0.0)
    lines = [
        f"SimCLR, ViT {job['dim']} x {job['depth']}, patch {job['patch']}, views of {job['size']} px from JPEG files, batch "
        f"{job['batch']}, {job['precision']}, {job['device']}, {job['workers']} workers; "
        + ", ".join(f"{key} {value}" for key, value in result["machine"].items()),
        "",
        "| | images/s, median (range) | against the best rival | waiting for data | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, values in rate.items():
        middle = statistics.median(values)
        ratio = f"{middle / best:.2f} x" if best else ""
        wait = statistics.median(one["data_wait"] for one in runs[name])
        memory = max(one["memory_gib"] for one in runs[name])
        lines.append(
            f"| {name} | {middle:.1f} ({min(values):.1f} to {max(values):.1f}) | {ratio} | {wait:.0%} | {memory:.2f} GiB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
