"""The reconstruction branch beside your own contrastive loss, in your own loop.

python examples/own_loss.py                                   # the embedded scenes: a few minutes on two cores
python examples/own_loss.py --data photos/ --name vit_small_patch16_224 --size 224 --weight 0.5

`repre.Encoder` gives the embedding and the maps of several depths in one pass, `repre.Decoder` makes pixels of the maps,
and `pixel_loss` compares them with what the encoder saw.
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
    """Two augmented views of every image; your own data set goes here."""

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


def barlow_twins(one: Tensor, other: Tensor, *, off: float = 0.005) -> Tensor:
    """Your loss goes here. This one (arXiv 2103.03230) brings the correlation of two views' [B, P] to the identity."""
    one, other = ((x - x.mean(0)) / (x.std(0) + 1e-6) for x in (one, other))
    correlation = one.T @ other / len(one)
    on = correlation.diagonal()
    return (1 - on).square().sum() + off * (correlation.square().sum() - on.square().sum())


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
    """Trains an encoder with Barlow Twins plus `weight` times the pixel loss, and saves it for timm."""
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
    print(f"encoder: timm.create_model('local-dir:{out / 'encoder'}', pretrained=True)")
    return history


if __name__ == "__main__":
    tyro.cli(main)
