"""Speed of decoding JPEG files on a CUDA device by nvJPEG (torchvision), and how far its pixels are from Pillow's.

    python benchmarks/nvjpeg.py FOLDER            # every .jpg below FOLDER, repeated to --count images

Files are read once, so the disk does not count. The time covers the copy of the encoded bytes, the decoding, and the copy of
every image to its square canvas.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, machine
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from repre.data.io.decode import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of JPEG files")
    parser.add_argument(
        "--device", default="cuda", help="device that decodes; cpu measures torchvision's libjpeg-turbo"
    )
    parser.add_argument("--count", type=int, default=2048, help="images of a round")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 256], help="images decoded at once")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to measure, after one to warm up")
    args = parser.parse_args()
    paths = sorted(args.folder.rglob("*.jpg"))
    if not paths:
        parser.error(f"{args.folder} holds no .jpg files")
    device = torch.device(args.device)
    encoded = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in paths]
    print(describe_machine(machine(args.device)))
    print(difference(paths, decode(encoded, device)))
    repeated = [encoded[number % len(encoded)] for number in range(args.count)]
    for batch in args.batches:
        rates = [rate(repeated, batch, device) for _ in range(args.rounds + 1)][1:]
        print(
            f"{batch} at once: {statistics.median(rates):.0f} images/s ({min(rates):.0f} to {max(rates):.0f}, "
            f"{args.rounds} rounds)"
        )


def decode(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decodes files to uint8 [3, H, W] on the device."""
    if device.type == "cpu":
        return [decode_jpeg(file, mode=ImageReadMode.RGB) for file in encoded]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def rate(encoded: list[Tensor], batch: int, device: torch.device) -> float:
    """Images per second from encoded bytes to canvases [B, K, K, 3]."""
    started = time.perf_counter()
    for start in range(0, len(encoded), batch):
        images = decode(encoded[start : start + batch], device)
        side = max(max(image.shape[1:]) for image in images)
        canvases = torch.zeros(len(images), side, side, 3, dtype=torch.uint8, device=device)
        for canvas, image in zip(canvases, images):
            canvas[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return len(encoded) / (time.perf_counter() - started)


def difference(paths: list[Path], images: list[Tensor]) -> str:
    """A line that compares decoded images with Pillow's."""
    largest, means = 0, []
    for path, image in zip(paths, images):
        apart = np.abs(read_image(path).astype(np.int16) - image.permute(1, 2, 0).cpu().numpy().astype(np.int16))
        largest, means = max(largest, int(apart.max())), [*means, float(apart.mean())]
    return f"difference to Pillow over {len(paths)} files: largest {largest}, mean {statistics.mean(means):.4f} of 255"


if __name__ == "__main__":
    main()
