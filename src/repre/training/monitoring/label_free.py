"""Looks at a model on fixed images, without labels. They never touch the training.

A look is a dictionary of figures, taken at every check: of the pooled embeddings of center views and of pairs of
augmented views drawn once from fixed keys, of patch features, of the reconstruction, and of the balance of the losses.
`step_metrics` are those of a step, from what its losses leave behind. What they mean is told in docs/monitors.md, when
one is a cause for alarm in `repre.training.monitoring.alarms`.

    N  images of the sample    D  embedding width    C  channels    S  side of a view    h, w  cells of a map
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.loader import stack
from repre.data.views.params import draw, uniforms
from repre.data.views.render import ViewsConfig, center_view, make_views
from repre.errors import RunError
from repre.models.encoder import Encoder
from repre.models.repre import RePre
from repre.training.monitoring.gradient_balance import balance
from repre.training.monitoring.patch_metrics import effective_rank, found_cells, linear_cka, right_cells
from repre.training.monitoring.reconstructions import PANEL_IMAGES, fidelity, level_shares, rebuild
from repre.types import Batch, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad, single_process
from repre.utils.fsdp import total_norm

EPOCH = 2**32 - 1
"""Epoch from which the fixed views are drawn; no run gets there, so training never sees the same draws."""
PAIRS = 128
"""Most images of which pairs of views are looked at."""
BALANCE_IMAGES = 16
"""Images on which the gradients of the two losses are compared."""
BATCH = 32
STILL = 1e-3
"""Distance on the sphere below which a student has not moved, so that there is nothing to follow."""
MOTION = {"teacher_moved", "student_moved", "teacher_follows"}
"""Figures that the first look does not have: they compare with the look before."""
LOWER_IS_BETTER = {"alignment", "uniformity", *MOTION}
"""Figures of which `best` takes the lowest; of all others, a probe's among them, the highest."""
ALIKE = 0.02
"""Root mean square difference of two 8 x 8 thumbnails in [0, 1] up to which images count as copies."""


@dataclass(frozen=True)
class Sample:
    """Fixed images of a source, on the CPU.

    Attributes:
        images: plain center views, [N, C, S, S].
        decoded: the first of the same images before any augmentation, for augmented views.
    """

    images: Tensor
    decoded: Batch


def fixed_sample(source: Source, *, count: int, canvas: int, views: ViewsConfig) -> Sample:
    """Up to `count` images, evenly spread over the source, in a shuffled order, so that the first few are a fair sample
    too; the first of them, half of `count` and at most `PAIRS`, also as they were decoded."""
    keep_values = views.value_range is not None
    images = torch.empty(min(count, len(source)), source.channels, views.size, views.size)
    found = 0
    decoded: list[tuple[int, np.ndarray]] = []
    spread_out = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    wanted = np.random.Generator(np.random.PCG64(0)).permutation(spread_out)
    for index in wanted:
        try:
            image = source.load(int(index))
        except UnreadableImage:
            continue  # counted and listed when training meets it
        pixels, sizes = stack([image], canvas=canvas, keep_values=keep_values)
        images[found] = center_view(pixels, sizes, size=views.size, config=views)[0]
        found += 1
        if len(decoded) < min(PAIRS, -(-count // 2)):
            decoded.append((int(index), image))
    if not found:
        raise RunError(f"none of {len(wanted)} sampled images of {source.spec} can be read")
    pixels, sizes = stack([image for _, image in decoded], canvas=canvas, keep_values=keep_values)
    indices = torch.tensor([index for index, _ in decoded])
    return Sample(images[:found], Batch(pixels, sizes, torch.arange(len(decoded)), indices, EPOCH))


class Monitors:
    """Takes looks at a model, always on the same images and views.

    Args:
        sample: see `fixed_sample`; what it has decoded is turned into views and not kept.
        views: the run's views.
        seed: of the fixed draws.
    """

    def __init__(self, sample: Sample, *, views: ViewsConfig, seed: int, device: torch.device) -> None:
        self.images, self.config, self.device = sample.images, views, device
        batch = sample.decoded
        globals_only = replace(views, n_local=0, mask_ratio=0.0, target="view")
        self.pairs = make_views(batch, globals_only, seed=seed, device="cpu").images
        self.boxes = [
            draw(view, uniforms(seed=seed, epoch=EPOCH, stream=stream, positions=batch.positions), batch.sizes)
            for stream, view in enumerate((views.first, views.second))  # the same draws as in make_views
        ]
        n = BALANCE_IMAGES
        few = Batch(batch.pixels[:n], batch.sizes[:n], batch.positions[:n], batch.indices[:n], EPOCH)
        self.few = make_views(few, views, seed=seed, device="cpu")
        self.distinct = distinct_share(sample.images)
        self.marks: list[Tensor] = []

    def measure(self, model: RePre, *, progress: float) -> dict[str, float | None]:
        """All figures of this moment by name; None where one is not finite. Leaves the model as it was."""
        with evaluating(model, self.device):
            kept = model.export_encoder
            figures = label_free(embed(kept, self.images, device=self.device))
            figures |= {
                "distinct_images": self.distinct,
                "weight_size": float(WeightChange(model.encoder).figures()["weight_size"]),
            }
            figures |= self.pair_figures(kept)
            figures |= self.teacher_figures(model)
            if model.decoder is not None:
                panel = self.images[:PANEL_IMAGES]
                figures |= fidelity(*rebuild(model, panel, views=self.config, device=self.device))
                maps = model.encoder(panel.to(self.device)).maps
                figures |= level_shares(model.decoder, maps, panel.shape[-2:])
                if len(self.few.images[0]) > 1:
                    figures |= balance(model, to_device(self.few, self.device), progress=progress)
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def pair_figures(self, encoder: Encoder) -> dict[str, float]:
        """Figures of two augmented views of every image: of embeddings and of patch features."""
        first, second, right, seen, figures = [], [], 0, 0, {}
        for start in range(0, len(self.pairs[0]), BATCH):
            rows = slice(start, start + BATCH)
            one, other = (encoder(view[rows].to(self.device)) for view in self.pairs)
            first.append(one.embedding.float().cpu())
            second.append(other.embedding.float().cpu())
            grid = one.maps[-1].shape[-2:]
            cells, visible = right_cells(self.boxes[0][rows], self.boxes[1][rows], grid=grid)
            found = found_cells(one.maps[-1].float(), other.maps[-1].float()).cpu()
            right, seen = right + int((found == cells)[visible].sum()), seen + int(visible.sum())
            if start == 0:
                figures = depth_figures([level.float().cpu() for level in one.maps])
        if seen:
            figures |= {"correspondence": right / seen, "correspondence_chance": 1 / (grid[0] * grid[1])}
        return pair_geometry(torch.cat(first), torch.cat(second)) | figures

    def teacher_figures(self, model: RePre) -> dict[str, float]:
        """Agreement of teacher and student, and how far each went since the last look of this process."""
        found = []
        for rows in self.pairs[0].split(BATCH):
            teacher = model.framework.teacher_features(rows.to(self.device))
            if teacher is None:
                return {}
            student = model.encoder(rows.to(self.device), maps=False)
            found.append((teacher.embedding.float().cpu(), student.embedding.float().cpu()))
        marks = [F.normalize(torch.cat(side).double(), dim=1) for side in zip(*found)]
        figures = {"teacher_agreement": float((marks[0] * marks[1]).sum(1).mean())}
        if self.marks:
            moved = [float((now - before).norm(dim=1).mean()) for now, before in zip(marks, self.marks)]
            figures |= {"teacher_moved": moved[0], "student_moved": moved[1]}
            if moved[1] > STILL:
                figures["teacher_follows"] = moved[0] / moved[1]
        self.marks = marks
        return figures


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While entered: evaluation mode, no gradients, no compilation, one process, and a random state of its own."""
    mode = model.training
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    model.eval()
    try:
        with forked, torch.no_grad(), single_process(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(mode)


def to_device(views: Views, device: torch.device) -> Views:
    return Views(
        images=[image.to(device) for image in views.images],
        targets=[target.to(device) for target in views.targets],
        n_global=views.n_global,
        masks=None if views.masks is None else [mask.to(device) for mask in views.masks],
    )


@torch.no_grad()
def embed(encoder: Encoder, images: Tensor, *, device: torch.device, batch: int = 128) -> Tensor:
    """Embeddings [N, D] of images, in evaluation mode, on the CPU; the encoder's mode is put back."""
    mode = encoder.training
    encoder.eval()
    try:
        return torch.cat([encoder(part.to(device), maps=False).embedding.float().cpu() for part in images.split(batch)])
    finally:
        encoder.train(mode)


# ------------------------------------------------------------------------------------------------------ figures


def label_free(embeddings: Tensor) -> dict[str, float]:
    """Health of embeddings [N, D] without labels.

    rankme: effective rank (see `effective_rank`); near 1 is collapse, higher is better within one kind of run.
    embedding_std: see `spread`.
    """
    return {"rankme": effective_rank(embeddings), "embedding_std": float(spread(embeddings.double()))}


def spread(embeddings: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of the normalized embeddings [N, D], times the square root of D: a
    scalar; 0 is collapse, 1 is uniform on the sphere."""
    return F.normalize(embeddings, dim=1).std(0).mean() * embeddings.shape[1] ** 0.5


def pair_geometry(first: Tensor, second: Tensor) -> dict[str, float]:
    """Alignment and uniformity (Wang, Isola 2020, arXiv 2005.10242, section 4) of two views' embeddings, [N, D] each.

    alignment: mean squared distance of the two views of an image, normalized; in [0, 4], lower is better.
    uniformity: log of the mean over pairs of images of exp(-2 squared distance), over both views; in [-8, 0], lower is
        better, 0 is collapse.
    """
    one, other = (F.normalize(x.double(), dim=1) for x in (first, second))
    figures = {"alignment": float((one - other).square().sum(1).mean())}
    if len(one) > 1:
        pairs = torch.cat([torch.pdist(view).square() for view in (one, other)])
        figures["uniformity"] = float(pairs.mul(-2).exp().mean().log())
    return figures


def depth_figures(maps: list[Tensor]) -> dict[str, float]:
    """Of one view's maps, one [N, C_l, h_l, w_l] per level.

    patch_rank: effective rank of the patch features of the last level.
    level_similarity_A_B: linear CKA between neighboring levels; 1 where a level adds nothing to the one before it.
    """
    figures = {"patch_rank": effective_rank(maps[-1].movedim(1, -1).flatten(0, 2))}
    for level, (one, other) in enumerate(pairwise(maps)):
        figures[f"level_similarity_{level}_{level + 1}"] = linear_cka(one, other)
    return figures


def distinct_share(images: Tensor) -> float:
    """Share of images [N, C, S, S] that are no copies of an earlier one: whose 8 x 8 thumbnails differ."""
    small = F.adaptive_avg_pool2d(images, 8).flatten(1).double()
    limit = (
        ALIKE / 0.25 * small.shape[1] ** 0.5
    )  # normalized pixels: a standard deviation is about a quarter of the range
    copies = torch.cdist(small, small) <= limit
    return float((~copies.tril(-1).any(1)).double().mean())


def step_metrics(output: FrameworkOutput) -> dict[str, Tensor]:
    """Metrics of a step, scalars on the device, from what the framework returned.

    batch_std: `spread` of the student's embeddings of the batch of all ranks.
    agreement: mean cosine of the teacher's and the student's embeddings of one view, the student with its drop path.
    """
    embedding = output.embedding.float()
    metrics = output.metrics | {"batch_std": spread(all_gather_with_grad(embedding))}
    if output.teacher_embedding is not None:
        metrics["agreement"] = F.cosine_similarity(embedding, output.teacher_embedding.float()).mean()
    return metrics


class WeightChange:
    """The matrices of the encoder before and after an optimizer step."""

    def __init__(self, encoder: nn.Module) -> None:
        self.matrices = [p.detach() for p in encoder.parameters() if p.requires_grad and p.ndim > 1]
        self.before = [p.clone() for p in self.matrices]

    def figures(self) -> dict[str, Tensor]:
        """Scalars, after the step.

        weight_size: root mean square of the matrices.
        update_size: length of the step relative to that of the matrices.
        """
        change = torch._foreach_sub(self.matrices, self.before)
        moved, before, now = (total_norm(rows) for rows in (change, self.before, self.matrices))
        count = sum(p.numel() for p in self.matrices)
        return {"weight_size": now / count**0.5, "update_size": moved / before.clamp(min=1e-12)}
