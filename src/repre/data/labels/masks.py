"""What a ``--data`` string means if every pixel has a label: images with semantic masks.

scenes, scenes:COUNT, scenes:COUNT:SIZE   the embedded scenes; class 0 is the background
ade20k:DIR                                ADEChallengeData2016; the label 0 is ignored, 1..150 become 0..149
voc:DIR                                   Pascal VOC 2012, the lists of ImageSets/Segmentation; 21 classes, or classes.txt
pairs:IMAGES,MASKS                        two folders with matching names, masks as PNG; both may hold train/ and val/, or be
                                          written with {split}; else a fifth is held out
pairs:DIR                                 one folder with x.jpg and x_mask.png, or x.jpg and x.png

A mask has the name of its image, or one suffix for all, which DIR/*_suffix.png names if there are several. It holds numbers
of classes (gray or palette), or colors (`mask_colors`); `MaskOptions` says what is ignored.

    H, W  height and width    C  channels
"""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from repre.data.io.decode import in_range
from repre.data.io.sources import check_data, open_source
from repre.data.labels.label_map import IGNORE, MaskOptions
from repre.data.labels.mask_files import FORMATS, FileMasks, open_pairs
from repre.data.labels.problems import Problems
from repre.data.scenes import MAX_CACHED_BYTES, Scenes
from repre.errors import UserError, near_names

__all__ = ["IGNORE", "MaskOptions", "MaskSource", "open_masks"]

Array = np.ndarray


class MaskSource(Protocol):
    """Images by index with a label for every pixel. Sources are sent to worker processes."""

    spec: str
    """The string that it was opened from."""
    channels: int
    """Channels of every image."""
    classes: list[str]
    """Names of the classes; label c means classes[c]."""
    notes: list[str]
    """What a user should know of the data, a sentence each: images without masks, how test images are chosen."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[Array, Array]:
        """Loads an image [H, W, C] in uint8, uint16 or float32, and its mask uint8 [H, W], `IGNORE` if unknown.

        Raises:
            UserError: names the file that is damaged, of another size, or holds a label out of range.
        """

    def describe(self, index: int) -> str:
        """Name of image `index` in messages and file names."""

    def fingerprint(self) -> str:
        """A hash of which images and masks these are: names, sizes and modification times of files."""


def open_masks(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
    options: MaskOptions | None = None,
    problems: Problems | None = None,
) -> MaskSource:
    """Opens what `spec` names; see the top of this file.

    Args:
        split: train or val.
        channels: channels of the images.
        whole: hold nothing out of `pairs:` without splits, because other data are tested on.
        value_range: pixel values that become 0 and 1, of DICOM modality values; None leaves the images as they are.
        options: how the pixels of mask files become classes.
        problems: collects mistakes in the masks from which classes are counted; None raises the first one.

    Raises:
        UserError: the data do not exist, an image has no mask, or there are no images.
    """
    check_data(spec)
    if split not in ("train", "val"):
        raise UserError(f"masks have no split {split!r}; there are train and val")
    options = options or MaskOptions()
    problems = problems or Problems(accept=options.accept_labels)
    source = _open(spec, split, channels, options, problems, whole=whole)
    if value_range is None:
        return source
    if isinstance(source, FileMasks):
        source.raw_values = True
    return RangedMasks(source, value_range)


def _open(spec: str, split: str, channels: int, options: MaskOptions, problems: Problems, *, whole: bool) -> MaskSource:
    name, _, rest = spec.partition(":")
    if name == "scenes":
        if replace(options, accept_labels=False) != MaskOptions():
            raise UserError(f"--data {spec}: every pixel has a class; leave out the options of mask files")
        return SceneMasks(spec, split, channels)
    if name not in ("pairs", *FORMATS):
        known = ["scenes", *FORMATS, "pairs"]
        if Path(spec).expanduser().exists():
            raise UserError(f"--data {spec}: name data with masks: pairs:IMAGES,MASKS, ade20k:DIR or voc:DIR")
        hint = near_names(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"--data {spec}: no data with masks is called {name!r}{hint}")
    if not rest:
        usage = "pairs:IMAGES,MASKS" if name == "pairs" else f"{name}:DIR"
        raise UserError(f"--data {spec}: name the folder too: {usage}")
    if name == "pairs":
        return open_pairs(spec, rest, split, channels, options, hold_out=not whole, problems=problems)
    if options.colors is not None or options.binary:
        raise UserError(f"--data {spec}: --colors and --binary are for pairs:; {name} has its own numbers")
    return FORMATS[name](spec, rest, split, channels, options)


class RangedMasks:
    """Another source whose images are scaled from a declared value range to [0, 1], float32."""

    def __init__(self, source: MaskSource, value_range: tuple[float, float]) -> None:
        self.source, self.value_range = source, value_range
        self.spec, self.channels, self.classes = source.spec, source.channels, source.classes
        self.notes = source.notes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> tuple[Array, Array]:
        image, mask = self.source.load(index)
        return in_range(image, self.value_range), mask

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.value_range}"


class SomeMasks:
    """Some images of another source, by their indices in it."""

    def __init__(self, source: MaskSource, indices: list[int]) -> None:
        self.source, self.indices = source, indices
        self.spec, self.channels, self.classes = source.spec, source.channels, source.classes
        self.notes = source.notes

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> tuple[Array, Array]:
        return self.source.load(self.indices[index])

    def describe(self, index: int) -> str:
        return self.source.describe(self.indices[index])

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.indices}"


class SceneMasks:
    """The embedded scenes. Each process caches up to MAX_CACHED_BYTES of them."""

    channels = 3

    def __init__(self, spec: str, split: str, channels: int) -> None:
        scenes = open_source(spec, channels=channels)
        assert isinstance(scenes, Scenes)
        self.scenes = scenes if split == "train" else scenes.held_out(dense=True)
        self.spec, self.classes = spec, ["background", *scenes.classes]
        self.notes: list[str] = []
        self._cached: dict[int, tuple[Array, Array]] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_cached": {}}

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, index: int) -> tuple[Array, Array]:
        if index not in self._cached:
            scene = self.scenes.scene(index)
            if len(self._cached) * (scene.image.nbytes + scene.semantic.nbytes) > MAX_CACHED_BYTES:
                return scene.image, scene.semantic
            self._cached[index] = scene.image, scene.semantic
        return self._cached[index]

    def describe(self, index: int) -> str:
        return self.scenes.describe(index)

    def fingerprint(self) -> str:
        return f"{len(self.scenes)} {self.scenes.split} {self.scenes.config}"
