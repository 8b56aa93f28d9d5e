"""Pictures and quantized features as text in the page, each stored once, in a quality that the page's size allows."""

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
    """What a page may spend on pictures.

    Attributes:
        jpeg: quality of photographs.
        side: largest side of a picture in pixels.
        panels: steps of the panel that are shown.
        images: images of the snapshots that are shown.
        cells: largest number of patches per image for the similarity maps.
        points: points per line of a chart.
        lost: what this leaves out, in words; empty for the best.
    """

    jpeg: int
    side: int
    panels: int
    images: int
    cells: int
    points: int
    lost: str = ""


LADDER = (
    Quality(90, 256, 25, 12, 1024, 1000),
    Quality(80, 224, 16, 12, 784, 800, "pictures are stored in a lower quality"),
    Quality(65, 160, 12, 8, 400, 600, "pictures are small and fewer"),
    Quality(50, 96, 6, 6, 200, 400, "pictures are very small and few"),
    Quality(0, 0, 0, 0, 0, 200, "all pictures are left out"),
)


@dataclass
class Album:
    """Pictures by name as data URIs; the page's script sets them, so that each is stored once however often shown."""

    quality: Quality
    uris: dict[str, str] = field(default_factory=dict)

    def photo(self, name: str, pixels: np.ndarray) -> str:
        """Adds a photograph, uint8 [H, W, 3], and gives its name."""
        if name not in self.uris:
            self.uris[name] = uri(smaller(pixels, self.quality.side), jpeg=self.quality.jpeg)
        return name

    def exact(self, name: str, pixels: np.ndarray) -> str:
        """Adds a small map of colors, uint8 [h, w, 3], without loss, and gives its name."""
        if name not in self.uris:
            self.uris[name] = uri(smaller(pixels, self.quality.side), jpeg=None)
        return name


def uri(pixels: np.ndarray, *, jpeg: int | None) -> str:
    """A picture, uint8 [H, W, 3], as a data URI: JPEG of a quality, or PNG."""
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if jpeg is None:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=jpeg, subsampling=0 if jpeg >= 80 else 2)  # optimize fails on noise
    return f"data:image/{'png' if jpeg is None else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """A picture [H, W, 3] with neither side above `side`."""
    h, w = pixels.shape[:2]
    if max(h, w) <= side:
        return pixels
    scale = side / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS))


# -------------------------------------------------------------------------------------------------- the panels


@dataclass(frozen=True)
class Panels:
    """The panel over time: the images, and at every step what was rebuilt, each uint8 [S, S, 3]; and by
    step the mean of their PSNR in dB."""

    originals: list[np.ndarray]
    rebuilt: dict[int, list[np.ndarray]]
    psnr: dict[int, float]


def read_panels(run: RunData, *, most: int) -> Panels | None:
    """Cuts the PNGs of a run, at most `most` of them, evenly chosen with the first and the last; None without any.

    A panel has the images in its upper half and the reconstructions in its lower one; files of another shape, or that
    cannot be read, are passed over.
    """
    steps = list(run.panels)
    if not steps or most < 1:
        return None
    chosen = sorted(
        {steps[int(i)] for i in np.linspace(0, len(steps) - 1, min(most, len(steps))).round()} | {steps[-1]}
    )
    originals: list[np.ndarray] = []
    rebuilt, psnr = {}, {}
    for step in chosen:
        halves = _halves(run.panels[step])
        if halves is None or (originals and len(halves[1]) != len(originals)):
            continue
        originals = halves[0]
        rebuilt[step] = halves[1]
        errors = np.array([np.square(a.astype(float) - b).mean() for a, b in zip(*halves)])
        psnr[step] = float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-5))))
    return Panels(originals, rebuilt, psnr) if rebuilt else None


def _halves(path: Path, *, gap: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    side = pixels.shape[0] // 2
    count = pixels.shape[1] // side if side else 0
    if side <= 2 * gap or pixels.shape[:2] != (2 * side, count * side):
        return None
    inner = slice(gap, side - gap)
    cells = [[half[inner, i * side + gap : (i + 1) * side - gap] for i in range(count)] for half in np.split(pixels, 2)]
    return cells[0], cells[1]


# ------------------------------------------------------------------------------------------------ the features


def patches_as_text(patches: np.ndarray, *, cells: int) -> dict[str, Any]:
    """Patch features, int8 [N, h, w, d], as base64 with their shape; grids above `cells` patches are averaged by twos."""
    while patches.shape[1] * patches.shape[2] > cells and min(patches.shape[1:3]) >= 2:
        n, h, w, d = patches.shape
        even = (
            patches[:, : h // 2 * 2, : w // 2 * 2].astype(np.float32).reshape(n, h // 2, 2, w // 2, 2, d).mean((2, 4))
        )
        length = np.linalg.norm(even, axis=-1, keepdims=True)
        patches = np.round(even / np.maximum(length, 1e-6) * 127).astype(np.int8)
    return {"shape": list(patches.shape), "values": base64.b64encode(np.ascontiguousarray(patches).tobytes()).decode()}
