"""A segmentation head trained on random crops of images, with the encoder or on top of a frozen one.

B  crops in a batch    n  windows of one image    S  side of a crop or window    C  channels    K  classes
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from repre.data.labels.crops import Crops, CropSteps, crop_batches, render_crops
from repre.data.labels.windows import Windows
from repre.evaluation.maps import to_input, window_batches
from repre.evaluation.segmentation.segmentation_heads import resize
from repre.evaluation.segmentation.segmentation_task import ImageLogits, SegmentationTask
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.pieces import Halving


class Segmenter(nn.Module):
    """Encoder and head: images [B, C, S, S] -> logits float32 [B, K, S, S]. A frozen encoder stays in evaluation mode.

    Args:
        head: takes the encoder's maps at the indices `levels`.
        norm: whether the maps come after the encoder's final norm.
        frozen: whether the encoder has no gradients.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, levels: list[int], *, norm: bool, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.levels, self.norm, self.frozen = encoder, head, levels, norm, frozen
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder(images, norm=self.norm).maps
        return resize(self.head([maps[level] for level in self.levels]).float(), images.shape[-2:])

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def train_on_crops(task: SegmentationTask, model: Segmenter) -> dict[str, float]:
    """Trains the model on crops of the labeled images; returns the summary of `fit`."""
    batch_size = task.fit.batch_size
    steps_per_epoch = max(1, len(task.train) // batch_size)
    total_steps = task.fit.epochs * steps_per_epoch
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


@torch.no_grad()
def logits_of_images(task: SegmentationTask, model: Segmenter) -> Iterator[ImageLogits]:
    """Yields the logits of every test image in order."""
    device, runtime = task.device, task.runtime
    images_at_once, windows_at_once = Halving(), Halving(runtime.batch)

    def logits(images: Tensor, rows: slice) -> Tensor:
        with autocast(device, runtime.dtype):
            return model(images[rows]).float()

    def of_images(batch: list[Windows], rows: slice) -> list[ImageLogits]:
        images = torch.cat([to_input(x.pixels, mean=task.mean, std=task.std, device=device) for x in batch[rows]])
        windows = torch.cat([*windows_at_once(len(images), partial(logits, images))])
        parts = windows.split([len(image.pixels) for image in batch[rows]])
        return [ImageLogits(part, image.plan, image.truth) for part, image in zip(parts, batch[rows])]

    for batch in window_batches(task.test, task.windows, mean=task.mean, runtime=runtime, description="test"):
        for found in images_at_once(len(batch), partial(of_images, batch)):
            yield from found
