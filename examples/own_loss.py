"""The reconstruction branch together with your own contrastive loss, in your own training loop.

python examples/own_loss.py                                   # the embedded scenes: a few minutes on two cores
python examples/own_loss.py --data photos/ --name vit_small_patch16_224 --size 224 --weight 0.5

`repre.Encoder` returns the embedding and the feature maps of several depths in one pass. `repre.Decoder` turns the maps
into pixels. `pixel_loss` compares these with the pixels that the encoder saw.
"""

from itertools import chain, repeat
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import repre
from repre.data.io.sources import Source, open_source
from repre.losses import pixel_loss


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Two augmented views of every image. Replace it by your own data set."""

    def __init__(self, source: Source, size: int) -> None:
        self.source = source
        self.view = v2.Compose([
            v2.ToImage(), v2.RandomResizedCrop(size, scale=(0.4, 1.0), antialias=True), v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.source.load(index)
        return self.view(image), self.view(image)


def barlow_twins(first: Tensor, second: Tensor, *, redundancy_weight: float = 0.005) -> Tensor:
    """Pulls the cross-correlation of two views' projections [B, P] to the identity (arXiv 2103.03230, equation 1).

    Replace it by your own loss.
    """
    first, second = ((x - x.mean(0)) / (x.std(0) + 1e-6) for x in (first, second))
    correlation = first.T @ second / len(first)
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + redundancy_weight * off_diagonal


def main(
    *,
    data: str = "scenes:1024:64",
    name: str = "vit_tiny_patch16_224",
    size: int = 48,
    patch_size: int = 8,
    weight: float = 1.0,
    steps: int = 100,
    batch: int = 32,
    out: Path = Path("runs/own-loss"),
) -> list[tuple[float, float]]:
    """Trains an encoder with Barlow Twins plus `weight` times the pixel loss, and saves it for timm.

    Args:
        data: a folder of images, or scenes.
        name: timm's name of the encoder.
        size: side of the views in pixels.
        patch_size: side of the patches in pixels.
        weight: weight of the pixel loss.
        steps: training steps.
        batch: images per step.
        out: folder for the encoder.
    """
    torch.manual_seed(0)
    encoder = repre.Encoder(repre.EncoderConfig(name=name, image_size=size, patch_size=patch_size))
    decoder = repre.Decoder(
        repre.DecoderConfig(), widths=encoder.widths, strides=encoder.strides, channels=3, generator=torch.Generator()
    )
    head = torch.nn.Sequential(torch.nn.Linear(encoder.embedding_dim, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
    parameters = [*encoder.parameters(), *decoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.05)
    loader = DataLoader(Pairs(open_source(data), size), batch, shuffle=True, drop_last=True)
    history: list[tuple[float, float]] = []
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    for step, (first, second) in zip(range(1, steps + 1), batches):
        features = encoder(torch.cat([first, second]))  # one pass for both losses
        contrastive = barlow_twins(*head(features.embedding).chunk(2))
        pixel = pixel_loss(decoder(features.maps, first.shape[-2:]), torch.cat([first, second]))
        optimizer.zero_grad()
        (contrastive + weight * pixel).backward()
        optimizer.step()
        history.append((contrastive.item(), pixel.item()))
        if step % 20 == 0 or step == steps:
            print(f"step {step}: contrastive {contrastive:.2f}, pixel {pixel:.3f}")
    repre.save_encoder(encoder, out / "encoder", mean=[0.5] * 3, std=[0.25] * 3)
    print(f"to load the encoder: timm.create_model('local-dir:{out / 'encoder'}', pretrained=True)")
    return history


if __name__ == "__main__":
    tyro.cli(main)
