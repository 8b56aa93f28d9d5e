"""Gains follow a t-interval, and every encoder gets the same seeds."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.comparison import as_csv, build_rows, compare, gain, markdown, split_replicas
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import save_encoder
from tests.evaluation.tiny_eval import VIT, tiny_resolved

HIGH, LOW = [0.50, 0.54, 0.52], [0.40, 0.41, 0.45]


def test_a_gain_has_the_interval_of_student() -> None:
    over = gain(HIGH, LOW)
    # differences 0.10, 0.13, 0.07: mean 0.10, deviation 0.03, t(2) = 4.303
    assert over.mean == pytest.approx(0.10)
    assert over.half == pytest.approx(4.303 * 0.03 / 3**0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "baseline", "higher_is_better", "verdict"),
    [
        (HIGH, LOW, True, "better"),
        (HIGH, LOW, False, "worse"),
        (LOW, HIGH, True, "worse"),
        (LOW, HIGH, False, "better"),
    ],
)
def test_the_verdict_depends_on_which_direction_is_better(
    values: list[float], baseline: list[float], higher_is_better: bool, verdict: str
) -> None:
    assert gain(values, baseline, higher_is_better=higher_is_better).verdict == verdict


def test_without_spread_nothing_is_claimed() -> None:
    assert gain([0.5, 0.4, 0.3], [0.4, 0.5, 0.25]).verdict == "no difference"
    assert gain([0.5], [0.4]).verdict.startswith("unknown")
    assert gain([0.5, 0.5], [0.4, 0.4]).verdict.startswith("unknown")
    assert gain([0.5, 0.5], [0.5, 0.5]).verdict == "no difference"


def test_values_at_other_seeds_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        gain([0.1, 0.2], [0.1])


def results(*, higher_is_better: bool = True, **encoders: list[float]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {
        ("knn", encoder): [
            {
                "metrics": {"knn20": value, "knn10": value / 2},
                "main": "knn20",
                "higher_is_better": higher_is_better,
                "seconds": 60 + 120 * seed,
            }
            for seed, value in enumerate(values)
        ]
        for encoder, values in encoders.items()
    }


def test_the_table_has_gains_over_random_init_and_over_supervision() -> None:
    rows = build_rows(
        results(mine=[0.5, 0.6], chance=[0.1, 0.2], labeled=[0.7, 0.8]), random="chance", supervised="labeled"
    )
    assert [row.metric for row in rows[:3]] == ["knn20"] * 3  # the main metric first
    assert rows[0].over_random is not None
    assert rows[0].over_random.mean == pytest.approx(0.4)
    assert rows[0].over_supervised is not None
    assert rows[0].over_supervised.mean == pytest.approx(-0.2)
    assert rows[1].over_random is None
    text = markdown(rows, seeds=2)
    assert "55.00 ± 7.07" in text
    assert "gain over supervised" in text
    assert "| 2.0 |" in text  # minutes of one run: the mean of 1 and 3
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(lines) == len(rows)
    assert lines[0]["start"] == "mine"
    assert lines[0]["values"] == "0.5 0.6"
    assert float(lines[0]["gain_over_random"]) == pytest.approx(0.4)
    assert lines[1]["gain_over_random"] == ""


def test_the_table_knows_that_a_lower_metric_may_be_better() -> None:
    rows = build_rows(results(higher_is_better=False, mine=LOW, chance=HIGH), random="chance", supervised=None)
    assert rows[0].over_random is not None
    assert rows[0].over_random.verdict == "better"


def test_every_encoder_sees_the_pixel_range_that_one_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_resolved().build()
    for name, value_range in (("plain", None), ("deep", (0.0, 4095.0)), ("deeper", (0.0, 999.0))):
        save_encoder(encoder, tmp_path / name, value_range=value_range)
    seen = {}

    def evaluate(name: str, resolved: ResolvedEncoder, config: Any, *, reuse: bool, keep_model: bool) -> dict[str, Any]:
        assert not keep_model
        seen[resolved.spec.removeprefix(str(tmp_path) + "/")] = resolved.value_range
        result = {"metrics": {"knn20": 0.5}, "main": "knn20", "higher_is_better": True, "seconds": 1.0}
        return {**result, "path": "", "start": resolved.spec}

    monkeypatch.setattr("repre.evaluation.comparison.evaluate", evaluate)
    encoders = [str(tmp_path / name) for name in ("plain", "deep", "deeper")] + [VIT]
    compare(encoders, {"knn": KNNConfig()}, seeds=1, out=tmp_path / "out", log=lambda _: None)
    declared = (0.0, 4095.0)
    assert seen == {"plain": declared, "deep": declared, "deeper": (0.0, 999.0), VIT: declared}


@pytest.mark.parametrize(
    ("encoders", "options", "message"),
    [
        ([], {}, "at least one"),
        (["random:vit_tiny_patch16_224"], {"seeds": 0}, "--seeds"),
        (["random:vit_tiny_patch16_224"], {"supervised": "hub:x"}, "--supervised"),
        (["nothing/here"], {}, "no such run"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    encoders: list[str], options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repre.evaluation.comparison.evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    with pytest.raises(UserError, match=message):
        compare(encoders, {"knn": KNNConfig()}, **({"seeds": 1, "out": tmp_path} | options))


def test_commas_join_replicas_but_not_within_brackets() -> None:
    assert split_replicas("runs/a,runs/b") == ["runs/a", "runs/b"]
    assert split_replicas("random:vit[depth=2,dim=3],runs/b") == ["random:vit[depth=2,dim=3]", "runs/b"]
