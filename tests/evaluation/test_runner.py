"""Results are stored with what defines them, reused only for the same, and read back or refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from repre.errors import UserError
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.fit import FitConfig
from repre.evaluation.registry import EVALUATIONS, Evaluation, evaluation
from repre.evaluation.runner import evaluate, read_result, results_folder
from repre.models.timm_folder import save_encoder
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import VIT, count_steps, on_cpu, tiny_resolved


def config(cache: Path) -> KNNConfig:
    return KNNConfig(data="scenes:20:16", k=(1,), runtime=on_cpu(cache))


def test_the_stored_result_has_everything_that_defines_it(tmp_path: Path) -> None:
    result = evaluate("knn", tiny_resolved(), config(tmp_path), out=tmp_path / "out")
    path = Path(result.pop("path"))
    assert json.loads(path.read_text()) == result
    keys = {"format", "evaluation", "encoder", "config", "start", "seed", "main", "higher_is_better", "metrics"}
    assert set(result) == keys | {"details", "seconds", "step", "repre", "pixels"}
    assert result["encoder"]["weights"] == "random"
    assert result["config"]["data"] == "scenes:20:16"
    assert "runtime" not in result["config"]
    assert result["start"] == VIT
    assert [file.name for file in (tmp_path / "out").iterdir()] == [path.name]
    assert read_result(path) == {**result, "path": str(path)}


def test_only_the_same_evaluation_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, out = tiny_resolved(), tmp_path / "out"
    first = evaluate("knn", resolved, config(tmp_path), out=out)
    fake = Evaluation(EVALUATIONS["knn"].config, lambda *_, **__: pytest.fail("it ran"), "a fake")
    monkeypatch.setitem(EVALUATIONS, "knn", fake)
    again = replace(config(tmp_path), runtime=on_cpu(tmp_path, batch=3))  # the runtime changes no metric
    assert evaluate("knn", resolved, again, out=out, reuse=True) == first
    for other in (replace(config(tmp_path), seed=1), replace(config(tmp_path), temperature=0.1)):
        with pytest.raises(pytest.fail.Exception, match="it ran"):
            evaluate("knn", resolved, other, out=out, reuse=True)


def test_results_lie_beside_an_encoder_or_in_the_working_folder(tmp_path: Path) -> None:
    save_encoder(tiny_resolved().build(), tmp_path / "encoder", value_range=(0.0, 510.0))
    saved = tiny_resolved(str(tmp_path / "encoder"))
    assert results_folder(saved) == tmp_path / "encoder" / "evaluations"
    assert results_folder(tiny_resolved(f"random:{tmp_path / 'encoder'}")) == results_folder(saved) / "random-init"
    (tmp_path / "config.yaml").write_text("")  # the folder is that of a run
    assert results_folder(saved) == tmp_path / "evaluations"
    (tmp_path / "config.yaml").unlink()
    of_file = tiny_resolved(f"vit_tiny_patch16_224={tmp_path / 'encoder' / 'model.safetensors'}")
    assert results_folder(of_file) == tmp_path / "encoder" / "evaluations" / "model"
    assert results_folder(tiny_resolved("random:vit_tiny_patch16_224[depth=2]")) == Path(
        "evaluations/random-vit_tiny_patch16_224-depth-2"
    )
    stored = evaluate("knn", saved, config(tmp_path))
    assert Path(stored["path"]).parent == results_folder(saved)
    assert stored["config"]["value_range"] == [0.0, 510.0]  # declared in the encoder's training


def test_an_interrupted_evaluation_resumes_and_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = FinetuneConfig(data="scenes:24:16", fit=FitConfig(epochs=2, batch_size=8), runtime=on_cpu(tmp_path))
    steps = count_steps(monkeypatch)
    steps.stop_at = 2
    with pytest.raises(Interrupted):
        evaluate("finetune", tiny_resolved(), finetune, out=tmp_path / "out")
    assert list((tmp_path / "out").rglob("fit-*.pt"))
    result = evaluate("finetune", tiny_resolved(), finetune, out=tmp_path / "out")
    assert steps.count == 6
    stem = Path(result["path"]).with_suffix("")
    assert sorted((tmp_path / "out").iterdir()) == [stem, stem.with_suffix(".json")]
    assert [path.name for path in stem.iterdir()] == ["model"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "main": "a", "metrics": {}}'])
def test_a_file_that_is_not_a_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="is not the result of an evaluation"):
        read_result(tmp_path / "x.json")


def test_a_result_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="newer version of repre"):
        read_result(tmp_path / "x.json")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder with --out"):
        evaluate("knn", tiny_resolved(), config(tmp_path), out=tmp_path / "file" / "out")


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repre.evaluation.runner.can_be_written", lambda _: False)
    fake = Evaluation(EVALUATIONS["knn"].config, lambda *_, **__: pytest.fail("it ran"), "a fake")
    monkeypatch.setitem(EVALUATIONS, "knn", fake)
    with pytest.raises(UserError, match=r"results cannot be written to .*; name another folder with --out"):
        evaluate("knn", tiny_resolved(), config(tmp_path), out=tmp_path / "out")


def test_a_result_of_another_normalization_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, out = tiny_resolved(), tmp_path / "out"
    first = evaluate("knn", replace(resolved, mean=(0.5,) * 3, std=(0.5,) * 3), config(tmp_path), out=out)
    assert first["pixels"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    fake = EVALUATIONS["knn"]
    monkeypatch.setitem(
        EVALUATIONS, "knn", Evaluation(fake.config, lambda *_, **__: pytest.fail("it ran"), "a fake", fake.check)
    )
    again = evaluate("knn", replace(resolved, mean=(0.5,) * 3, std=(0.5,) * 3), config(tmp_path), out=out, reuse=True)
    assert again == first
    with pytest.raises(pytest.fail.Exception, match="it ran"):
        evaluate("knn", replace(resolved, mean=(0.1,) * 3, std=(0.5,) * 3), config(tmp_path), out=out, reuse=True)


def test_an_unknown_evaluation_is_answered_by_near_names() -> None:
    with pytest.raises(UserError, match="did you mean 'linear'"):
        evaluation("linaer")
