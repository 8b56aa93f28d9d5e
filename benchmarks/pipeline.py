"""The whole pipeline, from JPEG files to updated weights, against rivals: images per second, memory, wait for data.

    python benchmarks/pipeline.py                                  # a small ViT on the CPU, SimCLR
    python benchmarks/pipeline.py --preset cuda                    # ViT-S/16 at 224 in bf16
    python benchmarks/pipeline.py --preset cuda --method dino      # 2 x 224 + 6 x 96

Every contender runs alone in its own process and environment, with the same images, encoder, image size, batch size and
precision. The contenders alternate, and ratios are between medians of this run. The images are drawn (synthetic_photos.py)
or come from a folder (--images). Each contender saves an image of the views that it trained on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe_machine, machine
from rival_environments import ensure_environment, interpreter
from synthetic_photos import draw_photos

HERE = Path(__file__).parent


class Contender(NamedTuple):
    """How to run a contender."""

    script: str
    """File in rivals/."""
    arguments: tuple[str, ...] = ()
    environment: str | None = None
    """Name of its environment; None for this one."""
    methods: tuple[str, ...] = ("simclr", "dino")
    """Methods that it supports."""


CONTENDERS = {
    "repre": Contender("ours.py"),
    "repre, later epochs": Contender("ours.py", ("--later-epochs",)),
    "repre with the branch": Contender("ours.py", ("--branch",)),
    "plain": Contender("plain.py"),
    "lightly": Contender("with_lightly.py", environment="lightly"),
    "lightly-train": Contender("with_lightly_train.py", environment="lightly-train"),
    "stable-pretraining": Contender("with_stable_pretraining.py", (), "stable-pretraining", ("simclr",)),
    "stable-pretraining, batched": Contender(
        "with_stable_pretraining.py", ("--batched",), "stable-pretraining", ("simclr",)
    ),
}
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"size": 96, "local_size": 48, "n_local": 6, "prototypes": 4096, "patch": 16, "dim": 192, "depth": 4, "heads": 3,
            "batch": 64, "steps": 24, "warmup": 4, "device": "cpu", "precision": "fp32", "count": 2048},
    "cuda": {"size": 224, "local_size": 96, "n_local": 6, "prototypes": 65536, "patch": 16, "dim": 384, "depth": 12,
             "heads": 6, "batch": 256, "steps": 60, "warmup": 20, "device": "cuda", "precision": "bf16", "count": 20480},
    "toy": {"size": 32, "local_size": 16, "n_local": 2, "prototypes": 64, "patch": 8, "dim": 32, "depth": 2, "heads": 2,
            "batch": 8, "steps": 2, "warmup": 1, "device": "cpu", "precision": "fp32", "count": 32},
}  # fmt: skip
"""Fields of the task (rivals/contender.py), and `count`, the number of images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="size of the task")
    parser.add_argument("--method", choices=("simclr", "dino"), default="simclr", help="method to train")
    parser.add_argument("--images", help="folder of JPEG files; by default they are drawn")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every contender")
    parser.add_argument(
        "--workers", type=int, default=max(1, min(16, (os.cpu_count() or 2) - 1)), help="decoding processes"
    )
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS), help="contenders")
    parser.add_argument("--share", action="store_true", help="rivals use this environment's torch: less to install")
    parser.add_argument("--installed", action="store_true", help="leave out rivals without an environment")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    args = parser.parse_args()
    names = [name for name in args.only if args.method in CONTENDERS[name].methods]
    if args.installed:
        names = [name for name in names if is_installed(CONTENDERS[name])]
    try:
        results = compete(names, args.preset, args.method, rounds=args.rounds, workers=args.workers, out=args.out,
                          images=args.images, share=args.share)  # fmt: skip
    except ContenderFailed as error:
        raise SystemExit(str(error)) from error
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"pipeline-{args.method}-{args.preset}"
    (args.out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (args.out / f"{name}.md").write_text(text)
    print(text)


def is_installed(contender: Contender) -> bool:
    """Whether the contender's environment exists."""
    return contender.environment is None or interpreter(contender.environment).exists()


def compete(
    names: list[str], preset: str, method: str, *, rounds: int, workers: int, out: Path, images: str | None, share: bool
) -> dict[str, Any]:
    """Runs the contenders in turn and returns all results.

    Args:
        names: contenders.
        images: folder of JPEG files; None draws them.
        share: see `ensure_environment`.
    """
    task = PRESETS[preset] | {"method": method, "workers": workers, "out": str(out / f"views-{method}-{preset}")}
    count = task.pop("count")
    task["images"] = images or str(draw_photos(HERE / "data" / str(count), count))
    environments = {name: CONTENDERS[name].environment for name in names}
    pythons = {
        name: str(ensure_environment(environment, share=share)) if environment else sys.executable
        for name, environment in environments.items()
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(run(name, pythons[name], task))
    task["images"], task["out"] = Path(task["images"]).name, Path(task["out"]).name
    return {"machine": machine(task["device"]), "task": task, "runs": runs}


class ContenderFailed(Exception):
    """A contender ended without a result; the message has the end of its output."""


def run(name: str, python: str, task: dict[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
    """Runs a contender once and returns its result.

    Args:
        timeout: seconds after which it has failed.

    Raises:
        ContenderFailed: it failed.
    """
    contender = CONTENDERS[name]
    options = [word for key, value in task.items() for word in (f"--{key}", str(value))]
    command = [python, str(HERE / "rivals" / contender.script), *contender.arguments, *options]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        output = b"".join(part for part in (error.stdout, error.stderr) if part).decode(errors="replace")
        raise ContenderFailed(f"{name} took more than {timeout:.0f} s:\n{output[-3000:]}") from error
    lines = [line for line in process.stdout.splitlines() if line.startswith('{"name"')]
    if process.returncode or not lines:
        raise ContenderFailed(f"{name} failed:\n{(process.stdout + process.stderr)[-3000:]}")
    result = json.loads(lines[-1])
    del result["task"]
    return result


def table(results: dict[str, Any]) -> str:
    """Returns the results in Markdown."""
    runs, task = results["runs"], results["task"]
    rates = {name: [result["images_per_s"] for result in rounds] for name, rounds in runs.items()}
    best_rival = max(
        (statistics.median(values) for name, values in rates.items() if not name.startswith("repre")), default=None
    )
    views = f"2 views of {task['size']} px"
    if task["method"] == "dino":
        views += f" and {task['n_local']} of {task['local_size']}, {task['prototypes']} prototypes"
    lines = [
        f"{task['method']}, ViT {task['dim']} x {task['depth']}, patch {task['patch']}, {views} from JPEG files of "
        f"500 x 375, batch {task['batch']}, {task['precision']}, {task['device']}, {task['workers']} decoding processes; "
        f"{len(next(iter(runs.values())))} rounds. {describe_machine(results['machine'])}",
        "",
        "| | images/s, median (range) | against the best rival | waiting for data | peak memory | what it does |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in rates.items():
        median = statistics.median(values)
        ratio = f"{median / best_rival:.2f} x" if best_rival else ""
        wait = statistics.median(result["data_wait"] for result in runs[name])
        memory = max(result["memory_gib"] for result in runs[name])
        lines.append(
            f"| {name} | {median:.1f} ({min(values):.1f} to {max(values):.1f}) | {ratio} | {wait:.0%} | {memory:.2f} GiB "
            f"| {runs[name][0]['does']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
