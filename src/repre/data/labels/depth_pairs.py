"""Images with a depth map each: 16-bit PNG with a scale, or NumPy files.

pairs:IMAGES,DEPTHS   two folders with matching names; both may hold train/ and val/, or be written with {split}; else a
                      fifth is held out
pairs:DIR             one folder with x.jpg and x_depth.png, or x.jpg and x.png or x.npy

    H, W  height and width    C  channels
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.io.decode import in_range, read_image
from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.mask_files import other_size
from repre.data.labels.mask_pairs import MASKS, Pairs, find_in, hold_out_pairs, split_places
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.data.labels.problems import Problems
from repre.data.labels.visible_files import files_below
from repre.errors import BadImage, UserError

Array = np.ndarray

NUMPY = ".npy"
PLAUSIBLE = (0.01, 1000.0)
"""Meters between which the median depth of real scenes lies; outside, the scale is wrong."""
CHECKED = 8
"""Depth maps that `check_scale` reads."""


class DepthPairs:
    """Image files, each with a depth map. Satisfies `MaskSource`: depth takes the place of the mask.

    Args:
        spec: the string that the source was opened from.
        found: images with their depth maps, and without.
        channels: channels of every image.
        scale: meters that 1 stands for in files of integers.
        max_depth: farther pixels count as unknown; None for no limit.
        value_range: pixel values of the images that become 0 and 1; None leaves them as they are.
    """

    def __init__(
        self,
        spec: str,
        found: Pairs,
        *,
        channels: int,
        scale: float,
        max_depth: float | None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.spec, self.channels, self.scale, self.max_depth = spec, channels, scale, max_depth
        self.value_range = value_range
        self.pairs = found.pairs
        self.classes: list[str] = []
        self.notes = found.notes("depth map")

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[Array, Array]:
        """Loads an image [H, W, C] and its depth in meters, float32 [H, W], 0 where it is unknown.

        Raises:
            UserError: names the file that is damaged, of another size, or holds no depth.
        """
        path, depth_path = self.pairs[index]
        try:
            image = read_image(path, channels=self.channels, raw_values=self.value_range is not None)
        except UnreadableImage as error:
            raise BadImage(f"{path} cannot be read: {error}; repair it, or remove it with its depth map") from error
        depth = read_depth(depth_path, scale=self.scale)
        if depth.shape != image.shape[:2]:
            raise BadImage(other_size(path, image.shape[:2], depth_path, depth.shape, kind="depth map"))
        if self.max_depth is not None:
            depth[depth > self.max_depth] = 0
        return image if self.value_range is None else in_range(image, self.value_range), depth

    def describe(self, index: int) -> str:
        return str(self.pairs[index][0])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"depth {self.scale} {self.max_depth} {self.value_range}".encode())
        for path in (path for pair in self.pairs for path in pair):
            status = os.stat(path)
            digest.update(os.fsencode(path.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def read_depth(path: Path, *, scale: float) -> Array:
    """Reads a depth map in meters, float32 [H, W]; 0 where the file has 0, less, NaN or infinity.

    Args:
        scale: meters that 1 stands for in files of integers; NumPy files of floats hold meters.

    Raises:
        UserError: the file is damaged, in color, or has 8 bits per pixel.
    """
    try:
        if path.suffix.lower() == NUMPY:
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path, formats=("PNG",)) as image:
                values = np.asarray(image)
                if not (image.mode == "I" or image.mode.startswith("I;16")):
                    raise BadImage(
                        f"{path} is a PNG of mode {image.mode}, and depth needs 16 bits in one channel; save it as 16-bit "
                        "PNG (and give the meters of one unit with --depth-scale), or as .npy in meters"
                    )
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(f"{path} cannot be read: {error}; repair it, or remove it with its image") from error
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise BadImage(
            f"{path} holds {values.dtype} of {' x '.join(map(str, values.shape))}; a depth map is an array of height x "
            "width, of floats in meters or of integers in units of --depth-scale"
        )
    depth = values.astype(np.float32) * np.float32(1 if values.dtype.kind == "f" else scale)
    depth[~(np.isfinite(depth) & (depth > 0))] = 0
    return depth


def open_depth(
    spec: str,
    *,
    split: str,
    channels: int,
    scale: float,
    max_depth: float | None,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
    skip_unlabeled: bool = False,
) -> DepthPairs:
    """Opens what `spec` names; see the top of this file.

    Args:
        split: train or val.
        channels, scale, max_depth, value_range: as for `DepthPairs`.
        whole: hold nothing out, because other data are tested on.
        skip_unlabeled: whether images without a depth map are left out.

    Raises:
        UserError: the data do not exist, or an image has no depth map.
    """
    name, _, folders = spec.partition(":")
    if name != "pairs" or not folders:
        raise UserError(
            f"--data {spec or '(nothing)'}: write pairs:IMAGES,DEPTHS, two folders with matching names, or pairs:DIR, one "
            "with x.jpg and x_depth.png"
        )
    ending = NUMPY if folders.strip().endswith(NUMPY) else MASKS
    _, places, suffix = split_places(spec, folders, ending=ending)
    if suffix is None and any(files_below(part[-1], (NUMPY,)) for part in places.values()):
        ending = NUMPY
    found = {
        part: find_in(places[part], suffix=suffix, skip_unlabeled=skip_unlabeled, ending=ending, kind="depth map")
        for part in places
    }
    notes = []
    if found["train"].pairs == found["val"].pairs and not whole:
        found[split] = hold_out_pairs(spec, found[split], split=split)
        notes.append(HELD_OUT_NOTE)
    source = DepthPairs(
        spec, found[split], channels=channels, scale=scale, max_depth=max_depth, value_range=value_range
    )
    source.notes += notes
    return source


def check_scale(source: DepthPairs, problems: Problems | None = None) -> str:
    """Reads some depth maps, and tells their range in a sentence.

    Args:
        problems: takes the doubt about a range that no real scene has; None raises it.

    Raises:
        UserError: no pixel of them has a depth, or the median is none of a real scene.
    """
    problems = problems or Problems()
    indices = np.unique(np.linspace(0, len(source) - 1, min(CHECKED, len(source))).round().astype(int)).tolist()
    maps = [read_depth(source.pairs[index][1], scale=source.scale) for index in indices]
    known = np.concatenate([depth[depth > 0] for depth in maps])
    if not len(known):
        raise UserError(
            f"--data {source.spec}: no depth above 0 in {len(maps)} of {len(source)} depth maps, such as "
            f"{source.pairs[0][1]}; 0, negative values and NaN mean unknown. Write depth in units of --depth-scale "
            "(16-bit PNG) or in meters (.npy), and name the folders in the order pairs:IMAGES,DEPTHS"
        )
    low, middle, high = np.percentile(known, (1, 50, 99))
    scale = f"--depth-scale {source.scale:g}"
    told = f"depth from {low:.3g} to {high:.3g} m (1 % to 99 % of {len(maps)} maps, integers at {scale})"
    if not PLAUSIBLE[0] <= middle <= PLAUSIBLE[1]:
        problems.doubt(
            f"--data {source.spec}: {told}, half of it beyond {middle:.3g} m; set --depth-scale to the meters of one "
            "unit in the files (0.001 for millimeters), and write floats in meters"
        )
    if source.max_depth is not None and low > source.max_depth:
        raise UserError(f"--data {source.spec}: {told}, all beyond --max-depth {source.max_depth:g}; raise it")
    return told
