"""Gains are what a t-interval says, and every start gets the same seeds."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.comparison import as_csv, compare, gain, markdown, replicas, table
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import save_encoder
from tests.evaluation.tiny_eval import VIT, tiny_start


def test_a_gain_has_the_interval_of_student() -> None:
    found = gain([0.50, 0.54, 0.52], [0.40, 0.41, 0.45])
    # differences 0.10, 0.13, 0.07: mean 0.10, deviation 0.03, t(2) = 4.303
    assert found.mean == pytest.approx(0.10)
    assert found.half == pytest.approx(4.303 * 0.03 / 3**0.5, abs=1e-6)
    assert found.verdict == "better"
    assert gain([0.40, 0.41, 0.45], [0.50, 0.54, 0.52]).verdict == "worse"
    assert gain([0.40, 0.41], [0.50, 0.54], higher_is_better=False).verdict in ("better", "no difference")


def test_without_spread_nothing_is_claimed() -> None:
    assert gain([0.5, 0.4, 0.3], [0.4, 0.5, 0.25]).verdict == "no difference"
    assert gain([0.5], [0.4]).verdict.startswith("unknown")
    assert gain([0.5, 0.5], [0.4, 0.4]).verdict.startswith("unknown")
    assert gain([0.5, 0.5], [0.5, 0.5]).verdict == "no difference"


def results(**values: list[float]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {
        ("knn", name): [
            {
                "metrics": {"knn20": v, "knn10": v / 2},
                "main": "knn20",
                "higher_is_better": True,
                "seconds": 60 + 120 * i,
            }
            for i, v in enumerate(found)
        ]
        for name, found in values.items()
    }


def test_the_table_counts_gains_over_chance_and_over_supervision() -> None:
    found = results(mine=[0.5, 0.6], chance=[0.1, 0.2], taught=[0.7, 0.8])
    rows = table(found, random="chance", supervised="taught")
    assert [row.metric for row in rows[:3]] == ["knn20"] * 3  # the main figure first
    mine = rows[0]
    assert mine.over_random is not None
    assert mine.over_random.mean == pytest.approx(0.4)
    assert mine.over_supervised is not None
    assert mine.over_supervised.mean == pytest.approx(-0.2)
    assert rows[1].over_random is None
    text = markdown(rows, seeds=2)
    assert "55.00 ± 7.07" in text
    assert "gain over supervised" in text
    assert "| 2.0 |" in text  # minutes of one run: the mean of 1 and 3
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(lines) == len(rows)
    assert float(lines[0]["gain_over_random"]) == pytest.approx(0.4)


def test_pairs_must_fit() -> None:
    with pytest.raises(ValueError, match="zip"):
        gain([0.1, 0.2], [0.1])


def test_every_start_sees_the_range_of_pixels_that_one_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_start().build()
    for name, value_range in (("plain", None), ("deep", (0.0, 4095.0)), ("deeper", (0.0, 999.0))):
        save_encoder(encoder, tmp_path / name, value_range=value_range)
    seen = {}

    def evaluate(name: str, start: ResolvedEncoder, config: Any, *, reuse: bool) -> dict[str, Any]:
        seen[start.spec.removeprefix(str(tmp_path) + "/")] = start.value_range
        same = {"metrics": {"knn20": 0.5}, "main": "knn20", "higher_is_better": True, "seconds": 1.0}
        return {**same, "path": "", "start": start.spec}

    monkeypatch.setattr("repre.evaluation.comparison.evaluate", evaluate)
    starts = [str(tmp_path / name) for name in ("plain", "deep", "deeper")] + [VIT]
    compare(starts, {"knn": KNNConfig()}, seeds=1, out=tmp_path / "out", say=lambda _: None)
    declared = (0.0, 4095.0)
    assert seen == {"plain": declared, "deep": declared, "deeper": (0.0, 999.0), VIT: declared}


def test_mistakes_are_found_before_anything_is_computed() -> None:
    pytest.importorskip("repre.evaluation.detection.detect")
    from repre.evaluation.classification.knn import KNNConfig  # type: ignore[attr-defined, unused-ignore]
    from repre.evaluation.comparison import compare

    for starts, more, words in (
        ([], {}, "at least one"),
        (["random:vit_tiny_patch16_224"], {"seeds": 0}, "--seeds"),
        (["random:vit_tiny_patch16_224"], {"supervised": "hub:x"}, "--supervised"),
        (["nothing/here"], {}, "no such run"),
    ):
        with pytest.raises(UserError, match=words):
            compare(starts, {"knn": KNNConfig()}, **({"seeds": 1, "out": None} | more))  # type: ignore[arg-type]


def test_commas_join_replicas_but_not_within_brackets() -> None:
    assert replicas("runs/a,runs/b") == ["runs/a", "runs/b"]
    assert replicas("random:vit[depth=2,dim=3],runs/b") == ["random:vit[depth=2,dim=3]", "runs/b"]
