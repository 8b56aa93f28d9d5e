"""The loop that a researcher writes: torchvision's transforms in the loader's workers, a timm model, NT-Xent or DINO."""

import copy
import itertools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1]))
from contender import (
    BOTTLENECK,
    DINO_HIDDEN,
    MEAN,
    STD,
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


class Folder(torch.utils.data.Dataset):
    def __init__(self, root: str, transforms: list[v2.Compose]) -> None:
        self.paths, self.transforms = sorted(Path(root).rglob("*.jpg")), transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            image = image.convert("RGB")
        return [transform(image) for transform in self.transforms]


def augmentation(job: Task, size: int, *, scale: tuple[float, float], strength: float, blur: float, solarize: float):
    kernel = max(3, 2 * round((size * 23 / 224 - 1) / 2) + 1)
    bicubic = job.method == "dino"
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


def transforms(job: Task) -> list[v2.Compose]:
    if job.method == "simclr":
        return [augmentation(job, job.size, scale=(0.08, 1.0), strength=2, blur=0.5, solarize=0.0)] * 2
    large, small = {"scale": (0.25, 1.0), "strength": 1}, {"scale": (0.05, 0.25), "strength": 1}
    return [
        augmentation(job, job.size, blur=1.0, solarize=0.0, **large),
        augmentation(job, job.size, blur=0.1, solarize=0.2, **large),
        *[augmentation(job, job.local_size, blur=0.5, solarize=0.0, **small)] * job.n_local,
    ]


class SimCLR(nn.Module):
    def __init__(self, job: Task) -> None:
        super().__init__()
        self.encoder, self.projector = build_encoder(job), build_projector(job)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        embedding = F.normalize(self.projector(self.encoder(torch.cat(views))).float(), dim=1)
        logits = embedding @ embedding.T / TEMPERATURE
        logits.fill_diagonal_(float("-inf"))
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device).roll(len(views[0])))

    def after(self) -> None:
        pass


class Head(nn.Module):
    def __init__(self, job: Task) -> None:
        super().__init__()
        sizes = (job.dim, DINO_HIDDEN, DINO_HIDDEN, BOTTLENECK)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())][:-1]
        self.mlp = nn.Sequential(*layers)
        self.last = nn.Linear(BOTTLENECK, job.prototypes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(self.mlp(x), dim=1), F.normalize(self.last.weight, dim=1))


class DINO(nn.Module):
    def __init__(self, job: Task) -> None:
        super().__init__()
        self.student = nn.ModuleList([build_encoder(job), Head(job)])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, job.prototypes))

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
    def after(self) -> None:
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 0.004)


def main() -> None:
    job = task()
    source = endless(loader(Folder(job.images, transforms(job)), job))
    model = (SimCLR if job.method == "simclr" else DINO)(job).to(job.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    clock, done = Clock(job), False
    while not done:
        views = [view.to(job.device, non_blocking=True) for view in clock.wait(source)]
        if clock.step == 0:
            save_grid(views, job, "plain")
        with torch.autocast(job.device.split(":")[0], torch.bfloat16, enabled=job.precision == "bf16"):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.after()
        done = clock.tick()
    clock.report("plain", does=f"PIL decoding and torchvision v2 on PIL images in {job.workers} workers; fused AdamW")


if __name__ == "__main__":
    main()
