"""The images that a fitted model predicts: opens what a user names, reads them in worker processes, predicts in batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from repre.data.io.decode import EXTENSIONS, UnreadableImage
from repre.data.io.file_choice import FileChoice
from repre.data.io.frame_notes import noting_frames
from repre.data.io.memory_images import MemorySource, as_images, file_source
from repre.data.io.sources import Source, open_source
from repre.data.loading.workers import in_workers, load_tracked
from repre.evaluation.fitted.fitted_model import FittedModel, PredictOptions
from repre.utils.progress import ItemCount
from repre.utils.together import check_others, of_rank

Array = np.ndarray
FEW = 16
"""As few images are read in the calling process, because workers take longer to start."""


def open_images(model: FittedModel, images: Any, *, choice: FileChoice | None = None) -> Source:
    """Opens images for a model, decoded as the evaluation decoded its test images.

    Args:
        images: see `FittedModel.predict`.
        choice: which files of folders and archives are used; None: all images.

    Raises:
        UserError: there are no such images.
    """
    decoding = model.decoding
    images, _ = as_images(images)
    if not all(isinstance(image, str | Path) for image in images):
        return MemorySource(images, **decoding)
    paths = [Path(image).expanduser() for image in images]
    if all(path.suffix.lower() in EXTENSIONS and path.is_file() for path in paths):
        return file_source(images, **decoding)
    specs = [str(image) for image in images]
    return open_source(specs[0] if len(specs) == 1 else specs, **decoding, choice=choice, labels=False)


class Read(NamedTuple):
    """One image, read in a worker."""

    number: int
    """Its number in the source."""
    item: Any
    """What `FittedModel.reader` made of it; None if it cannot be read."""
    failure: tuple[str, str] | None
    """Its name and why it cannot be read."""
    several_frames: bool
    """Whether only the first frame or page of its file was used."""


class _Images(Dataset[Read]):
    """Item i is image i of a source, prepared for a model."""

    def __init__(self, source: Source, reader: Callable[[Array], Any]) -> None:
        self.source, self.reader = source, reader

    def __getitem__(self, index: int) -> Read:
        try:
            with noting_frames() as note:
                image = load_tracked(self.source, index)
            return Read(index, self.reader(image), None, note.several)
        except UnreadableImage as error:
            return Read(index, None, (self.source.describe(index), str(error)), False)


class Predicted(NamedTuple):
    """One image, predicted."""

    read: Read
    """The image, without its item."""
    prediction: Any
    """None if it cannot be read."""
    failure: tuple[str, str] | None
    """Its name and why it cannot be read."""


@torch.no_grad()
def stream(
    model: FittedModel,
    source: Source,
    *,
    options: PredictOptions,
    indices: Sequence[int] | None = None,
    part: int | None = None,
) -> Iterator[Predicted]:
    """Yields the predictions of images in order, a batch at a time.

    Args:
        indices: which images, in rising order; None: all.
        part: no batch holds images from both sides of a multiple of this number, so that parts can be computed alone.

    Raises:
        RunError: a worker process died.
    """
    indices = range(len(source)) if indices is None else indices
    runtime = options.runtime.options(model.batch)
    predict = model.to(runtime.torch_device).eval().predictor(runtime, options)
    workers = 0 if isinstance(source, MemorySource) or len(indices) <= FEW else min(runtime.processes, len(indices))
    batch: list[Read] = []

    def predicted() -> Iterator[Predicted]:
        check_others()
        readable = [read for read in batch if read.failure is None]
        names = [source.describe(read.number) for read in readable]
        found = iter(predict([read.item for read in readable], names) if readable else [])
        for read in batch:
            prediction = None if read.failure is not None else next(found)
            yield Predicted(read._replace(item=None), prediction, read.failure)

    reads = in_workers(_Images(source, model.reader), indices, workers=workers)
    weight = 0
    with ItemCount(of_rank("predict"), total=len(indices)) as bar:
        for position, read in enumerate(reads):
            batch.append(read)
            weight += 0 if read.failure is not None else model.weight(read.item)
            last = position == len(indices) - 1
            if weight >= runtime.batch or last or (part is not None and (read.number + 1) % part == 0):
                yield from predicted()
                bar.update(len(batch))
                batch, weight = [], 0
