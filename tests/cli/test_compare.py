"""`repre compare`."""

import json
from pathlib import Path
from typing import Any

import pytest

from repre import api
from repre.evaluation.classification.knn import KNNConfig
from tests.cli.conftest import Repre
from tests.cli.test_evaluate import ENCODER


def test_a_table_of_two_seeds(repre: Repre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = ("--knn.runtime.workers", 0, "--knn.runtime.device", "cpu", "--knn.runtime.cache", tmp_path / "cache")
    code, out, err = repre(
        "compare", f"random:{ENCODER}", "--eval", "knn", "--seeds", 2, "--data", "scenes:64:32", "--out", "t", *runtime
    )
    assert code == 0, err
    assert "| knn | knn20 |" in out
    assert out.endswith("written to t\n")
    rows = json.loads(Path("t/compare.json").read_text())["rows"]
    assert len(rows[0]["values"]) == 2


def test_options_reach_the_comparison(repre: Repre, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}

    def compare(encoders: Any, evaluations: Any, **settings: Any) -> Any:
        passed.update(encoders=encoders, evaluations=evaluations, **settings)
        return api.Comparison(Path("t"), [], 5, Path("t/report.html"))

    monkeypatch.setattr(api, "compare", compare)
    options = "--eval knn segment --knn.k 5 --segment.fit.epochs 3 --seeds 5 --supervised b --data labeled --out t"
    code, out, err = repre("compare", "a", "b", *options.split())
    assert code == 0, err
    assert "report: t/report.html" in out
    evaluations = passed.pop("evaluations")
    assert evaluations["knn"] == KNNConfig(k=(5,))
    assert evaluations["segment"].fit.epochs == 3
    assert passed == {"encoders": ("a", "b"), "seeds": 5, "supervised": "b", "data": "labeled", "out": Path("t")}


def test_help_lists_the_options_of_the_chosen_evaluations(repre: Repre) -> None:
    _, default, _ = repre("compare", "--help")
    assert "--knn.temperature" in default
    _, chosen, _ = repre("compare", "a", "--eval", "segment", "linear", "--help")
    assert "--segment.head" in chosen
    assert "--linear.steps" in chosen
    assert "--knn.temperature" not in chosen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs/none", "--eval", "segmentt"), "did you mean 'segment'"),
        (("--eval", "knn"), "at least one encoder"),
        (("runs/none",), "no such run"),
        (("a", "--eval", "knn", "--segment.head", "linear"), "--segment.head"),
        (("a", "--knn.temperature", "-1"), "temperature must be at least 0.0001"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, _, err = repre("compare", *arguments)
    assert code == 2
    assert message in err
    assert not Path("comparison").exists()
