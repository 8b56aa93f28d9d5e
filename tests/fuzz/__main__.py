"""All bad values of all options: `python -m tests.fuzz [--only COMMAND ...]`. It prints what failed, and counts."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.commands import find_options, make_commands, without_work
from tests.fuzz.values import VALUES, make_paths, run, sandbox, with_value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="commands that begin with one of these")
    only = tuple(parser.parse_args().only)
    codes: Counter[int] = Counter()
    failures: Counter[str] = Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="repre-fuzz-") as name:
        folder = Path(name)
        commands, paths = make_commands(folder / "data"), make_paths(folder)
        options = [option for option in find_options(commands) if option.command.startswith(only)]
        (folder / "work").mkdir()
        with sandbox(), without_work():
            for option in options:
                for kind in VALUES:
                    arguments = with_value(commands[option.command], option, kind, paths)
                    outcome = run(arguments, folder / "work")
                    codes[outcome.code] += 1
                    if outcome.problem:
                        failures[outcome.problem] += 1
                        print(f"{option.command} {option.name} {kind}: {outcome.problem}")
                        print("    " + "\n    ".join(outcome.printed.splitlines()[-12:]), flush=True)
    count = sum(codes.values())
    print(f"{count} commands in {time.monotonic() - begin:.0f} s; exit codes {dict(sorted(codes.items()))}")
    print(f"{sum(failures.values())} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
