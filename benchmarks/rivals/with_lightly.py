"""lightly's transforms, losses and heads around the same timm model, as its SimCLR and DINO examples do."""

import sys
from importlib.metadata import version
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, SimCLRTransform
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from contender import (
    BOTTLENECK,
    DINO_HIDDEN,
    TEMPERATURE,
    Clock,
    Task,
    build_encoder,
    build_projector,
    endless,
    loader,
    save_grid,
    task,
)


class SimCLR(nn.Module):
    def __init__(self, job: Task) -> None:
        super().__init__()
        self.encoder, self.projector = build_encoder(job), build_projector(job)
        self.criterion = NTXentLoss(temperature=TEMPERATURE)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        one, other = self.projector(self.encoder(torch.cat(views))).chunk(2)
        return self.criterion(one.float(), other.float())

    def after(self) -> None:
        pass


class DINO(nn.Module):
    def __init__(self, job: Task) -> None:
        super().__init__()
        self.student, self.teacher = build_encoder(job), build_encoder(job)
        self.head, self.teacher_head = (
            DINOProjectionHead(job.dim, DINO_HIDDEN, BOTTLENECK, job.prototypes, freeze_last_layer=1) for _ in range(2)
        )
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=job.prototypes)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(view)).float() for view in views[:2]]
        found = [self.head(self.student(view)).float() for view in views]
        return self.criterion(targets, found, epoch=5)

    def after(self) -> None:
        update_momentum(self.student, self.teacher, m=0.996)
        update_momentum(self.head, self.teacher_head, m=0.996)


def transform(job: Task) -> object:
    if job.method == "simclr":
        return SimCLRTransform(input_size=job.size, cj_strength=1.0)
    return DINOTransform(
        global_crop_size=job.size,
        global_crop_scale=(0.25, 1.0),
        local_crop_size=job.local_size,
        local_crop_scale=(0.05, 0.25),
        n_local_views=job.n_local,
    )


def main() -> None:
    job = task()
    source = endless(loader(LightlyDataset(job.images, transform=transform(job)), job))
    model = (SimCLR if job.method == "simclr" else DINO)(job).to(job.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    clock, done = Clock(job), False
    while not done:
        views = [view.to(job.device, non_blocking=True) for view in clock.wait(source)[0]]
        if clock.step == 0:
            save_grid(views, job, "lightly")
        with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=job.precision == "bf16"):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after()
        done = clock.tick()
    clock.report("lightly", does=f"lightly {version('lightly')}'s transforms in {job.workers} workers; fused AdamW")


if __name__ == "__main__":
    main()
