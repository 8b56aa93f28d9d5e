"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): DINO between views, iBOT's loss on hidden patches, and KoLeo.

With `koleo_weight` 0, `centering` "centering" and `patch_center` "all" it is iBOT (Zhou et al. 2022, arXiv 2111.07832).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, Needs, Teacher
from repre.frameworks.dino import DINOConfig
from repre.frameworks.prototype_sums import PrototypeSums, project, project_views, prototype_metrics
from repre.losses import koleo
from repre.models.heads import PrototypeHead
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad, mean_over_ranks, rank, sum_over_ranks
from repre.utils.schedule import cosine, since_start
from repre.utils.step_compile import StepFunction

PATCH_COUNTS = 32
"""The number of hidden patches in a batch, which changes from step to step, is rounded up to a multiple of this part of all
patches, so that compiled functions meet few shapes."""

ROWS = 2**16
"""Patches of the teacher that pass its head at once, where all of them do."""


@dataclass(frozen=True, kw_only=True)
class DINOv2Config(DINOConfig):
    """Settings of DINOv2. What the authors count in epochs is a share of the run here, so that it follows its length."""

    momentum: float = 0.992
    """Momentum of the teacher's moving average at the start; rises to 1 along a cosine."""
    norm_last_layer: bool = False
    """Fix the prototypes' lengths at 1. False learns them."""
    teacher_temperature_warmup: float = 0.3
    """Share of the run over which both temperatures of the teacher rise (30 of 100 epochs in the authors' config)."""
    patch_temperature: float = 0.07
    """Temperature of the teacher's patch distributions after the warm-up, which starts at
    `teacher_temperature_start`."""
    shared_head: bool = True
    """Use one head for views and patches; False gives patches their own."""
    centering: Literal["centering", "sinkhorn"] = "centering"
    """How images are spread over the prototypes: by a running center of the logits, or Sinkhorn-Knopp in every
    batch."""
    patch_center: Literal["masked", "all"] = "masked"
    """The teacher's patches that update the patch center: only hidden ones (DINOv2) or all (iBOT)."""
    ibot_weight: float = 1.0
    """Weight of the loss on hidden patches; 0 leaves it out."""
    koleo_weight: float = 0.1
    """Weight of KoLeo, which is summed over the two global views; 0 leaves it out."""


class DINOv2(Framework):
    """The student sees the global views with patches hidden. Of every view it predicts the teacher's distribution of each
    other global view, and at hidden patches the teacher's distribution of the patch."""

    needs = Needs(local_views=True, patches=True, masks=True)
    center: Tensor
    patch_center: Tensor

    def __init__(self, config: DINOv2Config, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        patch_dim = getattr(encoder, "patch_dim", embedding_dim)
        heads = {"views": embedding_dim}
        if config.ibot_weight and not config.shared_head:
            heads["patches"] = patch_dim
        elif config.ibot_weight and patch_dim != embedding_dim:
            raise UserError(
                f"framework.shared_head: this encoder's patches have {patch_dim} dimensions and its embedding "
                f"{embedding_dim}, so one head cannot take both; set it to False"
            )
        self.projector = nn.ModuleDict(
            {
                name: PrototypeHead(
                    dim,
                    hidden_dim=config.hidden_dim,
                    bottleneck_dim=config.bottleneck_dim,
                    prototypes=config.prototypes,
                    norm_last_layer=config.norm_last_layer,
                )
                for name, dim in heads.items()
            }
        )
        self.teacher = Teacher(encoder, self.projector)
        if config.centering == "centering":
            self.register_buffer("center", torch.zeros(config.prototypes))
            self.register_buffer("patch_center", torch.zeros(config.prototypes))
        self.sums = PrototypeSums(student_temperature=config.student_temperature)

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views, patches=True)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        c, n_global = self.config, views.n_global
        state: dict[str, Tensor] = {}
        temperature = c.temperature_at(progress, end=c.teacher_temperature, like=student[0].embedding)
        with torch.no_grad():
            targets = project_views(_head(self.teacher.projector, "views"), teacher)
            if c.centering == "centering":
                center, state["mean"] = self.center, targets.mean_logits()
            else:
                center = targets.sinkhorn_center(temperature)
        points = project_views(_head(self.projector, "views"), student)
        of_views = self.sums.views(points, targets, center, temperature)
        terms = {"dino": of_views.loss}
        loss = of_views.loss
        if c.ibot_weight:
            terms["ibot"], of_patches = self._ibot(student[:n_global], teacher, views, progress)
            loss, state = loss + c.ibot_weight * terms["ibot"], state | of_patches
        if c.koleo_weight:
            terms["koleo"] = torch.stack([_koleo(view.embedding) for view in student[:n_global]]).sum()
            loss = loss + c.koleo_weight * terms["koleo"]
        return FrameworkOutput(
            loss=loss,
            terms={name: term.detach() for name, term in terms.items()},
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics=prototype_metrics(of_views),
            state=state,
        )

    def _ibot(
        self, student: list[Features], teacher: list[Features], views: Views, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on hidden patches of the global views, and what moves the center of the patches."""
        c, head = self.config, _head(self.teacher.projector, "patches")
        rows, weights = _hidden_rows(views, student[0].embedding.dtype)
        temperature = c.temperature_at(progress, end=c.patch_temperature, like=weights)
        state: dict[str, Tensor] = {}
        with torch.no_grad():
            patches = _patches(teacher)
            targets = project(head, patches.index_select(0, rows))
            if c.centering == "sinkhorn":
                center = targets.sinkhorn_center(temperature, weights > 0)
            elif c.patch_center == "masked":
                center, hidden = self.patch_center, (weights > 0).to(weights.dtype)
                state = {"patch_sum": targets.sum_of_logits(hidden), "patch_count": hidden.sum()}
            else:
                center = self.patch_center
                sums = torch.stack([project(head, part).sum_of_logits() for part in patches.split(ROWS)])
                state = {"patch_sum": sums.sum(0), "patch_count": torch.full_like(weights[0], len(patches))}
        points = project(_head(self.projector, "patches"), _patches(student).index_select(0, rows))
        images = len(student) * len(student[0].embedding)
        return self.sums.patches(points, targets, center, temperature, weights, images=images), state

    def step_functions(self) -> list[StepFunction[..., Any]]:
        return self.sums.step_functions()

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """All but biases and vectors, as in the authors' codes: positions and tokens decay, and so do the mask token and the
        prototypes' lengths, which are matrices there."""
        is_matrix = parameter.ndim > 1 and not name.endswith(".bias")
        return is_matrix or name.endswith(".lengths") or name == "encoder.mask_token.token"

    def before_step(self, progress: float) -> None:
        if since_start(progress) < self.config.freeze_last_layer:
            for head in self.projector.values():
                assert isinstance(head, PrototypeHead)
                head.freeze_prototypes()

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
        state, share = output.state, 1.0 - self.config.center_momentum
        if "mean" in state:
            self.center.lerp_(mean_over_ranks(state["mean"]), share)
        if "patch_sum" in state:
            total, count = sum_over_ranks(state["patch_sum"]), sum_over_ranks(state["patch_count"])
            mean = torch.where(count > 0, total / count.clamp(min=1), self.patch_center)  # no patch may be hidden
            self.patch_center.lerp_(mean, share)

    def export_encoder(self, encoder: nn.Module) -> nn.Module:
        """The teacher's, which the authors publish."""
        return self.teacher.encoder


def _head(projector: nn.Module, name: str) -> nn.Module:
    """The head of views or patches; the first is that of both if there is one."""
    assert isinstance(projector, nn.ModuleDict)
    return projector[name] if name in projector else projector["views"]


def _patches(views: list[Features]) -> Tensor:
    """The patch tokens of all global views, [G B N, D], in the order of `Views.masked`."""
    return torch.cat([view.patches.flatten(0, 1) for view in views if view.patches is not None])


def _hidden_rows(views: Views, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Indices of the hidden patches in `_patches`, padded, and their weights: 1 / the hidden patches of the image, or 0."""
    assert views.masks is not None
    masks, rows = torch.cat(views.masks).flatten(1), views.masked_patches()  # [G B, N], [M]
    weights = 1.0 / masks.sum(1)[rows // masks.shape[1]].to(dtype)
    unit = max(1, masks.numel() // PATCH_COUNTS)
    padding = max(1, -(-len(rows) // unit)) * unit - len(rows)
    others = torch.arange(
        padding, device=rows.device
    )  # any patches; not all the same one, whose gradients would queue up
    return torch.cat([rows, others]), F.pad(weights, (0, padding))


def _koleo(embedding: Tensor) -> Tensor:
    """KoLeo of one view over the global batch: views of one image are not driven apart."""
    return koleo(embedding, all_gather_with_grad(embedding), offset=rank() * len(embedding))
