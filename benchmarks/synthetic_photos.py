"""Draws JPEG files that cost as much to decode as photographs: 500 x 375 pixels, about 90 KB each.

They are embedded scenes with noise of a natural spectrum. The scenes alone are smooth: they compress to a quarter of that
size and decode in half the time, so decoding would weigh too little in the benchmarks.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.scenes import ScenesConfig, draw_scene

WIDTH, HEIGHT = 500, 375
NOISE = 30.0
"""Standard deviation of the noise, on a scale of 0 to 255."""


def draw_photo(index: int) -> Image.Image:
    """Draws the image of an index."""
    scene = draw_scene(ScenesConfig(size=125, max_objects=4), split="train", index=index).image[:94]
    smooth = Image.fromarray(scene).resize((WIDTH, 376), Image.Resampling.BICUBIC)
    generator = np.random.default_rng(index)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    parts = generator.standard_normal((2, *frequency.shape)) / frequency
    noise = np.fft.irfft2(parts[0] + 1j * parts[1], s=(HEIGHT, WIDTH))
    pixels = np.asarray(smooth, dtype=np.float32)[:HEIGHT] + NOISE * (noise / noise.std())[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_photos(folder: Path, count: int) -> Path:
    """Adds files to a folder until it has `count`, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(list(folder.glob("*.jpg"))), count):
        draw_photo(index).save(folder / f"{index:06d}.jpg", quality=90)
    return folder
