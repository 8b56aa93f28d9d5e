"""Depth as a whole on tiny encoders and drawn pairs: metrics, exact resume, cached maps, comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.labels.depth_pairs import open_depth
from repre.data.labels.windows import WindowsConfig, cut, plan
from repre.errors import UserError
from repre.evaluation.depth.depth import DepthConfig, run
from repre.evaluation.depth.predicted_depth import predict_depth
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import count_steps, trained_weights
from tests.tiny import ENCODERS


def resolved(name: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{name}", ENCODERS[name], None)


def write_pairs(root: Path, *, count: int = 10, size: tuple[int, int] = (40, 48)) -> str:
    """Gray ramps whose brightness falls with their depth of 1 to 9 m; a corner is unknown. PNG in millimeters."""
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    rng = np.random.default_rng(0)
    height, width = size
    for index in range(count):
        near, far = rng.uniform(1, 4), rng.uniform(5, 9)
        depth = np.linspace(near, far, width)[None].repeat(height, 0)
        gray = (255 * (1 - depth / 10) + rng.uniform(-5, 5, depth.shape)).clip(0, 255).astype(np.uint8)
        depth[:8, :8] = 0
        Image.fromarray(gray[..., None].repeat(3, 2)).save(root / "images" / f"{index}.png")
        Image.fromarray((1000 * depth).astype(np.uint16)).save(root / "depth" / f"{index}.png")
    return f"pairs:{root}/images,{root}/depth"


def config(tmp_path: Path, *, epochs: int = 2, **more: Any) -> DepthConfig:
    folder = tmp_path / "pairs"
    data = more.pop("data", None) or (
        f"pairs:{folder}/images,{folder}/depth" if folder.is_dir() else write_pairs(folder)
    )
    return DepthConfig(
        data=data,
        fit=FitConfig(epochs=epochs, batch_size=4, lr=more.pop("lr", 3e-3)),
        runtime=RuntimeOptions(device="cpu", workers=0, cache=tmp_path / "cache"),
        **more,
    )


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("frozen", [True, False])
def test_every_encoder_gives_all_metrics(name: str, frozen: bool, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, frozen=frozen)
    result = run(resolved(name), settings)
    assert set(result.metrics) == {"delta1", "delta2", "delta3", "rmse", "abs_rel"}
    assert result.main == "delta1"
    assert 0 <= result.metrics["delta1"] <= result.metrics["delta2"] <= result.metrics["delta3"] <= 1
    assert result.details["train_images"] == 8
    assert result.details["test_pixels"] == 2 * (40 * 48 - 64)  # at the depth maps' resolution, without the corner
    assert any("m (1 % to 99 % of" in note for note in result.details["notes"])
    assert run(resolved(name), settings).metrics == result.metrics  # the same seed gives the same metrics


def test_training_learns_what_brightness_tells(tmp_path: Path) -> None:
    before, after = (run(resolved(), config(tmp_path, epochs=n, lr=3e-2, seed=1)).metrics for n in (1, 60))
    assert after["rmse"] < 0.7 * before["rmse"]
    assert after["delta1"] > before["delta1"]


def test_label_fractions_have_metrics_of_their_own(tmp_path: Path) -> None:
    metrics = run(resolved(), config(tmp_path, epochs=1, label_fraction=(1.0, 0.5))).metrics
    assert {"delta1", "delta1@0.5", "rmse@0.5"} <= set(metrics)


def test_perfect_windows_give_the_depth_itself() -> None:
    depth = torch.linspace(1, 9, 40 * 48).view(40, 48)
    windows = plan(40, 48, WindowsConfig(size=16, short_side=0))
    pieces = cut(depth.log()[None], windows, 0)
    torch.testing.assert_close(predict_depth(pieces, windows, (40, 48), max_depth=None), depth)
    assert float(predict_depth(pieces, windows, (40, 48), max_depth=5.0).max()) == 5.0


def test_maps_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(resolved(), config(tmp_path))
    monkeypatch.setattr(Encoder, "forward", lambda *_, **__: pytest.fail("the encoder ran"))
    assert run(resolved(), config(tmp_path)).metrics == first.metrics
    with pytest.raises(pytest.fail.Exception, match="the encoder ran"):
        run(resolved(), config(tmp_path, depth_scale=0.002))  # other labels


@pytest.mark.parametrize("frozen", [True, False])
def test_an_interrupted_training_ends_with_the_same_weights(
    frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, stopped = config(tmp_path, epochs=3, frozen=frozen), tmp_path / "stopped"
    expected = run(resolved(), settings, work_dir=tmp_path / "uninterrupted")
    steps = count_steps(monkeypatch)
    steps.stop_at = 4
    with pytest.raises(Interrupted, match="stopped at step 4 of"):
        run(resolved(), settings, work_dir=stopped)
    steps.stop_at = None
    assert run(resolved(), settings, work_dir=stopped).metrics == expected.metrics
    weights, others = trained_weights(stopped), trained_weights(tmp_path / "uninterrupted")
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_result_is_stored_with_its_definition(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1)
    result = evaluate("depth", resolved(), settings, out=tmp_path / "out")
    assert result["config"]["depth_scale"] == 0.001
    assert result["main"] == "delta1"
    assert evaluate("depth", resolved(), settings, out=tmp_path / "out", reuse=True) == result
    other = evaluate("depth", resolved(), replace(settings, max_depth=6.0), out=tmp_path / "out", reuse=True)
    assert other["path"] != result["path"]
    assert other["details"]["test_pixels"] < result["details"]["test_pixels"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth_scale": 0.0}, "depth.depth_scale must be above 0"),
        ({"max_depth": 0.0}, "depth.max_depth must be above"),
        ({"size": 4}, "depth.size must be at least 8"),
        ({"overlap": 1.0}, "depth.overlap must lie in"),
        ({"short_side": -1}, "depth.short_side"),
        ({"label_fraction": ()}, "label_fraction"),
        ({"window": "tile"}, "depth.window must be one of"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DepthConfig(**settings)


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"write pairs:IMAGES,DEPTHS"):
        run(resolved(), config(tmp_path, data="scenes:8"))
    with pytest.raises(UserError, match=r"1 % to 99 % of .* all beyond --max-depth 0.5; raise it"):
        run(resolved(), config(tmp_path, max_depth=0.5))
    assert len(open_depth(config(tmp_path).data, split="val", channels=3, scale=0.001, max_depth=None)) == 2
