"""JPEG files that cost what photographs cost: scenes under noise with a natural spectrum, 500 x 375, about 90 KB each.

The embedded scenes alone are smooth: they compress to a quarter of that and decode in half the time, which would flatter
whoever is quick at the rest.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.scenes import ScenesConfig, draw_scene

WIDTH, HEIGHT = 500, 375
NOISE = 30.0
"""Standard deviation of the noise, of 255."""


def draw_image(index: int) -> Image.Image:
    scene = draw_scene(ScenesConfig(size=125, max_objects=4), split="train", index=index).image[:94]
    smooth = Image.fromarray(scene).resize((WIDTH, 376), Image.Resampling.BICUBIC)
    generator = np.random.default_rng(index)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    parts = generator.standard_normal((2, *frequency.shape)) / frequency
    noise = np.fft.irfft2(parts[0] + 1j * parts[1], s=(HEIGHT, WIDTH))
    pixels = np.asarray(smooth, dtype=np.float32)[:HEIGHT] + NOISE * (noise / noise.std())[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_images(folder: Path, count: int) -> Path:
    """Fills the folder up to `count` files; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(list(folder.glob("*.jpg"))), count):
        draw_image(index).save(folder / f"{index:06d}.jpg", quality=90)
    return folder
