"""`repre report`."""

from pathlib import Path

import pytest

from tests.cli.conftest import Repre


def test_the_report_of_a_run(repre: Repre, run_copy: Path) -> None:
    page = run_copy / "report.html"
    page.unlink()
    assert repre("report", run_copy) == (0, f"written to {page}\n", "")
    assert page.is_file()


def test_several_runs_side_by_side(
    repre: Repre, run_copy: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "both.html"
    assert repre("report", run_copy, finished_run, "--out", out) == (0, f"written to {out}\n", "")
    assert out.is_file()
    monkeypatch.chdir(tmp_path)
    assert repre("report", run_copy, finished_run) == (0, "written to report.html\n", "")


@pytest.mark.parametrize(("arguments", "message"), [((), "at least one run"), (("nothing",), "nothing")])
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre("report", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
