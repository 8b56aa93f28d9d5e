"""Data that one part of the package passes to another.

Shapes, everywhere in this project:

    B  images in the local batch        D  embedding width         C  channels
    H, W  height and width              K  side of the canvas the loader stacks images on
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features of a batch of views.

    Attributes:
        embedding: pooled embedding, [B, D].
        patches: patch tokens after the encoder's final norm, row by row, [B, N, D_p]; of a pyramid its last map. Without
            class and register tokens. None where they were not requested.
        maps: one feature map per level, each [B, C_l, H_l, W_l], finest grid first for pyramids and shallowest block
            first for plain transformers; empty where they were not requested. As the blocks leave them, unless the encoder
            was asked for normed ones.
    """

    embedding: Tensor
    patches: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Views:
    """Augmented, normalized views of one batch, on the device.

    Attributes:
        images: the views, each [B, C, H, W]; global views first, then local ones, which may have another size.
        targets: the pixels to reconstruct for each of the `n_global` global views, [B, C, H, W], normalized likewise.
        n_global: how many of `images` are global views.
        masks: for each global view which of its patches are hidden from the student, bool [B, rows, columns]; None without
            masks.
        masked: indices of all hidden patches in the concatenation of the global views' masks, flattened, int64 [M]; None
            where they would have to be read from the device (`masked_patches` computes them).
        crops: for each view the box that it shows, as shares of the image, and whether it is flipped: top, left, height,
            width, 0 or 1, float32 [B, 5]. None unless the framework needs them.
    """

    images: list[Tensor]
    targets: list[Tensor]
    n_global: int
    masks: list[Tensor] | None = None
    masked: Tensor | None = None
    crops: list[Tensor] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Views":
        """The views with a function applied to every tensor that has a row for each image; `masked` is left out."""

        def each(tensors: list[Tensor] | None) -> list[Tensor] | None:
            return None if tensors is None else [function(tensor) for tensor in tensors]

        images = each(self.images) or []
        own = {id(image): changed for image, changed in zip(self.images, images)}  # targets may be the views themselves
        return Views(
            images=images,
            targets=[own[id(target)] if id(target) in own else function(target) for target in self.targets],
            n_global=self.n_global,
            masks=each(self.masks),
            crops=each(self.crops),
        )

    def masked_patches(self) -> Tensor:
        """Indices of all hidden patches, as in `masked`; on CUDA the host waits where they are not known."""
        assert self.masks is not None, "views without masks"
        return torch.cat(self.masks).flatten().nonzero().flatten() if self.masked is None else self.masked


@dataclass(frozen=True)
class ViewParameters:
    """Random parameters of one view of B images; every tensor is on the CPU.

    Pickled by value: sent from a worker as tensors, the seven parameters of each view would be seven files in shared memory.

    Attributes:
        boxes: top, left, height, width of the crop in whole pixels of the image, int64 [B, 4].
        flip: bool [B].
        order: the four changes in their order (brightness 0, contrast 1, saturation 2, hue 3), int64 [B, 4].
        factors: of brightness, contrast, saturation and hue, float32 [B, 4]; (1, 1, 1, 0) changes nothing.
        grayscale: bool [B].
        sigma: standard deviation of the blur, float32 [B]; 0 is no blur.
        solarize: bool [B].
        hidden: patches that are hidden from the student, bool [B, rows, columns]; None without masks.
    """

    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grayscale: Tensor
    sigma: Tensor
    solarize: Tensor
    hidden: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> "ViewParameters":
        return ViewParameters(**{name: value[rows] for name, value in self._tensors().items()})

    @staticmethod
    def concatenate(parts: "Sequence[ViewParameters]") -> "ViewParameters":
        """The parameters of one view of several batches, as of one batch."""
        tensors = [part._tensors() for part in parts]
        return ViewParameters(**{name: torch.cat([part[name] for part in tensors]) for name in tensors[0]})

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def __reduce__(self) -> tuple:
        return _restore, ({name: value.numpy() for name, value in self._tensors().items()},)


def _restore(arrays: dict) -> ViewParameters:
    return ViewParameters(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass(frozen=True)
class MixedCanvases:
    """Canvases of a batch whose images have several types. Each keeps its own, so that what becomes of an image never
    depends on the others of its batch, and one image of 16 bits does not widen all others.

    Attributes:
        groups: the canvases of each type, [n, C, K, K].
        rows: which images of the batch they are, int64 [n] of each group.
    """

    groups: list[Tensor]
    rows: list[Tensor]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all canvases together, [B, C, K, K]."""
        side = max(group.shape[-1] for group in self.groups)
        return sum(map(len, self.groups)), self.groups[0].shape[1], side, side

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "MixedCanvases":
        """The same on a device."""
        return MixedCanvases([group.to(device, non_blocking=non_blocking) for group in self.groups], self.rows)

    def __getitem__(self, wanted: slice) -> "MixedCanvases":
        """Some images of the batch, at least one."""
        numbers = torch.full((self.shape[0],), -1)
        numbers[wanted] = torch.arange(len(numbers[wanted]))
        chosen = [(group[numbers[rows] >= 0], numbers[rows]) for group, rows in zip(self.groups, self.rows)]
        kept = [(group, rows[rows >= 0]) for group, rows in chosen if len(group)]
        return MixedCanvases([group for group, _ in kept], [rows for _, rows in kept])


Canvases = Tensor | MixedCanvases
"""Decoded images on square canvases, [B, C, K, K], in uint8, uint16 or float32, or in several of these."""


@dataclass(frozen=True)
class Batch:
    """A batch of the loader: decoded images on a square canvas, before any augmentation.

    Attributes:
        pixels: [B, C, K, K], in the types of the images; image i fills the top left `sizes[i]` corner, the rest is zero.
        sizes: height and width of every image inside its canvas, int64 [B, 2].
        positions: position of every sample in the order of its epoch, int64 [B]; keys the random parameters of its views.
        indices: index of every sample in the source (of the replacement, where a file was unreadable), int64 [B].
        epoch: epoch of the batch, counted from 0.
        failures: (index, reason) of every file of this batch that could not be read and was replaced.
        changed: index of every file of this batch whose content changed after the run began.
        several_frames: index of every file of this batch that holds further frames or pages, which are not used.
        views: the views, if the loader was asked to make them; `pixels` is then empty, [B, C, 0, 0].
        parameters: of every view, if they were drawn already, where the pixels were decoded.
    """

    pixels: Canvases
    sizes: Tensor
    positions: Tensor
    indices: Tensor
    epoch: int
    failures: list[tuple[int, str]] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    several_frames: list[int] = field(default_factory=list)
    views: Views | None = None
    parameters: list[ViewParameters] | None = None


@dataclass(frozen=True, kw_only=True)
class FrameworkOutput:
    """What a framework returns for the local batch. Everything but the loss is detached.

    Attributes:
        loss: scalar to differentiate.
        terms: the parts of a loss that has several, by name, before their weights: scalars, logged as loss_NAME.
        embedding: the student's embedding of the first view, [B, D], for the monitors.
        teacher_embedding: the teacher's embedding of the same view, [B, D]; None without a teacher.
        metrics: scalars that are logged under their names.
        state: tensors that `after_step` needs: keys for a queue, logits for a center.
    """

    loss: Tensor
    embedding: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    teacher_embedding: Tensor | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """The losses of one step, scalars.

    Attributes:
        total: contrastive + weight x pixel; the one to differentiate.
        contrastive: the framework's loss.
        pixel: the reconstruction loss before its weight; None without the branch.
        output: what else the framework returned.
    """

    total: Tensor
    contrastive: Tensor
    pixel: Tensor | None
    output: FrameworkOutput
