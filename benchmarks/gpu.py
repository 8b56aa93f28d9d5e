"""Everything that needs a GPU, in one run of at most eight minutes on one H100 with 16 cores.

    python benchmarks/gpu.py --images photos/            # or `make gpu IMAGES=photos/`
    python benchmarks/gpu.py --parts step-moco views     # some parts
    python benchmarks/gpu.py --parts lease --seconds 560 --real photos/     # nine minutes of experiments on real images
    python benchmarks/gpu.py --preset toy                # the same code at toy size, on the CPU

Every part runs in a process of its own with a time limit, and is then killed with everything that it started. A part that
fails does not stop the others. Results are written after every part: gpu.json, gpu.md (tables for docs/performance.md),
kernels.txt (a profile) and gpu.log.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_parts.contests import run_contests
from gpu_parts.context import SCALES, Context, Part
from gpu_parts.cuda_tests import run_cuda_tests
from gpu_parts.feeding_times import measure_loader, measure_views
from gpu_parts.lease import run_lease
from gpu_parts.processes import SKIPPED, Forked
from gpu_parts.runs import kill_and_resume, run_fp16, run_recipe
from gpu_parts.steps import measure_steps
from gpu_parts.tables import markdown
from machine import machine
from step import median_seconds
from synthetic_photos import draw_photos

HERE = Path(__file__).parent
PARTS = {
    "step-moco": Part(110, partial(measure_steps, method="moco-v3")),
    "views": Part(45, measure_views),
    "loader": Part(80, measure_loader),
    "pipeline-simclr": Part(190, partial(run_contests, methods=("simclr",))),
    "pipeline-dino": Part(190, partial(run_contests, methods=("dino",))),
    "recipe": Part(150, run_recipe),
    "resume": Part(75, kill_and_resume),
    "tests": Part(90, run_cuda_tests),
    "step-simclr": Part(60, partial(measure_steps, method="simclr")),
    "step-dino": Part(75, partial(measure_steps, method="dino")),
    "fp16": Part(40, run_fp16),
    "step-moby": Part(120, partial(measure_steps, method="moby")),
    "pipeline-again": Part(340, partial(run_contests, methods=("simclr", "dino"))),
    "lease": Part(560, run_lease),
}
"""The parts, the most important ones first."""
MIN_SECONDS = 5.0
"""A part is left out if less time is left."""
DRAWN = 100
"""Images to draw where there is no folder."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=SCALES, default="gpu", help="sizes of everything")
    parser.add_argument(
        "--images", type=Path, help="folder of JPEG files, which are repeated; by default they are drawn"
    )
    parser.add_argument("--real", type=Path, help="folder with camvid and cifar10 for the part lease")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[], metavar="PART", help="parts to leave out")
    parser.add_argument("--seconds", type=float, default=470.0, help="time for everything")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu", help="folder for the results")
    args = parser.parse_args()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # CUDA must not start in the process that the parts are forked from
    )
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="repre-gpu-"))
    try:
        images = link_images(args.images, work / "images", SCALES[args.preset].count)
        names = [name for name in args.parts if name not in args.skip]
        results = run_parts(names, args.preset, images, work, args.out, deadline, real=args.real)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print((args.out / "gpu.md").read_text())
    return int(any(part["status"] not in ("ok", "skipped") for part in results["parts"].values()))


def run_parts(
    names: list[str], preset: str, images: Path, work: Path, out: Path, deadline: float, *, real: Path | None = None
) -> dict[str, Any]:
    """Runs parts one after the other and returns the results, which it also writes after every part."""
    results: dict[str, Any] = {
        "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}",
        "machine": {},
        "parts": {},
    }
    (out / "gpu.log").unlink(missing_ok=True)
    parts = {"machine": Part(60, write_machine)} | {name: PARTS[name] for name in names}
    for name, part in parts.items():
        started = time.monotonic()
        folder = work / name
        folder.mkdir()
        limit = min(part.seconds, deadline - started)
        context = Context(SCALES[preset], images, folder, out, folder / "rows.jsonl", started + limit, real)
        print(f"{name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
        status, note = run_part(part, context, limit)
        rows = [json.loads(line) for line in context.rows.read_text().splitlines()] if context.rows.is_file() else []
        if name == "machine" and rows:
            results["machine"] = rows[0]["row"]
        else:
            seconds = round(time.monotonic() - started, 1)
            results["parts"][name] = {"status": status, "note": note, "seconds": seconds, "rows": rows}
        shutil.rmtree(folder, ignore_errors=True)
        (out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "gpu.md").write_text(markdown(results))
    return results


def run_part(part: Part, context: Context, limit: float) -> tuple[str, str]:
    """Runs a part, adds its output to gpu.log, and returns its status and a note: the reason if it is not ok."""
    if limit < MIN_SECONDS:
        return "left out", "no time left"
    process = Forked(partial(with_own_cache, part, context), context.work / "log", own_group=True)
    code = process.wait(limit)
    process.kill()
    output = process.output()
    with (context.out / "gpu.log").open("a") as log:
        log.write(f"===== {context.work.name}\n{output[-1_000_000:]}\n")
    last = (output.strip().splitlines() or [""])[-1]
    if code is None:
        return "overran", f"killed after {limit:.0f} s"
    if code == SKIPPED:
        return "skipped", last.removeprefix("skipped: ")
    return ("ok", "") if code == 0 else ("failed", f"exit code {code}: {last[:300]}")


def with_own_cache(part: Part, context: Context) -> None:
    """Runs a part that keeps nothing for later runs, and finds nothing of earlier ones."""
    os.environ["REPRE_CACHE"] = str(context.work / "cache")
    part.run(context)


def write_machine(context: Context) -> None:
    """Adds a row that describes the machine, with the rate of a large product of random matrices as it is found."""
    scale, device = context.scale, torch.device(context.scale.device)
    dtype = torch.bfloat16 if scale.precision == "bf16" else torch.float32
    a, b = (torch.randn(scale.product, scale.product, device=device, dtype=dtype) for _ in range(2))
    multiply = partial(torch.mm, a, b)
    multiply()
    rate = 2 * scale.product**3 / median_seconds(multiply, 10, device) / 1e12
    name = f"TFLOP/s of a product of {scale.precision} matrices of side {scale.product}"
    context.emit("machine", **machine(scale.device), **{name: float(f"{rate:.3g}")})


def link_images(folder: Path | None, links: Path, number: int) -> Path:
    """Returns a folder with links to the JPEG files of another, repeated until there are enough."""
    drawn = min(number, DRAWN)
    folder = folder or draw_photos(HERE / "data" / str(drawn), drawn)
    files = sorted(path.resolve() for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"--images: no JPEG files in {folder}")
    links.mkdir()
    for index in range(number):
        (links / f"{index:06d}.jpg").symlink_to(files[index % len(files)])
    return links


if __name__ == "__main__":
    sys.exit(main())
