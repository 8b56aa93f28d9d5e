"""lightly's transform, dataset helpers and loss around the same timm model, as its SimCLR example does."""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Clock, build, save_grid, task


def main() -> None:
    job = task()
    dataset = LightlyDataset(job.images, transform=SimCLRTransform(input_size=job.size, cj_strength=1.0))
    loader = torch.utils.data.DataLoader(
        dataset,
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
    criterion = NTXentLoss(temperature=0.2)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], lr=1e-4, fused=True)
    low = job.precision == "bf16"
    clock, source = Clock(job), batches()
    done = False
    while not done:
        first, second = (view.to(job.device, non_blocking=True) for view in clock.wait(source)[0])
        if clock.step == 0:
            save_grid([first, second], job, "lightly")
        with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=low):
            one, other = projector(encoder(torch.cat([first, second]))).chunk(2)
        criterion(one.float(), other.float()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        done = clock.tick()
    clock.report("lightly", transforms=f"lightly {version('lightly')} SimCLRTransform, {job.workers} workers")


if __name__ == "__main__":
    main()
