"""Measures what the plan lists and is not measured yet, until done or out of time.

    python -m experiments.run --preset cpu --only confirmatory --hours 2.5 --download
    python -m experiments.run --preset gpu                         # everything; call it again to go on
    python -m experiments.run --preset gpu --only 2 stamps --seeds 1 --waves 1

Several calls may run beside each other and share the work. Every figure is one JSON file,
RESULTS/PRESET/START/seed0-EVALUATION.json, and every training one, seed0-train.json.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from experiments.baselines import register
from experiments.datasets import DATA
from experiments.debian_packages import download
from experiments.plan import TITLES, WAVES, Plan, tasks
from experiments.presets import PRESETS
from experiments.runner import Places, Runner
from repre.errors import RunError, UserError
from repre.utils.signals import Interrupted

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parents[1] / "runs" / "evidence"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    choices = ("confirmatory", "exploratory", *(name for name in TITLES if name != "confirmatory"))
    parser.add_argument("--only", nargs="*", choices=choices, default=[], help="tables; by default all")
    parser.add_argument("--seeds", type=int, help="only the first seeds of every row, so many")
    parser.add_argument("--waves", type=int, help="only the cheaper evaluations, so many waves of them (plan.WAVES)")
    parser.add_argument("--hours", type=float, help="begin nothing new after so many hours")
    parser.add_argument("--packages", type=Path, default=DATA / "packages", help="folder of the .deb files")
    parser.add_argument("--download", action="store_true", help="get missing packages with apt-get")
    parser.add_argument("--data", type=Path, default=DATA / "evidence", help="folder of the built data sets")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs and caches")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="say what would be measured, and stop")
    given = parser.parse_args()
    try:
        sys.exit(1 if run(given) else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(f"{error}; the same command goes on", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except (RunError, OSError) as error:
        print(f"error: {error}; what was measured is kept, and the same command goes on", file=sys.stderr)
        sys.exit(1)


def run(given: argparse.Namespace) -> int:
    register()
    preset = PRESETS[given.preset]
    rows = [row for row in Plan(preset).rows() if chosen(row.table, given.only)]
    if given.seeds is not None:
        rows = [replace(row, seeds=min(row.seeds, given.seeds)) for row in rows]
    todo = [task for task in tasks(rows) if given.waves is None or WAVES[task.evaluation] < given.waves]
    places = Places(*(path.resolve() for path in (given.packages, given.data, given.work, given.results)))
    runner = Runner(preset, places)
    if given.list:
        for task in todo:
            done = "measured" if runner.done(task) else "to do"
            print(f"{task.table:13}{task.start.name:45}seed {task.seed}  {task.evaluation:15}{done}")
        return 0
    if preset.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--preset {preset.name}: this machine, or this build of torch, has no CUDA; take --preset cpu, or add "
            "--list to see what would be measured"
        )
    if given.download and preset.packages:
        download(given.packages)
    return runner.go(todo, hours=given.hours)


def chosen(table: str, only: list[str]) -> bool:
    return not only or table in only or ("exploratory" in only and table != "confirmatory")


if __name__ == "__main__":
    main()
