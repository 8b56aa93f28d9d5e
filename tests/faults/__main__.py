"""Breaks runs on purpose, records what happens in results.json and writes the table of docs/reliability.md.

    python -m tests.faults                       # everything, about a quarter of an hour on two cores
    python -m tests.faults kills nonfinite       # some areas; the rows of the others stay
    python -m tests.faults soak --soak 3600      # the long run, for an hour
    python -m tests.faults --short --out /tmp/x.json   # a short version of every row; does not write the page

The exit code is 1 if a row did not pass.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.page import write_page

HERE = Path(__file__).parent
AREAS = (
    "kills",
    "evaluations",
    "together",
    "stop_signals",
    "processes",
    "nodes",
    "shared_work",
    "bad_data",
    "disks",
    "storage",
    "nonfinite",
    "untrusted_files",
    "hostile",
    "data_sources",
    "soak",
)
"""Modules of this folder with a function `rows`."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", nargs="*", help=f"{', '.join(AREAS)}; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="file for the results")
    parser.add_argument(
        "--page", type=Path, default=HERE.parents[1] / "docs" / "reliability.md", help="page to write the table into"
    )
    parser.add_argument("--short", action="store_true", help="a short version of every row; does not write the page")
    parser.add_argument("--soak", type=float, default=120.0, help="duration of the long run in seconds")
    args = parser.parse_args()
    if unknown := set(args.areas) - set(AREAS):
        parser.error(f"no area {', '.join(sorted(unknown))}; use {', '.join(AREAS)}")
    all_passed = True
    for area in args.areas or AREAS:
        rows = run_area(area, short=args.short, **({"seconds": args.soak} if area == "soak" else {}))
        all_passed &= all(row["passed"] for row in rows)
        old: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
        results = {name: rows if name == area else old[name] for name in AREAS if name == area or name in old}
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        if not args.short:
            write_page(results, args.page)
    return 0 if all_passed else 1


def run_area(area: str, **options: Any) -> list[dict[str, Any]]:
    """Measures and prints the rows of an area."""
    module = importlib.import_module(f"tests.faults.{area}")
    rows, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="repre-faults-") as folder:
        for row in module.rows(Path(folder), **options):
            row.seconds, started = round(time.monotonic() - started, 1), time.monotonic()
            rows.append(row.to_dict())
            print(f"{'passed' if row.passed else 'FAILED'}  {row.fault}: {row.happened}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
