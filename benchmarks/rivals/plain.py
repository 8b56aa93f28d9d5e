"""A plain training loop: torchvision's transforms in DataLoader workers, a timm model, NT-Xent or DINO."""

import copy
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from contender import (
    BOTTLENECK_DIM,
    DINO_HIDDEN_DIM,
    MEAN,
    STD,
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
from PIL import Image
from torch import nn
from torchvision.transforms import v2


class Folder(torch.utils.data.Dataset):
    """The views of every JPEG file in a folder."""

    def __init__(self, root: str, transforms: list[v2.Compose]) -> None:
        self.paths, self.transforms = sorted(Path(root).rglob("*.jpg")), transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        return [transform(image) for transform in self.transforms]


def augmentation(
    task: Task, size: int, *, scale: tuple[float, float], strength: float, blur: float, solarize: float
) -> v2.Compose:
    """Returns the augmentation of one view of SimCLR or DINO."""
    kernel = max(3, 2 * round((size * 23 / 224 - 1) / 2) + 1)
    bicubic = task.method == "dino"
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply(
                [v2.ColorJitter(0.4 * strength, 0.4 * strength, (0.2 if bicubic else 0.4) * strength, 0.1 * strength)], p=0.8
            ),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=blur),
            v2.RandomSolarize(128, p=solarize),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )  # fmt: skip


def transforms(task: Task) -> list[v2.Compose]:
    """Returns the augmentation of every view."""
    if task.method == "simclr":
        return [augmentation(task, task.size, scale=(0.08, 1.0), strength=2, blur=0.5, solarize=0.0)] * 2
    large, small = (0.25, 1.0), (0.05, 0.25)
    return [
        augmentation(task, task.size, scale=large, strength=1, blur=1.0, solarize=0.0),
        augmentation(task, task.size, scale=large, strength=1, blur=0.1, solarize=0.2),
        *[augmentation(task, task.local_size, scale=small, strength=1, blur=0.5, solarize=0.0)] * task.n_local,
    ]


class SimCLR(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encoder, self.projector = build_encoder(task), build_projector(task)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        embedding = F.normalize(self.projector(self.encoder(torch.cat(views))).float(), dim=1)
        logits = embedding @ embedding.T / TEMPERATURE
        logits.fill_diagonal_(float("-inf"))
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device).roll(len(views[0])))

    def after_step(self) -> None:
        pass


class DINOHead(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        sizes = (task.dim, DINO_HIDDEN_DIM, DINO_HIDDEN_DIM, BOTTLENECK_DIM)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())][:-1]
        self.mlp = nn.Sequential(*layers)
        self.last = nn.Linear(BOTTLENECK_DIM, task.prototypes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(self.mlp(x), dim=1), F.normalize(self.last.weight, dim=1))


class DINO(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.student = nn.ModuleList([build_encoder(task), DINOHead(task)])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, task.prototypes))

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        encoder, head = self.student
        batch = len(views[0])
        embeddings = torch.cat([encoder(torch.cat(views[:2])), encoder(torch.cat(views[2:]))])
        student = (head(embeddings).float() / 0.1).log_softmax(1).split(batch)
        with torch.no_grad():
            encoder, head = self.teacher
            logits = head(encoder(torch.cat(views[:2]))).float()
            targets = ((logits - self.center) / 0.04).softmax(1).split(batch)
            self.center.lerp_(logits.mean(0, keepdim=True), 0.1)
        terms = [-(t * s).sum(1).mean() for i, t in enumerate(targets) for j, s in enumerate(student) if i != j]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 0.004)


def main() -> None:
    task = parse_task()
    batches = endless(build_loader(Folder(task.images, transforms(task)), task))
    model = (SimCLR if task.method == "simclr" else DINO)(task).to(task.device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    clock, done = Clock(task), False
    while not done:
        views = [view.to(task.device, non_blocking=True) for view in clock.next(batches)]
        if clock.step == 0:
            save_grid(views, task, "plain")
        with torch.autocast(task.device.split(":")[0], torch.bfloat16, enabled=task.precision == "bf16"):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after_step()
        done = clock.tick()
    clock.report("plain", does=f"PIL decoding and torchvision v2 on PIL images in {task.workers} workers; fused AdamW")


if __name__ == "__main__":
    main()
