"""Experiments on real images, as many as the time allows, several at once on one GPU."""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from gpu_parts.context import Context, Skip

ROOT = Path(__file__).parents[2]
RESERVE = 15.0
"""Seconds before the end of the part at which its trainings are stopped."""
LOG_LENGTH = 50_000
"""Characters of the log of each process that are kept."""


def run_lease(context: Context) -> None:
    """Measures what is missing in OUT/lease, the most important first; every result is a row."""
    if context.real is None:
        raise Skip("no real images: --real FOLDER, with camvid and cifar10 (experiments/README.md)")
    sys.path.insert(0, str(ROOT))
    from experiments.run import parse, run  # needs the folder above

    minutes = (context.seconds_left - RESERVE) / 60
    folders = {
        "real": context.real,
        "data": context.work / "data",
        "work": context.work,
        "results": context.out / "lease",
    }
    options = [f"--{name}={folder}" for name, folder in folders.items()]
    lines = io.StringIO()
    try:
        with redirect_stdout(lines):
            missing = run(parse([*context.scale.lease, f"--minutes={minutes}", *options]))
    finally:
        for log in sorted((context.work / "logs").glob("*.log")):
            print(f"--- {log.name}", log.read_text(errors="replace")[-LOG_LENGTH:], sep="\n")
        print(lines.getvalue(), flush=True)
        measured = re.findall(r"^\d\d:\d\d (\S+) seed (\d+) (\S+): (.*)$", lines.getvalue(), re.MULTILINE)
        for method, seed, evaluation, metrics in measured:
            context.emit("lease", method=method, seed=int(seed), evaluation=evaluation, metrics=metrics)
    if missing and not measured:
        raise SystemExit("nothing was measured")
