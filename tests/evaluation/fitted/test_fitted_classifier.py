"""The table of predictions, whatever files and classes are called."""

import csv
import os
from pathlib import Path

from repre.evaluation.fitted.fitted_classifier import write_csv


def test_a_row_is_one_line_and_holds_no_control_character(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    not_utf8 = os.fsdecode(b"\xff.png")
    write_csv(path, ["path", "cl\x1b[31mass\n"], iter([['a\n,"b\x1b.png', "0.5"], [not_utf8, "1"]]))
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    assert text.count("\n") == 3
    assert list(csv.reader(text.splitlines())) == [
        ["path", "cl\\x1b[31mass\\n"],
        ['a\\n,"b\\x1b.png', "0.5"],
        [not_utf8, "1"],
    ]
