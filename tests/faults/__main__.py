"""Breaks runs and writes docs/reliability.md's matrix from the results.

    python -m tests.faults                     # everything, about a quarter of an hour on two cores
    python -m tests.faults kills images        # some areas; the rows of the others stay as they were
    python -m tests.faults soak --soak 3600    # the soak, for an hour
    python -m tests.faults --short --out /tmp/x.json   # a small part of each, and no page

Exits with code 1 where a row did not pass.
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
AREAS = ("kills", "stops", "ranks", "files", "disks", "figures", "strangers", "soak")


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks runs and writes down what happened.")
    parser.add_argument("areas", nargs="*", help=f"of {', '.join(AREAS)}; all without one")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--page", type=Path, default=HERE.parents[1] / "docs" / "reliability.md")
    parser.add_argument("--short", action="store_true", help="a small part of every row, for a look; writes no page")
    parser.add_argument("--soak", type=float, default=120.0, help="seconds of the soak")
    given = parser.parse_args()
    if unknown := set(given.areas) - set(AREAS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failed = 0
    for area in given.areas or AREAS:
        rows, begun = [], time.monotonic()
        with tempfile.TemporaryDirectory(prefix="repre-faults-") as folder:
            more = {"seconds": given.soak} if area == "soak" else {}
            module = importlib.import_module(f"tests.faults.{area}")
            for row in module.rows(Path(folder), short=given.short, **more):
                row.seconds, begun = round(time.monotonic() - begun, 1), time.monotonic()
                rows.append(row.plain())
                failed += not row.passed
                print(f"{'passed' if row.passed else 'FAILED'}  {row.fault}: {row.happened}", flush=True)
        old: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
        results = {name: rows if name == area else old[name] for name in AREAS if name == area or name in old}
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        if not given.short:
            write_page(results, given.page)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
