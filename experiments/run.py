"""Measures everything in the plan that is not measured yet. Run the same command again to resume.

    python -m experiments.run --preset cpu --only confirmatory --hours 2.5 --download
    python -m experiments.run --preset gpu                         # all tables
    python -m experiments.run --preset gpu --only 2 stamps --seeds 1 --tiers 1
    python -m experiments.run --preset lease --real photos --processes 6 --minutes 9   # one GPU, several trainings at once

Several processes can run at the same time and share the work. The results of a method are in one JSON file,
RESULTS/PRESET/METHOD.json.
"""

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from experiments.all_presets import PRESETS, plan_of
from experiments.build_scenes import DATA
from experiments.debian_packages import download
from experiments.methods import COST_TIERS, TITLES, tasks
from experiments.runner import Folders, Runner
from experiments.share_tasks import share_tasks
from repre.errors import RunError, UserError
from repre.utils.device import pick_workers
from repre.utils.signals import Interrupted

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parents[1] / "runs" / "evidence"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the arguments of a command; by default those of this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="size of the experiments")
    choices = ("confirmatory", "exploratory", *(name for name in TITLES if name != "confirmatory"))
    parser.add_argument("--only", nargs="*", choices=choices, default=[], help="tables; all by default")
    parser.add_argument("--methods", nargs="*", default=[], help="only methods whose name contains one of these")
    parser.add_argument("--seeds", type=int, help="only the first SEEDS seeds of every row")
    parser.add_argument(
        "--tiers", type=int, help="only the TIERS cheapest tiers of evaluations (COST_TIERS in methods.py)"
    )
    parser.add_argument("--hours", type=float, help="start nothing new after this time")
    parser.add_argument("--minutes", type=float, help="end everything after this time; what is cut off can be resumed")
    parser.add_argument("--processes", type=int, default=1, help="tasks at once, on one device")
    parser.add_argument("--packages", type=Path, default=DATA / "packages", help="folder of the .deb files")
    parser.add_argument("--download", action="store_true", help="download missing packages with apt-get")
    parser.add_argument("--real", type=Path, help="folder with your copies of camvid and cifar10")
    parser.add_argument("--data", type=Path, default=DATA / "evidence", help="folder of the built data sets")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs and caches")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--list", action="store_true", help="list the tasks and exit")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    try:
        sys.exit(1 if run(args) else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("stopped. Run the same command to resume", file=sys.stderr)
        sys.exit(130)
    except (RunError, OSError) as error:
        print(f"error: {error}. All results so far are saved; run the same command to resume", file=sys.stderr)
        sys.exit(1)


def run(args: argparse.Namespace) -> int:
    """Measures or lists the chosen tasks; returns how many results are missing in the end."""
    begin, preset = time.monotonic(), PRESETS[args.preset]
    if args.processes < 1:
        raise UserError(f"--processes {args.processes}: give 1 or more")
    in_pool = args.processes > 1 or args.minutes is not None
    if in_pool and args.hours is not None:
        raise UserError("--hours is for one process without --minutes; leave it out, and give --minutes")
    if preset.workers is None and args.processes > 1:
        preset = replace(preset, workers=max(1, (pick_workers(None) + 1) // args.processes))
    rows = [row for row in plan_of(preset).rows() if is_chosen(row.table, args.only)]
    if args.seeds is not None:
        rows = [replace(row, n_seeds=min(row.n_seeds, args.seeds)) for row in rows]
    chosen = [task for task in tasks(rows) if args.tiers is None or COST_TIERS[task.evaluation] < args.tiers]
    chosen = [task for task in chosen if not args.methods or any(part in task.method.name for part in args.methods)]
    folders = Folders(
        *(path.resolve() for path in (args.packages, args.data, args.work, args.results)),
        real=args.real.resolve() if args.real else None,
    )
    runner = Runner(preset, folders)
    if args.list:
        for task in chosen:
            state = "measured" if runner.is_done(task) else "to do"
            print(f"{task.table:13}{task.method.name:45}seed {task.seed}  {task.evaluation:20}{state}")
        return 0
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # processes that use CUDA are forked from this one
    if preset.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--preset {preset.name} needs CUDA, which this machine or this build of torch does not have; use --preset "
            "cpu, or add --list to see the tasks"
        )
    if args.download and preset.packages:
        download(args.packages)
    if not in_pool:
        return runner.run(chosen, hours=args.hours)
    seconds = math.inf if args.minutes is None else begin + 60 * args.minutes - time.monotonic()
    share = partial(share_tasks, runner=runner, processes=args.processes, seconds=seconds)
    return runner.run(chosen, hours=None, share=share)


def is_chosen(table: str, only: list[str]) -> bool:
    """Whether `--only` selects a table."""
    return not only or table in only or ("exploratory" in only and table != "confirmatory")


if __name__ == "__main__":
    main()
