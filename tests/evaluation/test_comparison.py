"""Gains follow a t-interval, every encoder gets the same seeds, and all is checked before the first evaluation."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.comparison import build_rows, compare, notes_on, split_replicas
from repre.evaluation.comparison_tables import as_csv, as_dicts, markdown, write_tables
from repre.evaluation.gains import describe_gain, gain
from repre.evaluation.registry import evaluation
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import save_encoder
from tests.evaluation.tiny_eval import VIT, on_cpu, tiny_resolved

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


@pytest.mark.parametrize(
    ("values", "baseline", "verdict"),
    [
        ([0.5, math.nan], [0.4, 0.4], "unknown: a value is not a number"),
        ([0.3, 0.1 + 0.2], [0.1, 0.1], "unknown: the seeds change nothing"),  # 0.1 + 0.2 is not quite 0.3
        ([0.1 + 0.2, 0.3], [0.3, 0.3], "no difference"),
    ],
)
def test_rounding_and_values_that_are_no_numbers_are_no_evidence(
    values: list[float], baseline: list[float], verdict: str
) -> None:
    for higher_is_better in (True, False):
        found = gain(values, baseline, higher_is_better=higher_is_better)
        assert (found.verdict, found.half, found.pairs) == (verdict, None, 2)


def test_a_gain_of_many_seeds_has_no_narrower_interval_than_student_s() -> None:
    values = [0.5 + 0.01 * (index % 2) for index in range(40)]
    spread = 0.01 * math.sqrt(0.25 * 40 / 39)
    half = gain(values, [0.4] * 40).half
    assert half is not None
    assert half >= 2.0227 * spread / math.sqrt(40)  # t of 39 degrees of freedom


@pytest.mark.parametrize(
    ("metric", "mean", "half", "text"),
    [
        ("knn20", 0.0104, 0.0448, "+1.04 ± 4.48"),
        ("knn20", -0.00001, 0.000004, "-0.00100 ± 0.00040"),  # neither -0.00 nor +0.00
        ("knn20", 0.0, None, "0.00"),
        ("knn20", math.nan, None, "+nan"),
        ("rmse", 0.0004, 0.0001, "+0.00040 ± 0.00010"),
        ("rmse", 1e-8, None, "+0.000000"),
    ],
)
def test_rounding_does_not_hide_the_sign(metric: str, mean: float, half: float | None, text: str) -> None:
    assert describe_gain(metric, mean, half) == text


def test_values_at_other_seeds_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        gain([0.1, 0.2], [0.1])


def stored(value: float, *, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A stored result of k-NN."""
    result = {"metrics": {"knn20": value, "knn10": value / 2}, "main": "knn20", "higher_is_better": True}
    return result | {"seconds": 60 + 120 * seed, "path": "", "start": "a", "encoder": {"weights": "w"}} | changes


def results(*, higher_is_better: bool = True, **encoders: list[float]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return {
        ("knn", encoder): [
            stored(value, seed=seed, higher_is_better=higher_is_better) for seed, value in enumerate(values)
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

    def evaluate(name: str, resolved: ResolvedEncoder, config: Any, **settings: Any) -> dict[str, Any]:
        assert not settings["keep_model"]
        seen[resolved.spec.removeprefix(str(tmp_path) + "/")] = resolved.value_range
        return stored(0.5, start=resolved.spec)

    monkeypatch.setattr("repre.evaluation.comparison.evaluate", evaluate)
    encoders = [str(tmp_path / name) for name in ("plain", "deep", "deeper")] + [VIT]
    config = KNNConfig(data="scenes:20:16", runtime=on_cpu(tmp_path))
    compare(encoders, {"knn": config}, seeds=1, out=tmp_path / "out", log=lambda _: None)
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


def test_what_the_seeds_do_not_change_is_one_measurement() -> None:
    rows = build_rows(results(mine=[0.5, 0.5, 0.5], chance=[0.1, 0.2, 0.3]), random="chance", supervised=None)
    text = markdown(rows, seeds=3, notes=notes_on(rows, random="chance", supervised=None))
    assert "| knn20 | mine | 50.00 (each seed) | +30.00 ± 24.84 |" in text
    assert "50.00 ± 0.00" not in text
    assert "The seeds change nothing in knn of mine: each is one measurement." in text
    assert "Random init is chance." in text


def test_a_gain_between_images_of_different_sizes_is_not_formed() -> None:
    found = results(mine=[0.5, 0.6], chance=[0.1, 0.2])
    for encoder, size in (("mine", [96, 96]), ("chance", 224)):
        for index, result in enumerate(found["knn", encoder]):
            found["knn", encoder][index] = result | {"details": {"size": size, "test_images": 32}}
    rows = build_rows(found, random="chance", supervised=None)
    assert all(row.over_random is None for row in rows)
    notes = " ".join(notes_on(rows, random="chance", supervised=None))
    assert "different sizes (mine 96 px, chance 224 px); no gain is computed" in notes
    assert "Give --knn.size to compare at one size" in notes
    assert "32 test images. The intervals cover the seeds, not the choice of the test images" in notes


def test_a_missing_main_metric_is_said_and_other_metrics_that_not_all_have_are_left_out() -> None:
    """Detection without masks has no mask AP; a run that gave no number is in the table."""
    found = results(mine=[0.5, 0.6], chance=[0.1, 0.2])
    found["knn", "mine"][0]["metrics"] = {"knn20": math.nan, "mask_ap": 0.0}
    rows = build_rows(found, random="chance", supervised=None)
    assert {row.metric for row in rows} == {"knn20"}
    assert "knn: not a number: knn20 of mine." in notes_on(rows, random="chance", supervised=None)
    text = markdown(rows, seeds=2)
    assert "unknown: a value is not a number" in text
    assert "mask_ap" not in text


@pytest.fixture
def encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders `a`, `copy` with the same weights, `b` with others; every evaluation fails."""
    for name, seed in (("a", 0), ("b", 1)):
        save_encoder(tiny_resolved().build(seed=seed), tmp_path / name)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("repre.evaluation.comparison.evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    return tmp_path


@pytest.mark.parametrize(
    ("names", "evaluations", "options", "message"),
    [
        (["a"], ["knn", "segment"], {}, "segment of a: "),  # class folders have no masks
        (["a"], ["knn"], {"data": "nothing"}, "knn of a: "),
        (["a,copy"], ["knn"], {"seeds": 2}, "a and copy are the same weights, not replicas"),
        (["a,b"], ["knn"], {}, "2 replicas, but --seeds 1 uses only the first 1; give --seeds 2"),
        (["a"], ["knn"], {"out": "classes/0/x.png/out"}, "--out classes/0/x.png/out cannot be written"),
        (["a"], ["knn"], {"size": 17}, "knn of a: "),
    ],
)
def test_everything_is_checked_before_the_first_evaluation(
    names: list[str], evaluations: list[str], options: dict[str, Any], message: str, encoders: Path
) -> None:
    for label in range(2):
        (encoders / "classes" / str(label)).mkdir(parents=True)
        for name in "xy":
            Image.new("RGB", (16, 16), (90 * label, 0, 0)).save(encoders / "classes" / str(label) / f"{name}.png")
    given = {"seeds": 1, "out": "out", "data": "classes"} | options
    configs = {name: evaluation(name).config(data=given["data"], size=given.get("size")) for name in evaluations}
    with pytest.raises(UserError) as error:
        compare(names, configs, seeds=given["seeds"], out=Path(given["out"]), log=lambda _: None)
    assert message in str(error.value)
    assert not (encoders / "out").exists()


def test_encoders_that_are_the_same_weights_are_named(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repre.evaluation.comparison.evaluate", lambda *_, **__: stored(0.5))
    said: list[str] = []
    config = KNNConfig(data="scenes:20:16", runtime=on_cpu(encoders))
    found = compare(["a", "copy", "a,b", VIT], {"knn": config}, seeds=3, out=Path("out"), log=said.append)
    assert "a and copy are the same weights" in said
    assert "a,b: 3 seeds use its 2 replicas unequally often" in said
    assert set(said[:3]) <= set(found.notes)
    assert not any(VIT in note and "same weights" in note for note in found.notes)


def test_results_lie_beside_the_encoders_or_in_the_folder_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working folder gets nothing; what is known of a folder that cannot be written is used again."""
    for name in ("a", "locked"):
        save_encoder(tiny_resolved().build(seed=len(name)), tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(
        "repre.evaluation.comparison.can_be_written", lambda folder: "locked" not in str(folder.absolute())
    )
    out, config = tmp_path / "out", KNNConfig(data="scenes:20:16", k=(1,), runtime=on_cpu(tmp_path / "cache"))
    names = [str(tmp_path / "a"), str(tmp_path / "locked"), f"random:{tmp_path / 'a'}", VIT]
    found = compare(names, {"knn": config}, seeds=1, out=out, log=lambda _: None)
    write_tables(found, out, seeds=1)
    places = [Path(result["path"]).parent.relative_to(tmp_path) for runs in found.results.values() for result in runs]
    assert places[0] == Path("a/evaluations")
    assert places[2] == Path("a/evaluations/random-init")
    assert all(place.parts[:2] == ("out", "evaluations") for place in (places[1], places[3]))
    assert not list((tmp_path / "elsewhere").iterdir())
    stored_paths = [result["path"] for result in json.loads((out / "compare.json").read_text())["results"]]
    assert [(out / path).resolve() for path in stored_paths] == [
        Path(result["path"]).resolve() for runs in found.results.values() for result in runs
    ]
    again = compare(names, {"knn": config}, seeds=1, out=out, log=lambda _: None)
    assert as_dicts(again.rows) == as_dicts(found.rows)


def test_a_stored_result_of_changed_data_is_not_used_again(tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for name in range(5):
            Image.new("RGB", (16, 16), (90 * label, 9 * name, 0)).save(tmp_path / "data" / str(label) / f"{name}.png")
    save_encoder(tiny_resolved().build(), tmp_path / "a")
    config = LinearConfig(data=str(tmp_path / "data"), steps=2, runtime=on_cpu(tmp_path / "cache"))
    images = []
    for _ in range(2):
        found = compare([str(tmp_path / "a")], {"linear": config}, seeds=1, out=tmp_path / "out", log=lambda _: None)
        images.append(
            [found.rows[0].images, *(r["details"]["train_images"] for rs in found.results.values() for r in rs)]
        )
        for name in range(5, 10):
            Image.new("RGB", (16, 16), (0, 9 * name, 0)).save(tmp_path / "data" / "0" / f"{name}.png")
    assert images == [[2, 8, 8], [3, 12, 12]]
