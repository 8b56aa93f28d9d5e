"""Kept models are whole folders; whatever is damaged or strange in them is refused, and no code of them runs."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save_file

from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.comparison import compare
from repre.evaluation.fitted.fitted_folder import load_fitted, model_folder
from repre.evaluation.fitted.fitted_tasks import TASKS
from repre.evaluation.runner import evaluate
from repre.utils.safe_load import content_hash
from tests.evaluation.fitted.tiny_fits import FITS, encoder, fit_classes, runtime
from tests.evaluation.tiny_eval import VIT


@pytest.mark.parametrize("name", FITS)
def test_every_evaluation_that_fits_keeps_its_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = FITS[name](tmp_path, monkeypatch)
    folder = fitted.path.with_suffix("") / "model"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    content = json.loads((folder / "config.json").read_text())
    stored = json.loads(fitted.path.read_text())
    assert content["origin"] == {
        "evaluation": name,
        "result": fitted.path.name,
        "encoder_weights": "random",
        "metric": stored["main"],
        "value": stored["metrics"][stored["main"]],
    }
    assert content["task"] in TASKS
    assert str(tmp_path) not in json.dumps(content)
    assert [path.name for path in fitted.path.with_suffix("").iterdir()] == ["model"]
    paths = (fitted.path, folder, folder.parent, folder / "config.json", folder / "model.safetensors")
    assert {model_folder(path) for path in paths} == {folder}
    first, second = load_fitted(fitted.path), load_fitted(folder)
    assert content_hash(first.state_dict()) == content_hash(second.state_dict())
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_the_model_of_the_largest_fraction_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_classes("linear", tmp_path / "a", monkeypatch)
    for number, fractions in enumerate([(0.5, 1.0), (1.0, 0.5)]):
        several = fit_classes("linear", tmp_path / f"b{number}", monkeypatch, label_fraction=fractions, shots=(1,))
        one, other = (load_fitted(fitted.path).state_dict() for fitted in (whole, several))
        assert content_hash(one) == content_hash(other)


def test_models_are_kept_only_where_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_classes("linear", tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    content = json.loads(fitted.path.read_text())
    config = fit_config(content)
    result = evaluate("linear", encoder(), config, out=tmp_path / "without", keep_model=False)
    assert [path.name for path in (tmp_path / "without").iterdir()] == [Path(result["path"]).name]
    with pytest.raises(UserError, match=r"was not saved .repre compare saves none.; run `repre eval` to fit"):
        load_fitted(Path(result["path"]))
    again = evaluate("linear", encoder(), config, out=tmp_path / "without", reuse=True)  # a missing model is fine
    assert again == result
    compare([VIT], {"linear": config}, seeds=1, out=tmp_path / "comparison", log=lambda _: None)
    assert not list((tmp_path / "evaluations").rglob("model"))
    knn = evaluate("knn", encoder(), KNNConfig(data="scenes:20:16", k=(1,), runtime=runtime(tmp_path)), out=tmp_path)
    assert not Path(knn["path"]).with_suffix("").exists()


def fit_config(content: dict[str, Any]) -> Any:
    from repre.config_values import from_dict
    from repre.evaluation.classification.linear import LinearConfig

    return from_dict(LinearConfig, {**content["config"], "runtime": {"device": "cpu", "workers": 0}})


def test_what_is_no_model_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no fitted model; name the result of `repre eval linear`"):
        load_fitted(tmp_path)
    (tmp_path / "evaluations" / "linear-1" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"name one: .*evaluations/linear-1"):
        load_fitted(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "vit"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="describes no fitted model"):
        load_fitted(tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of a classifier and one of a segmenter."""
    folders = {}
    for name in ("linear", "segment"):
        with pytest.MonkeyPatch.context() as patch:
            fitted = FITS[name](tmp_path_factory.mktemp(name), patch)
            folders[name] = fitted.path.with_suffix("") / "model"
    return folders


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "newer": ("upgrade repre", lambda c: c.update(format=2)),
    "no format": ("format None", lambda c: c.pop("format")),
    "task": ("no task 'clasify'; did you mean 'classify'", lambda c: c.update(task="clasify")),
    "unknown": ("strange", lambda c: c.update(strange=1)),
    "no encoder": ("missing", lambda c: c.pop("encoder")),
    "no head": ("head must be a table", lambda c: c.pop("head")),
    "class": ("fit together", lambda c: c.update(classes=["a"])),
    "no class": ("classes", lambda c: c.update(classes=[])),
    "numbers as classes": ("classes", lambda c: c.update(classes=[1, 2, 3])),
    "hash": ("its hash differs", lambda c: c.update(sha256="0" * 64)),
    "start weights": ("must be null", lambda c: c["encoder"].update(weights="/etc/passwd")),
    "another model": ("no model", lambda c: c["encoder"].update(name="local-dir:/tmp")),
    "hub": ("no model", lambda c: c["encoder"].update(name="hf-hub:someone/something")),
    "reserved": ("cannot be set", lambda c: c["encoder"]["model_args"].update(checkpoint_path="/tmp/x")),
    "depth": ("more than", lambda c: c["encoder"]["model_args"].update(depth=60000)),
    "width": ("to 65536", lambda c: c["encoder"]["model_args"].update(embed_dim=10**9)),
    "other width": ("fit together", lambda c: c["encoder"]["model_args"].update(embed_dim=64)),
    "unknown argument": ("fit together", lambda c: c["encoder"]["model_args"].update(nonsense=1)),
    "size": ("at most 65536", lambda c: c["encoder"].update(image_size=[10**7, 10**7])),
    "statistics": ("not a normalization", lambda c: c["preprocessing"].update(mean=[0.5], std=[0.5])),
    "deviation": ("not a normalization", lambda c: c["preprocessing"].update(std=[0.1, 0.2, 0.0])),
    "infinite": ("finite", lambda c: c["preprocessing"].update(mean=[0.1, 0.2, float("inf")])),
    "crop": ("crop_pct", lambda c: c["preprocessing"].update(crop_pct=2.0)),
    "range": ("value_range", lambda c: c["preprocessing"].update(value_range=[1.0, 0.0])),
    "batch": ("batch", lambda c: c.update(batch=0)),
    "text": ("head must be a table", lambda c: c.update(head="linear")),
}


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    target.mkdir()
    (target / "config.json").write_text(json.dumps(content))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize("name", CHANGES)
def test_strange_configs_are_refused(name: str, kept: dict[str, Path], tmp_path: Path) -> None:
    message, change = CHANGES[name]
    with pytest.raises(UserError, match=message):
        load_fitted(changed(kept["linear"], tmp_path / "model", change))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("width", lambda c: c["head"].update(width=10**6)),
        ("levels", lambda c: c["head"].update(levels=[0, 9])),
        ("levels", lambda c: c["head"].update(levels=[])),
        ("kind", lambda c: c["head"].update(kind="quadratic")),
        ("do not fit an encoder", lambda c: c["preprocessing"]["windows"].update(size=64)),
        ("overlap", lambda c: c["preprocessing"]["windows"].update(overlap=1.0)),
        ("short_side", lambda c: c["preprocessing"]["windows"].update(short_side=10**6)),
        ("mode", lambda c: c["preprocessing"]["windows"].update(mode="stretch")),
        ("differ in", lambda c: c["head"].update(kind="upernet")),
    ],
)
def test_strange_segmenters_are_refused(
    message: str, change: Callable[[dict[str, Any]], Any], kept: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load_fitted(changed(kept["segment"], tmp_path / "model", change))


def rehash(folder: Path) -> None:
    from repre.evaluation.fitted.fitted_folder import _sha256

    content = json.loads((folder / "config.json").read_text())
    content["sha256"] = _sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(content))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file ran",))


def test_strange_weights_are_refused(kept: dict[str, Path], tmp_path: Path) -> None:
    """Cut files, other formats, and tensors of other names or shapes, even under the right hash."""
    folder = changed(kept["linear"], tmp_path / "model", lambda content: None)
    file = folder / "model.safetensors"
    whole, weights = file.read_bytes(), load(file.read_bytes())  # load_file would map a file that is cut below
    for content in (whole[:-10], b"", pickle.dumps(Malicious()), b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(UserError, match="hash differs"):
            load_fitted(folder)
        rehash(folder)
        with pytest.raises(UserError, match="cannot be read"):
            load_fitted(folder)
    name = next(iter(weights))
    for wrong in ({**weights, "more": weights[name].clone()}, {k: v for k, v in weights.items() if k != name},
                  {**weights, name: weights[name][..., :1].contiguous()}):  # fmt: skip
        save_file(wrong, file)
        rehash(folder)
        with pytest.raises(UserError, match="fit together"):
            load_fitted(folder)
    for text in ("", "[]", "{" * 100_000, '{"task": 1}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            load_fitted(folder)


def test_a_model_that_cannot_be_written_leaves_the_old_one(
    kept: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repre.errors import RunError
    from repre.evaluation.fitted import fitted_folder

    model = load_fitted(kept["linear"])
    origin = fitted_folder.Origin(evaluation="linear", result="x.json", encoder_weights="hub", metric="m", value=1.0)
    fitted_folder.save_fitted(model, tmp_path / "model", origin)
    before = (tmp_path / "model" / "config.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitted_folder, "write_json", full)
    with pytest.raises(RunError, match="No space left"):
        fitted_folder.save_fitted(model, tmp_path / "model", replace(origin, value=0.5))
    assert (tmp_path / "model" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
