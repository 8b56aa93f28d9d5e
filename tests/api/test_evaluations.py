"""Evaluate and compare from Python."""

import json
from pathlib import Path
from typing import Any

import pytest

import repre
from repre.evaluation.comparison import Comparison

VIT = "vit_tiny_patch16_224[image_size=16,patch_size=8,embed_dim=16,depth=2,num_heads=2]"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {"device": "cpu", "workers": 0, "cache": tmp_path / "cache"}


def test_an_evaluation_of_a_run(run: repre.Run, runtime: dict[str, Any], tmp_path: Path) -> None:
    result = repre.evaluate("knn", run.path, data="scenes:64:32", k=(5, 10), runtime=runtime, out=tmp_path / "results")
    assert result.path.parent == tmp_path / "results"
    assert result.metrics == json.loads(result.path.read_text())["metrics"]
    assert set(result.metrics) == {"knn5", "knn10"}
    assert (result.evaluation, result.encoder, result.data) == ("knn", str(run.path), "scenes:64:32")
    assert (result.main, result.higher_is_better) == ("knn10", True)
    assert "per_class" in result.details


def test_a_config_and_settings_are_the_same_evaluation(runtime: dict[str, Any]) -> None:
    options = repre.RuntimeOptions(**runtime)
    config = repre.KNNConfig(data="scenes:64:16", k=(3,), runtime=options)
    by_config = repre.evaluate("knn", f"random:{VIT}", config=config)
    by_settings = repre.evaluate("knn", VIT, random=True, data="scenes:64:16", k=[3], runtime=options)
    assert by_settings.path == by_config.path
    assert by_settings.metrics == by_config.metrics


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("knnn", {}, "did you mean 'knn'"),
        ("knn", {"temprature": 0.1}, "evaluation knn: temprature: no such setting; did you mean 'temperature'?"),
        ("knn", {"enlarge": 1.1}, "enlarge no longer exists"),
        ("knn", {"config": repre.LinearConfig()}, "config must be a KNNConfig, not LinearConfig"),
        ("segment", {"fit": {"clip": 1.0}}, "fit.clip is now called fit.clip_grad_norm"),
        ("segment", {"head": "linaer"}, "must be one of linear, upernet"),
    ],
)
def test_mistakes_name_the_setting(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(repre.UserError) as error:
        repre.evaluate(name, f"random:{VIT}", **settings)
    assert message in str(error.value)


def test_a_comparison_of_runs(run: repre.Run, runtime: dict[str, Any]) -> None:
    settings = {"k": (5,), "runtime": runtime}
    comparison = repre.compare(run.path, {"knn": settings}, data="scenes:64:32", seeds=2, out="one")
    assert comparison.path == Path("one")
    assert {row.evaluation for row in comparison.rows} == {"knn"}
    assert {len(row.values) for row in comparison.rows} == {2}
    assert len(comparison.rows) == 2, "the run and the same model at random init"
    assert Path("one/compare.md").read_text() == comparison.to_markdown()
    assert comparison.report is None
    several = repre.compare([run.path, f"{run.path}/"], {"knn": settings}, data="scenes:64:32", seeds=1, out="two")
    assert several.report == Path("two/report.html")
    assert several.report.is_file()


def test_evaluations_are_a_name_names_or_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, Any]] = []

    def compare(encoders: list[str], configs: dict[str, Any], **settings: Any) -> Comparison:
        passed.append(configs)
        return Comparison([], [], {})

    monkeypatch.setattr("repre.evaluation.comparison.compare", compare)
    monkeypatch.setattr("repre.evaluation.comparison_tables.write_tables", lambda *_, **__: None)
    repre.compare("a", data=Path("labeled"))
    repre.compare("a", ["knn", "linear"])
    repre.compare("a", {"knn": repre.KNNConfig(k=(3,)), "segment": {"head": "upernet"}}, data="labeled")
    assert passed == [
        {"knn": repre.KNNConfig(data="labeled")},
        {"knn": repre.KNNConfig(), "linear": repre.LinearConfig()},
        {
            "knn": repre.KNNConfig(k=(3,), data="labeled"),
            "segment": repre.SegmentConfig(head="upernet", data="labeled"),
        },
    ]
    with pytest.raises(repre.UserError, match="did you mean 'segment'"):
        repre.compare("a", "segmen")
