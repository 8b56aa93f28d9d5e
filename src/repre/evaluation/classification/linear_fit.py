"""Trains linear classifiers on features: one for every setting of a sweep, all at once, and resumes an interrupted training.

N  images    D  dimensions of the features    C  classes    L  settings of the sweep    B  images in a batch
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.loading.order import epoch_order
from repre.evaluation.fit import CHECKPOINT_SECONDS
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.utils.progress import ItemCount
from repre.utils.schedule import cosine
from repre.utils.signals import Interrupted, StopRequest

MOMENTUM = 0.9
MIN_STEPS, MIN_EPOCHS = 5000, 10
"""The default number of steps is the larger of both."""


@dataclass(frozen=True)
class Classifiers:
    """L linear classifiers on standardized features.

    Attributes:
        mean, scale: of the training features, [D].
        weight: [D, L, C].
        bias: [L, C].
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features [N, D] -> scores [N, L, C]."""
        inputs = (features - self.mean) * self.scale
        return (inputs @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias

    def only(self, index: int) -> "Classifiers":
        """Returns one of them (L = 1), because the scores of a whole sweep may not fit into memory."""
        return Classifiers(self.mean, self.scale, self.weight[:, [index]], self.bias[[index]])


def fit_linear(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int,
    settings: Sequence[tuple[float, float]],
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Classifiers:
    """Trains one linear classifier per setting, all at once: one matrix product serves the whole sweep.

    The loss is softmax cross-entropy, or binary cross-entropy summed over the classes. For both, its gradient with
    respect to the scores is (predicted probability - target) / B. The classifiers are independent: if one diverges, the
    others do not change.

    Args:
        features: float32 [N, D].
        targets: int64 [N], or 0/1 float32 [N, C].
        settings: learning rate (for 256 images per step) and weight decay of every classifier.
        steps: None: 5000, or ten epochs if that is more.
        batch_size: images per step; all of them if there are fewer.
        seed: of the order of the images. All weights start at 0.
        checkpoint: file to resume from, where it exists. It is saved after a signal, every five minutes and at the end.
            The caller removes it, and gives no other training the same name. None saves nothing and leaves signals alone.

    Raises:
        Interrupted: a signal asked to stop; the same call resumes.
    """
    if checkpoint is None:
        return _Training(features, targets, classes, settings, steps, batch_size, seed).run()
    training = _Training(features, targets, classes, settings, steps, batch_size, seed)
    if checkpoint.is_file():
        training.load(load_checkpoint(checkpoint, device=features.device))
    with StopRequest() as stop:
        return training.run(stop, checkpoint)


class _Training:
    """The state of a training: weights, momenta and the next step. The arguments are those of `fit_linear`."""

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        classes: int,
        settings: Sequence[tuple[float, float]],
        steps: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        count, width = features.shape
        self.targets, self.classes, self.seed, self.batch_size = targets, classes, seed, min(batch_size, count)
        self.mean, deviation = features.mean(0), features.std(0, correction=0)
        varies = deviation > 1e-6 * features.abs().amax(0)  # the others are rounding noise, which must not be amplified
        self.scale = torch.where(varies, 1 / deviation.where(varies, 1), 0)
        self.standardized = (features - self.mean) * self.scale
        lrs, self.weight_decays = torch.tensor(settings, device=features.device).T  # [L] each
        self.lrs = lrs * (self.batch_size / 256)
        self.weight = torch.zeros(width, len(settings), classes, device=features.device)
        self.bias = torch.zeros(len(settings), classes, device=features.device)
        self.weight_momentum, self.bias_momentum = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.steps_per_epoch = count // self.batch_size
        self.steps = max(MIN_STEPS, MIN_EPOCHS * self.steps_per_epoch) if steps is None else steps
        self.step = 0

    def load(self, state: dict[str, Any]) -> None:
        """Continues from what `save` wrote."""
        for name in ("weight", "bias", "weight_momentum", "bias_momentum"):
            getattr(self, name).copy_(state[name])
        self.step = state["step"]

    def save(self, checkpoint: Path) -> None:
        """Writes the state."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        names = ("weight", "bias", "weight_momentum", "bias_momentum", "step")
        save_checkpoint(checkpoint, {name: getattr(self, name) for name in names})

    @torch.no_grad()
    def run(self, stop: StopRequest | None = None, checkpoint: Path | None = None) -> Classifiers:
        """Trains to the end, or until a signal."""
        order, saved_at = torch.empty(0), time.monotonic()
        first = self.step
        with ItemCount("linear", total=self.steps, unit="step", initial=first) as bar:
            while self.step < self.steps:
                epoch, position = divmod(self.step, self.steps_per_epoch)
                inputs, labels = self.standardized, self.targets
                if self.batch_size < len(inputs):
                    if position == 0 or self.step == first:
                        drawn = epoch_order(len(inputs), seed=self.seed, epoch=epoch)
                        order = torch.from_numpy(drawn).to(inputs.device)
                    rows = order[position * self.batch_size : (position + 1) * self.batch_size]
                    inputs, labels = inputs[rows], labels[rows]
                self._take_step(inputs, labels)
                bar.update()
                if checkpoint is None or stop is None:
                    continue
                if stop.signal is not None:
                    self.save(checkpoint)
                    raise Interrupted(
                        f"stopped at step {self.step} of {self.steps} of a linear classifier; run the same command again "
                        "to resume",
                        code=128 + stop.signal,
                    )
                if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    self.save(checkpoint)
                    saved_at = time.monotonic()
        if checkpoint is not None:
            self.save(checkpoint)
        return Classifiers(self.mean, self.scale, self.weight, self.bias)

    def _take_step(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of SGD on features [B, D] and their targets."""
        scores = (inputs @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias  # [B, L, C]
        if labels.ndim == 1:
            probabilities, labels = scores.softmax(2), F.one_hot(labels, self.classes).float()
        else:
            probabilities = scores.sigmoid()
        gradient = (probabilities - labels[:, None]) / self.batch_size
        self.weight_momentum.mul_(MOMENTUM).add_((inputs.T @ gradient.flatten(1)).view_as(self.weight))
        self.weight_momentum.add_(self.weight * self.weight_decays[None, :, None])
        self.bias_momentum.mul_(MOMENTUM).add_(gradient.sum(0))
        lr = self.lrs * cosine(self.step / self.steps, 1.0, 0.0)
        self.weight.sub_(lr[None, :, None] * self.weight_momentum)
        self.bias.sub_(lr[:, None] * self.bias_momentum)
        self.step += 1
