"""The tests that carry the marker cuda."""

import os
import sys
from pathlib import Path

import pytest
from gpu_parts.context import Context

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark.cuda"


class Outcomes:
    """Pytest plugin that counts tests by outcome."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.outcome == "failed":
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome == "failed":
            self.counts["failed"] += 1
            self.failed.append(report.nodeid)


def run_cuda_tests(context: Context) -> None:
    """Runs them; only the files that have any, because collecting all takes long."""
    context.require_cuda()
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text())
    outcomes = Outcomes()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # rivals bring plugins that have nothing to do with these tests
    sys.path.insert(0, str(ROOT))
    code = pytest.main(["-m", "cuda", "--tb=short", f"--rootdir={ROOT}", "-p", "no:cacheprovider", *files], [outcomes])
    context.emit("tests", files=len(files), **outcomes.counts, names=", ".join(outcomes.failed))
    if code != pytest.ExitCode.OK:
        raise SystemExit(int(code))
