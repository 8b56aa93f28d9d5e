"""Encodes images and quantized features as text in the page, each once, in a quality that fits the page's size."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repre.reporting.run_data import RunData


@dataclass(frozen=True)
class Quality:
    """How much of the page's size images and charts may use."""

    jpeg: int
    """JPEG quality of photographs."""
    max_side: int
    """Largest side of an image in pixels."""
    max_panels: int
    """Steps of the reconstruction panel."""
    max_images: int
    """Images of the snapshots."""
    max_patches: int
    """Patches per image for the similarity maps."""
    max_points: int
    """Points per line of a chart."""
    reduction: str = ""
    """What this quality takes away; empty for the best."""


QUALITIES = (
    Quality(90, 256, 25, 12, 1024, 1000),
    Quality(80, 224, 16, 12, 784, 800, "images are stored in lower quality"),
    Quality(65, 160, 12, 8, 400, 600, "images are smaller and fewer"),
    Quality(50, 96, 6, 6, 200, 400, "images are very small and few"),
    Quality(0, 0, 0, 0, 0, 200, "all images are left out"),
)
"""From the best down; the page takes the first that fits."""


@dataclass
class Album:
    """Images by key as data URIs. The page's script inserts them, so that each is stored once however often it is shown."""

    quality: Quality
    uris: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, pixels: np.ndarray, *, lossless: bool = False) -> str:
        """Adds an image, uint8 [H, W, 3], unless the key exists; gives the key."""
        if key not in self.uris:
            self.uris[key] = data_uri(
                shrink(pixels, self.quality.max_side), jpeg=None if lossless else self.quality.jpeg
            )
        return key


def data_uri(pixels: np.ndarray, *, jpeg: int | None) -> str:
    """Encodes an image, uint8 [H, W, 3], as JPEG of the given quality, or as PNG for None."""
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if jpeg is None:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=jpeg, subsampling=0 if jpeg >= 80 else 2)  # optimize fails on noise
    return f"data:image/{'png' if jpeg is None else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def shrink(pixels: np.ndarray, max_side: int) -> np.ndarray:
    """Resizes an image [H, W, 3] so that neither side is above `max_side`."""
    height, width = pixels.shape[:2]
    if max(height, width) <= max_side:
        return pixels
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS))


# ----------------------------------------------------------------------------------------- reconstruction panels


@dataclass(frozen=True)
class Panels:
    """The fixed images and their reconstructions over training."""

    originals: list[np.ndarray]
    """uint8 [S, S, 3] each."""
    rebuilt: dict[int, list[np.ndarray]]
    """By step: the reconstruction of each image, uint8 [S, S, 3]."""
    psnr: dict[int, float]
    """By step: the mean over the images, in dB."""


def read_panels(run: RunData, *, max_count: int) -> Panels | None:
    """Reads at most `max_count` panel files of a run, evenly spaced, with the first and the last; None without any.

    A panel has the images in its upper half and their reconstructions below. Files of another layout, and files that cannot
    be read, are skipped.
    """
    steps = list(run.panels)
    if not steps or max_count < 1:
        return None
    spaced = np.linspace(0, len(steps) - 1, min(max_count, len(steps))).round()
    selected = sorted({steps[int(index)] for index in spaced} | {steps[-1]})
    originals: list[np.ndarray] = []
    rebuilt, psnr = {}, {}
    for step in selected:
        halves = _split_panel(run.panels[step])
        if halves is None or (originals and len(halves[1]) != len(originals)):
            continue
        originals, rebuilt[step] = halves
        errors = np.array([np.square(a.astype(float) - b).mean() for a, b in zip(*halves)])
        psnr[step] = float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-5))))
    return Panels(originals, rebuilt, psnr) if rebuilt else None


def _split_panel(path: Path, *, gap: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Cuts a panel into its images and their reconstructions, without the frame of `gap` pixels around each."""
    try:
        with Image.open(path) as image:
            pixels, said = np.asarray(image.convert("RGB")), str(image.info.get("images", ""))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    height = pixels.shape[0] // 2
    count = int(said) if said.isdecimal() else pixels.shape[1] // max(height, 1)  # older panels: squares
    width = pixels.shape[1] // max(count, 1)
    if min(height, width) <= 2 * gap or pixels.shape[:2] != (2 * height, count * width):
        return None
    rows = slice(gap, height - gap)
    upper, lower = (
        [half[rows, i * width + gap : (i + 1) * width - gap] for i in range(count)] for half in np.split(pixels, 2)
    )
    return upper, lower


# ------------------------------------------------------------------------------------------------ patch features


def encode_patches(patches: np.ndarray, *, max_patches: int) -> dict[str, Any]:
    """Encodes patch features, int8 [N, h, w, d], as base64 with their shape.

    Grids of more than `max_patches` patches are averaged over 2 x 2 neighbors until they fit.
    """
    while patches.shape[1] * patches.shape[2] > max_patches and min(patches.shape[1:3]) >= 2:
        n, h, w, d = patches.shape
        blocks = patches[:, : h // 2 * 2, : w // 2 * 2].astype(np.float32).reshape(n, h // 2, 2, w // 2, 2, d)
        means = blocks.mean((2, 4))
        norms = np.linalg.norm(means, axis=-1, keepdims=True)
        patches = np.round(means / np.maximum(norms, 1e-6) * 127).astype(np.int8)
    return {"shape": list(patches.shape), "values": base64.b64encode(np.ascontiguousarray(patches).tobytes()).decode()}
