"""Supervised training: it learns, it resumes to the same weights, and layers get their learning rates."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import RunError, UserError
from repre.evaluation.fit import FitConfig, fit
from repre.models.encoder import Encoder
from repre.training.optim import parameter_groups
from repre.utils.signals import Interrupted
from tests.tiny import ENCODERS

CONFIG = FitConfig(epochs=2, batch_size=4, lr=1e-2, drop_path=0.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def batches(start: int, *, stop_at: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    step = start
    while True:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        yield x, (x[:, 0] > 0).long()
        step += 1


def train(net: Net, *, steps: int = 30, stop_at: int | None = None, **options: Any) -> dict[str, float]:
    return fit(
        net,
        batches=lambda start: batches(start, stop_at=stop_at),
        loss=lambda batch: F.cross_entropy(net(batch[0]), batch[1]),
        steps=steps,
        steps_per_epoch=15,
        config=options.pop("config", CONFIG),
        device=torch.device("cpu"),
        precision=torch.float32,
        seed=0,
        **options,
    )


def test_it_learns_and_leaves_the_model_in_evaluation_mode() -> None:
    net = Net()
    summary = train(net, steps=200)
    assert summary["loss"] < 0.35
    assert not net.training
    assert summary["images_per_s"] == pytest.approx(200 * 4 / summary["seconds"])


def test_a_stopped_fit_resumes_to_the_same_weights(tmp_path: Path) -> None:
    uninterrupted = Net()
    expected = train(uninterrupted)
    with pytest.raises(Interrupted, match="stopped at step 23 of 30; run the same command again to resume") as stopped:
        train(Net(), stop_at=23, work_dir=tmp_path, identity={"a": 1})
    assert stopped.value.code == 128 + signal.SIGTERM
    resumed = Net()
    summary = train(resumed, work_dir=tmp_path, identity={"a": 1})
    for resumed_weight, weight in zip(resumed.parameters(), uninterrupted.parameters()):
        assert torch.equal(resumed_weight, weight)
    assert summary["loss"] == expected["loss"]
    assert summary["images_per_s"] == pytest.approx(30 * 4 / summary["seconds"])
    other = Net()
    train(other, steps=0, work_dir=tmp_path, identity={"a": 2})  # the checkpoint of another fit is ignored
    assert torch.equal(other.head.weight, Net().head.weight)


def test_without_a_folder_nothing_is_saved() -> None:
    with pytest.raises(Interrupted, match="nothing was saved"):
        train(Net(), stop_at=3)


def test_a_loss_that_is_not_finite_ends_the_fit() -> None:
    net = Net()
    with pytest.raises(RunError, match=r"lower --fit\.lr"):
        fit(
            net,
            batches=batches,
            loss=lambda batch: net(batch[0]).sum() * float("nan"),
            steps=20,
            steps_per_epoch=10,
            config=CONFIG,
            device=torch.device("cpu"),
            precision=torch.float32,
            seed=0,
        )


@pytest.mark.parametrize("kind", ENCODERS)
def test_deeper_layers_learn_faster(kind: str) -> None:
    encoder = Encoder(ENCODERS[kind])
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(4, 2)})
    layers = {f"encoder.{name}": layer for name, layer in encoder.layer_ids().items()}
    assert set(layers) == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}
    groups = parameter_groups(model, no_weight_decay=encoder.no_weight_decay, layers=layers, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    top = max(layers.values()) + 1
    assert scale[id(named["head.weight"])] == 1
    for name, layer in layers.items():
        is_final_norm = name.startswith("encoder.model.norm.")
        assert scale[id(named[name])] == (1 if is_final_norm else 0.5 ** (top - layer)), name
    stem = next(name for name in layers if "patch_embed" in name)
    assert layers[stem] == 0


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"layer_decay": 0.0}, {"lr": 0.0}, {"drop_path": 1.0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        FitConfig(**wrong)
