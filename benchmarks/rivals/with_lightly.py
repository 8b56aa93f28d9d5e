"""lightly's transforms, losses and heads with the same timm model, as in its SimCLR and DINO examples."""

from importlib.metadata import version

import torch
from contender import (
    BOTTLENECK_DIM,
    DINO_HIDDEN_DIM,
    TEMPERATURE,
    Clock,
    Task,
    build_encoder,
    build_loader,
    build_projector,
    endless,
    parse_task,
    save_grid,
)
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, SimCLRTransform
from torch import nn


class SimCLR(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encoder, self.projector = build_encoder(task), build_projector(task)
        self.criterion = NTXentLoss(temperature=TEMPERATURE)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        first, second = self.projector(self.encoder(torch.cat(views))).chunk(2)
        return self.criterion(first.float(), second.float())

    def after_step(self) -> None:
        pass


class DINO(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.student, self.teacher = build_encoder(task), build_encoder(task)
        self.head, self.teacher_head = (
            DINOProjectionHead(task.dim, DINO_HIDDEN_DIM, BOTTLENECK_DIM, task.prototypes, freeze_last_layer=1)
            for _ in range(2)
        )
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=task.prototypes)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(view)).float() for view in views[:2]]
        logits = [self.head(self.student(view)).float() for view in views]
        return self.criterion(targets, logits, epoch=5)

    def after_step(self) -> None:
        update_momentum(self.student, self.teacher, m=0.996)
        update_momentum(self.head, self.teacher_head, m=0.996)


def transform(task: Task) -> object:
    if task.method == "simclr":
        return SimCLRTransform(input_size=task.size, cj_strength=1.0)
    return DINOTransform(
        global_crop_size=task.size,
        global_crop_scale=(0.25, 1.0),
        local_crop_size=task.local_size,
        local_crop_scale=(0.05, 0.25),
        n_local_views=task.n_local,
    )


def main() -> None:
    task = parse_task()
    batches = endless(build_loader(LightlyDataset(task.images, transform=transform(task)), task))
    model = (SimCLR if task.method == "simclr" else DINO)(task).to(task.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    clock, done = Clock(task), False
    while not done:
        views = [view.to(task.device, non_blocking=True) for view in clock.next(batches)[0]]
        if clock.step == 0:
            save_grid(views, task, "lightly")
        with torch.autocast(task.device.split(":")[0], torch.bfloat16, enabled=task.precision == "bf16"):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_step()
        done = clock.tick()
    clock.report("lightly", does=f"lightly {version('lightly')}'s transforms in {task.workers} workers; fused AdamW")


if __name__ == "__main__":
    main()
