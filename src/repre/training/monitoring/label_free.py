"""Measures a model on fixed images, without labels and without touching the training.

A measurement is a dictionary of metrics: of the embeddings of center views, of fixed pairs of augmented views, of patch
features, of the reconstruction, and of the balance between the losses. docs/monitors.md explains each metric;
`repre.training.monitoring.alarm_rules` sets their limits.

    N  images of the sample    D  embedding dimension    C  channels    H, W  height and width of a view
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.loader import stack
from repre.data.views.render import center_view, draw_views, make_views
from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.errors import RunError
from repre.models.encoder import Encoder
from repre.models.repre import RePre
from repre.training.monitoring.embedding_metrics import alignment_and_uniformity, distinct_share, embedding_metrics
from repre.training.monitoring.gradient_balance import gradient_balance
from repre.training.monitoring.patch_metrics import depth_metrics, matching_cells, predicted_cells
from repre.training.monitoring.reconstructions import PANEL_IMAGES, fidelity, level_shares, rebuild
from repre.training.monitoring.step_metrics import weight_matrices, weight_size
from repre.training.step import split_views
from repre.types import Batch, Features, Views
from repre.utils.dist import single_process
from repre.utils.pieces import Halving, with_fewer

EPOCH = 2**32 - 1
"""Epoch that keys the fixed views. No run reaches it, so training never draws the same views."""
MAX_PAIRS = 128
"""Images that are compared in two augmented views, at most."""
BALANCE_IMAGES = 16
"""Images on which the gradients of the two losses are compared."""
BATCH_SIZE = 32
MIN_MOTION = 1e-3
"""Mean distance of normalized embeddings below which the student counts as unmoved: `teacher_follows` is then undefined."""


@dataclass(frozen=True)
class Sample:
    """Fixed images of a source, on the CPU.

    Attributes:
        images: center views without augmentation, [N, C, H, W].
        decoded: the first of these images as they were decoded, for augmented views.
    """

    images: Tensor
    decoded: Batch


def fixed_sample(source: Source, *, count: int, views: ViewsConfig) -> Sample:
    """Reads up to `count` images, spread evenly over the source and shuffled, so that the first few represent it too.

    Half of them, at most `MAX_PAIRS`, are also kept as they were decoded. Unreadable files are left out; training reports
    them.

    Raises:
        RunError: no image of the sample can be read.
    """
    evenly_spaced = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    images = torch.empty(len(evenly_spaced), source.channels, *views.shape)
    readable, reason = 0, ""
    decoded: list[tuple[int, np.ndarray]] = []
    for index in np.random.Generator(np.random.PCG64(0)).permutation(evenly_spaced).tolist():
        try:
            image = source.load(index)
        except UnreadableImage as error:
            reason = f"{source.describe(index)}: {error}"
            continue
        pixels, sizes = stack([image])
        images[readable] = center_view(pixels, sizes, size=views.shape, config=views)[0]
        readable += 1
        if len(decoded) < min(MAX_PAIRS, -(-count // 2)):
            decoded.append((index, image))
    if not readable:
        raise RunError(
            f"none of {len(evenly_spaced)} sampled images of {source.spec} can be read, such as {reason}", kind="data"
        )
    pixels, sizes = stack([image for _, image in decoded])
    indices = torch.tensor([index for index, _ in decoded])
    return Sample(images[:readable], Batch(pixels, sizes, torch.arange(len(decoded)), indices, EPOCH))


class Monitors:
    """Measures a model again and again on the same images and views.

    Args:
        sample: from `fixed_sample`; only its center views and views drawn from its decoded images are held.
        views: the view settings of the run.
        seed: keys the fixed views.
    """

    def __init__(self, sample: Sample, *, views: ViewsConfig, seed: int, device: torch.device) -> None:
        self.images, self.views, self.device = sample.images, views, device
        batch = sample.decoded
        global_only = replace(views, n_global=2, n_local=0, mask=MaskConfig(), target="view")
        self.parameters = draw_views(global_only, batch.sizes, batch.positions, epoch=EPOCH, seed=seed)
        self.pairs = make_views(replace(batch, parameters=self.parameters), global_only, seed=seed, device="cpu").images
        few = slice(BALANCE_IMAGES)
        first_images = Batch(batch.pixels[few], batch.sizes[few], batch.positions[few], batch.indices[few], EPOCH)
        self.balance_views = make_views(first_images, views, seed=seed, device="cpu", with_crops=True)
        self.distinct_share = distinct_share(sample.images)
        self.previous_embeddings: list[Tensor] = []

    def measure(self, model: RePre, *, progress: float) -> dict[str, float | None]:
        """Measures the model and leaves it as it was.

        Args:
            progress: share of the run that is done, in [0, 1].

        Returns:
            Metrics by name; None for a value that is not finite.
        """
        with isolated_evaluation(model, self.device):
            encoder = model.export_encoder
            metrics = embedding_metrics(embed(encoder, self.images, device=self.device))
            metrics |= {
                "distinct_images": self.distinct_share,
                "weight_size": float(weight_size(weight_matrices(model.encoder))),
            }
            metrics |= self._pair_metrics(encoder)
            metrics |= self._teacher_metrics(model)
            if model.decoder is not None:
                panel = self.images[:PANEL_IMAGES]
                metrics |= fidelity(*rebuild(model, panel, views=self.views, device=self.device))
                maps = maps_of(model.encoder, panel, device=self.device)
                metrics |= level_shares(model.decoder, maps, panel.shape[-2:])
                count = len(self.balance_views.images[0])
                if count > 1:
                    metrics |= with_fewer(partial(self._balance, model, progress), count, smallest=2)
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    def _balance(self, model: RePre, progress: float, count: int) -> dict[str, float]:
        """`gradient_balance` on the first `count` images; on fewer where memory runs out."""
        views = next(split_views(self.balance_views, count))
        return gradient_balance(model, to_device(views, self.device), progress=progress)

    def _pair_metrics(self, encoder: Encoder) -> dict[str, float]:
        """Metrics of two augmented views of every image.

        correspondence: share of cells whose most similar cell in the other view is the one that shows the same spot.
        correspondence_chance: the same share for a random guess.
        """
        embeddings: tuple[list[Tensor], list[Tensor]] = [], []
        grid = encoder.check_size(*self.pairs[0].shape[-2:]).patches.grid
        correct = visible_count = 0
        metrics: dict[str, float] = {}

        def tokens(features: Features) -> Tensor:
            assert features.patches is not None
            return features.patches.float()

        def compare(rows: slice) -> tuple[slice, Features, Features, Tensor]:
            first, second = (encoder(view[rows].to(self.device), patches=True) for view in self.pairs)
            return rows, first, second, predicted_cells(tokens(first), tokens(second)).cpu()

        for rows, first, second, predicted in Halving(BATCH_SIZE)(len(self.pairs[0]), compare):
            for view_embeddings, features in zip(embeddings, (first, second)):
                view_embeddings.append(features.embedding.float().cpu())
            cells, visible = matching_cells(self.parameters[0][rows], self.parameters[1][rows], grid=grid)
            correct += int((predicted == cells)[visible].sum())
            visible_count += int(visible.sum())
            if rows.start == 0:
                metrics = depth_metrics(tokens(first).cpu(), [level.float().cpu() for level in first.maps])
        if visible_count:
            metrics |= {"correspondence": correct / visible_count, "correspondence_chance": 1 / (grid[0] * grid[1])}
        return alignment_and_uniformity(*map(torch.cat, embeddings)) | metrics

    def _teacher_metrics(self, model: RePre) -> dict[str, float]:
        """Agreement of teacher and student, and how far each moved since the last measurement; empty without a teacher.

        teacher_agreement: mean cosine of their embeddings.
        teacher_moved, student_moved: mean distance of the normalized embeddings to those of the last measurement.
        teacher_follows: the first divided by the second.
        """

        def both(rows: slice) -> tuple[Tensor, ...]:
            images = self.pairs[0][rows].to(self.device)
            sides = *model.framework.teacher_features([images]), model.encoder(images, maps=False)
            return tuple(side.embedding.float().cpu() for side in sides)

        batches = [*Halving(BATCH_SIZE)(len(self.pairs[0]), both)]
        if len(batches[0]) < 2:
            return {}
        embeddings = [F.normalize(torch.cat(side).double(), dim=1) for side in zip(*batches)]
        metrics = {"teacher_agreement": float((embeddings[0] * embeddings[1]).sum(1).mean())}
        if self.previous_embeddings:
            teacher_moved, student_moved = (
                float((now - before).norm(dim=1).mean()) for now, before in zip(embeddings, self.previous_embeddings)
            )
            metrics |= {"teacher_moved": teacher_moved, "student_moved": student_moved}
            if student_moved > MIN_MOTION:
                metrics["teacher_follows"] = teacher_moved / student_moved
        self.previous_embeddings = embeddings
        return metrics


@contextmanager
def isolated_evaluation(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is in evaluation mode without gradients, compilation and other ranks; random states are restored."""
    mode = model.training
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    model.eval()
    try:
        with forked, torch.no_grad(), single_process(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(mode)


def to_device(views: Views, device: torch.device) -> Views:
    """Copies all tensors of the views to the device."""
    return views.map(lambda tensor: tensor.to(device))


@torch.no_grad()
def embed(encoder: Encoder, images: Tensor, *, device: torch.device, batch_size: int = 128) -> Tensor:
    """Embeds images [N, C, H, W]: float32 [N, D] on the CPU. The encoder must be in evaluation mode."""

    def embedding(rows: slice) -> Tensor:
        return encoder(images[rows].to(device), maps=False).embedding.float().cpu()

    return torch.cat([*Halving(batch_size)(len(images), embedding)])


@torch.no_grad()
def maps_of(encoder: Encoder, images: Tensor, *, device: torch.device, norm: bool = False) -> list[Tensor]:
    """The feature maps of images [N, C, H, W], on the device; `norm`: after the final norm. The encoder must be in
    evaluation mode."""

    def maps(rows: slice) -> list[Tensor]:
        return encoder(images[rows].to(device), norm=norm).maps

    return [torch.cat(level) for level in zip(*Halving()(len(images), maps))]
