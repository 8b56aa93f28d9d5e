"""The loop that a researcher writes: torchvision's transforms in the loader's workers, a timm model, NT-Xent."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Clock, build, save_grid, task


class Folder(torch.utils.data.Dataset):
    def __init__(self, root: str, transform: v2.Compose) -> None:
        self.paths, self.transform = sorted(Path(root).rglob("*.jpg")), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            image = image.convert("RGB")
        return self.transform(image), self.transform(image)


def main() -> None:
    job = task()
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(job.size, scale=(0.08, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23 if job.size > 128 else 9, (0.1, 2.0))], p=0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Folder(job.images, transform),
        batch_size=job.batch,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=job.device.startswith("cuda"),
    )

    def batches():
        while True:
            yield from loader

    encoder, projector = build(job)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], lr=1e-4, fused=True)
    low = job.precision == "bf16"
    clock, source = Clock(job), batches()
    done = False
    while not done:
        first, second = (view.to(job.device, non_blocking=True) for view in clock.wait(source))
        if clock.step == 0:
            save_grid([first, second], job, "plain")
        with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=low):
            embedding = projector(encoder(torch.cat([first, second])))
        embedding = F.normalize(embedding.float(), dim=1)
        logits = embedding @ embedding.T / 0.2
        logits.fill_diagonal_(float("-inf"))
        partner = torch.arange(2 * job.batch, device=job.device).roll(job.batch)
        F.cross_entropy(logits, partner).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        done = clock.tick()
    clock.report("plain", transforms=f"torchvision v2 on PIL images, {job.workers} workers")


if __name__ == "__main__":
    main()
