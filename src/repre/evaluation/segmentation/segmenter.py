"""A segmentation head trained on random crops of images, with the encoder or on top of a frozen one.

B  crops in a batch    n  windows of one image    S  side of a crop or window    C  channels    K  classes
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from repre.data.labels.crops import Crops, CropSteps, crop_batches, render_crops
from repre.data.labels.windows import Plan, merge
from repre.evaluation.maps import FLOAT16_MAX
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.frozen_maps import logits_of_maps, train_on_maps
from repre.evaluation.segmentation.segmentation_heads import resize
from repre.evaluation.segmentation.segmentation_task import ImageLogits, SegmentationTask
from repre.evaluation.window_stream import to_input, window_batches
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.pieces import Halving


class Segmenter(nn.Module):
    """Encoder and head: images [B, C, S, S] -> logits float32 [B, K, S, S]. A frozen encoder stays in evaluation mode.

    Args:
        head: takes the encoder's maps at the indices `levels`.
        norm: whether the maps come after the encoder's final norm.
        frozen: whether the encoder has no gradients.
        half_maps: whether the head was trained on cached maps, which are rounded to float16 (`repre.evaluation.maps`).
    """

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        levels: list[int],
        *,
        norm: bool,
        frozen: bool,
        half_maps: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.levels, self.norm, self.frozen = encoder, head, levels, norm, frozen
        self.half_maps = half_maps
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.maps(images), images.shape[-2:])

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, C, S, S] -> the maps that the head takes, each [B, C_l, H_l, W_l]."""
        maps = self.encoder(images, norm=self.norm).maps
        levels = [maps[level] for level in self.levels]
        if self.half_maps:
            levels = [level.float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float().contiguous() for level in levels]
        return levels

    def logits(self, maps: list[Tensor], size: tuple[int, ...]) -> Tensor:
        """Maps -> logits float32 [B, K, *size]."""
        return resize(self.head(maps).float(), (size[0], size[1]))

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def train_on_crops(task: SegmentationTask, model: Segmenter) -> dict[str, float]:
    """Trains the model on crops of the labeled images; returns the summary of `fit`."""
    batch_size = task.fit.batch_size
    steps_per_epoch = max(1, len(task.train) // batch_size)
    total_steps = task.fit.passes * steps_per_epoch
    crops = CropSteps(
        task.train,
        task.labeled,
        task.windows,
        scale=task.scale,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        seed=task.seed,
        mean=task.mean,
    )

    def batches(start: int) -> Iterator[Crops]:
        pin = task.device.type == "cuda"
        return crop_batches(crops, start=start, total=total_steps, workers=task.runtime.processes, pin=pin)

    def loss(batch: Crops) -> Tensor:
        with autocast(task.device, torch.float32):
            images, masks = render_crops(
                batch,
                size=task.windows.size,
                seed=task.seed,
                jitter=task.jitter,
                mean=task.mean,
                std=task.std,
                device=task.device,
            )
        return task.loss(model(images).float(), masks)

    return task.train_model(
        model,
        batches=batches,
        loss=loss,
        steps_per_epoch=steps_per_epoch,
        encoder=None if task.frozen else task.encoder,
    )


class WindowLogits:
    """The logits of the windows of some images by a trained model, in batches that memory bears.

    Maps that are rounded as cached ones are computed for all images of a batch, and the head sees one image at a time, as on
    cached maps; otherwise model and head see `runtime.batch` windows at once.

    Args:
        mean, std: normalization, [C, 1, 1].
        runtime: device, precision and batch.
    """

    def __init__(self, model: Segmenter, *, mean: Tensor, std: Tensor, runtime: RuntimeOptions) -> None:
        self.model, self.mean, self.std, self.runtime = model, mean, std, runtime
        self.device = runtime.torch_device
        self.images_at_once, self.windows_at_once = Halving(), Halving(None if model.half_maps else runtime.batch)
        self.head_at_once = Halving()

    @torch.no_grad()
    def __call__(self, windows: list[Tensor]) -> Iterator[Tensor]:
        """Yields the logits of every image, float32 [n, K, S, S].

        Args:
            windows: pixels of each image's windows, [n, C, S, S], uint8 or float32 in [0, 1].
        """
        for logits in self.images_at_once(len(windows), partial(self._of_images, windows)):
            yield from logits

    def _of_images(self, windows: list[Tensor], rows: slice) -> list[Tensor]:
        pixels, counts = windows[rows], [len(image) for image in windows[rows]]
        images = torch.cat([to_input(image, mean=self.mean, std=self.std, device=self.device) for image in pixels])
        if not self.model.half_maps:
            return list(torch.cat([*self.windows_at_once(len(images), partial(self._full, images))]).split(counts))
        levels = [torch.cat(level) for level in zip(*self.windows_at_once(len(images), partial(self._maps, images)))]
        size = tuple(images.shape[-2:])
        return [
            torch.cat([*self.head_at_once(counts[number], partial(self._head, image, size))])
            for number, image in enumerate(zip(*(level.split(counts) for level in levels)))
        ]

    def _full(self, images: Tensor, rows: slice) -> Tensor:
        with autocast(self.device, self.runtime.dtype):
            return self.model(images[rows]).float()

    def _maps(self, images: Tensor, rows: slice) -> list[Tensor]:
        with autocast(self.device, self.runtime.dtype):
            return self.model.maps(images[rows])

    def _head(self, levels: tuple[Tensor, ...], size: tuple[int, ...], rows: slice) -> Tensor:
        with autocast(self.device, self.runtime.dtype):
            return self.model.logits([level[rows] for level in levels], size)


def class_map(windows: Tensor, plan: Plan, size: tuple[int, int]) -> Tensor:
    """Returns the class of every pixel of an image, int64 [H, W].

    Args:
        windows: logits of its windows, [n, K, S, S]; their mean counts where windows overlap.
        plan: positions of the windows.
        size: height and width of the image.
    """
    return resize(merge(windows, plan)[None], size)[0].max(0).indices  # on the CPU five times as fast as argmax


def logits_of_images(task: SegmentationTask, model: Segmenter) -> Iterator[ImageLogits]:
    """Yields the logits of every test image in order."""
    logits = WindowLogits(model, mean=task.mean, std=task.std, runtime=task.runtime)
    for batch in window_batches(task.test, task.windows, mean=task.mean, runtime=task.runtime, description="test"):
        for image, windows in zip(batch, logits([image.pixels for image in batch])):
            yield ImageLogits(windows, image.plan, image.truth)


def train_head(task: SegmentationTask, *, on_maps: bool) -> tuple[Segmenter, dict[str, float], Iterator[ImageLogits]]:
    """Trains the head of a task, on cached maps or on crops.

    Returns:
        Encoder and head as one model, the summary of `fit`, and the outputs for the test images, computed as they are read.
    """
    model = Segmenter(task.encoder, task.head, task.levels, norm=task.norm, frozen=task.frozen, half_maps=on_maps)
    model = model.to(task.device)
    if on_maps:
        return model, train_on_maps(task), logits_of_maps(task)
    return model, train_on_crops(task, model), logits_of_images(task, model)
