"""What every fitted model is: an encoder with the head that an evaluation fitted, and the preprocessing of its images.

To add a task, write a file with a subclass of `FittedModel` and a line in `fitted_tasks.TASKS`; the evaluation gives an
instance as `Result.fitted`. Then its models are kept, loaded, used by `repre predict` and exported.

    B  images    C  channels    H, W  height and width
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from repre.data.io.image_files import Decoding
from repre.errors import UserError
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields, check_workers

Array = np.ndarray
LARGEST_SIDE = 16384
"""Sides of images, windows and heads in a stored config that are larger are taken for damage."""


@dataclass(frozen=True, kw_only=True)
class PredictRuntime:
    """Where predictions are computed. Nothing here changes one beyond rounding."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; `auto` uses the fastest that is available."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on CUDA devices that support it, else fp32."""
    workers: int | None = None
    """Processes that decode images; None: one less than the number of cores, at most 16. 0 decodes in this process."""
    batch: int | None = None
    """Images at once, or windows of them; None: as many as the evaluation took. Halved where memory runs out."""

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        check_workers(self.workers, "runtime.workers")
        self.options(1)

    def options(self, batch: int) -> RuntimeOptions:
        """The options of evaluations, with `batch` where none is given."""
        return RuntimeOptions(
            device=self.device,
            precision=self.precision,
            workers=self.workers,
            batch=batch if self.batch is None else self.batch,
        )


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is written or returned of predictions."""

    top: int = 5
    """Classes per image in predictions.csv, likeliest first."""
    threshold: float = 0.5
    """Lowest score of a label, if images may have several, and of a box that is drawn."""
    overlays: int = 50
    """Number of images to draw with their masks or boxes, evenly spread over the data; -1 draws all."""
    runtime: PredictRuntime = field(default_factory=PredictRuntime)
    """Device, workers and batch size."""

    def __post_init__(self) -> None:
        check_fields(self, "predict")
        if self.top < 1:
            raise UserError(f"--top must be at least 1, not {self.top}")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold must lie in [0, 1], not {self.threshold}")


class FittedModel(nn.Module, ABC):
    """An encoder and a head: `forward` maps normalized pixels to tensors, `predict` images of any kind to predictions.

    Args:
        network: has the encoder as `encoder`; its state is what a folder stores.
        classes: names.
        head, preprocessing: instances of the class's `Head` and `Preprocessing`.
        batch: images at once in the evaluation.
    """

    task: ClassVar[str]
    """Name in `TASKS`."""
    Head: ClassVar[type[Any]]
    """Config class of the head; from it, the encoder and the classes `build` makes a network."""
    Preprocessing: ClassVar[type[Any]]
    """Config class of what happens to an image before `forward`."""
    output: ClassVar[str]
    """Name of what `forward` returns."""
    file_name: ClassVar[str]
    """The file with all predictions, in the folder that `repre predict` writes."""
    files_per_image: ClassVar[bool] = False
    """Whether images have files of their own in that folder beside their overlays."""
    is_exportable: ClassVar[bool] = True
    """Whether `forward` can be traced."""
    has_classes: ClassVar[bool] = True
    """Whether there are names of classes."""
    is_drawn: ClassVar[bool] = False
    """Whether there are overlays."""
    measured: str = "not measured"
    """How well it did in the evaluation that fitted it, such as ``segment, miou 18.59 %``."""

    def __init__(
        self, network: nn.Module, *, classes: Sequence[str], head: Any, preprocessing: Any, batch: int = 64
    ) -> None:
        super().__init__()
        self.network, self.classes, self.batch = network, list(classes), batch
        self.head, self.preprocessing = head, preprocessing

    @property
    def encoder(self) -> Encoder:
        """The encoder below the head."""
        encoder = self.network.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def activation(self) -> str:
        """What turns the output into predictions, in words, for the metadata of exports."""
        return ""

    # -------------------------------------------------------------------------------------------- what a task defines

    @classmethod
    @abstractmethod
    def build(cls, encoder: Encoder, *, classes: Sequence[str], head: Any, preprocessing: Any, batch: int) -> Self:
        """Builds a model whose weights will be loaded.

        Raises:
            UserError: the parts do not fit each other.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Maps normalized images [B, C, H, W] to the output; what `repre export` exports."""

    @property
    @abstractmethod
    def decoding(self) -> Decoding:
        """How image files are decoded."""

    @property
    @abstractmethod
    def reader(self) -> Callable[[Array], Any]:
        """Prepares a decoded image [H, W, C] in a worker process. It is sent there, so it holds no weights."""

    def weight(self, item: Any) -> int:
        """How much of a batch an item of `reader` takes."""
        return 1

    @abstractmethod
    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[Any], list[str]], list[Any]]:
        """Returns a function from a batch of items of `reader` and their names to predictions.

        The model is on the device of `runtime`. Where memory runs out, the function computes the batch in halves.
        """

    @abstractmethod
    def write(self, prediction: Any, name: str, folder: Path, options: PredictOptions) -> dict[str, Any]:
        """Returns what the file of all predictions needs of one as plain values; writes files of the image's own.

        Args:
            name: of the image in `folder`, without an ending.
        """

    @abstractmethod
    def join(self, rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, options: PredictOptions) -> None:
        """Writes the file of all predictions.

        Args:
            rows: yields what `write` returned, image by image, from the first on at every call.
        """

    def draw(self, image: Array, prediction: Any, options: PredictOptions) -> Image.Image:
        """Draws a prediction and its image [H, W, C], if `is_drawn`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- the same for all

    def predict(
        self,
        images: Any,
        *,
        threshold: float = 0.5,
        skip_unreadable: bool = False,
        runtime: PredictRuntime | None = None,
    ) -> list[Any]:
        """Predicts images of any kind, with the preprocessing of the evaluation.

        Args:
            images: a path, a PIL image, an array [H, W, C] or [H, W], a tensor [C, H, W], a list of these or a batch
                [B, ...]; a folder, or whatever else `repre pretrain --data` takes. uint8 values are 0 to 255, uint16 0 to
                65535, floats 0 to 1, unless the model was fitted with a range of pixel values.
            threshold: lowest score of a label, if images may have several.
            skip_unreadable: leave out images that cannot be read instead of raising an error.
            runtime: device, workers and batch size; the model is moved to the device.

        Returns:
            A `Classes`, `Masks`, `DepthMap` or `Boxes` for every image, in order.

        Raises:
            UserError: there are no such images, or one cannot be read.
        """
        from repre.evaluation.fitted.prediction_images import open_images, stream

        options = PredictOptions(threshold=threshold, runtime=runtime or PredictRuntime())
        source = open_images(self, images)
        found: list[Any] = []
        for _, prediction, failure in stream(self, source, options=options):
            if failure is None:
                found.append(prediction)
            elif not skip_unreadable:
                raise UserError(f"{failure[0]} cannot be read: {failure[1]}; repair or remove it")
        return found

    def example(self, count: int) -> Tensor:
        """Random pixels of the shape that `forward` takes, [count, C, H, W], to trace or compare programs with."""
        encoder = self.encoder
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, encoder.config.channels, *encoder.image_size, generator=generator)


def check_statistics(mean: Iterable[float], std: Iterable[float], *, channels: int | None = None) -> None:
    """Refuses a normalization that no evaluation stores.

    Raises:
        UserError: other numbers of channels, or a standard deviation of 0 or less.
    """
    mean, std = list(mean), list(std)
    if not mean or len(mean) != len(std) or (channels is not None and len(mean) != channels) or min(std) <= 0:
        raise UserError(f"mean {mean} and std {std} are not a normalization of {channels or len(mean)} channels")


def check_range(value_range: tuple[float, float] | None) -> None:
    """Refuses a range of pixel values that is empty; raises UserError."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UserError(f"value_range must be (lowest, highest), not {value_range}")


def check_sides(**sides: int | None) -> None:
    """Refuses lengths in pixels that no evaluation stores; raises UserError."""
    for name, side in sides.items():
        if side is not None and not 0 <= side <= LARGEST_SIDE:
            raise UserError(f"{name} must be 0 to {LARGEST_SIDE}, not {side}")
