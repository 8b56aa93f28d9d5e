"""RePre (arXiv 2201.06857): one encoder, a contrastive framework, and in parallel a decoder that rebuilds pixels.

views -> encoder -+- embeddings -> framework -> contrastive loss -+-> total
                  +- maps of several depths -> decoder -> pixels -+
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks import Framework, FrameworkConfig, build_framework, framework_name
from repre.losses import PixelLossKind, pixel_loss
from repre.models.balance_gradients import balance_gradients
from repre.models.decoder import Decoder, DecoderConfig
from repre.models.encoder import Encoder, EncoderConfig
from repre.types import Features, FrameworkOutput, Losses, Views
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """How the rebuilt pixels are judged. What they are compared with and what is masked belongs to the views."""

    weight: float = 10.0
    """Weight of the pixel loss. 0 builds no decoder and gives the plain framework, bit for bit."""
    end_fraction: float = 1.0
    """Share of the run after which the branch is left out: the end belongs to the contrastive loss alone."""
    balance: float = 0.0
    """Above 0: norm of the branch's gradient over that of the contrastive one, where both enter the encoder, held at this
    ratio in every step in place of `weight`, which is then of the decoder alone. Needs the whole batch at once."""
    loss: PixelLossKind = "l1"
    """Distance between pixels."""
    patch_norm: int = 0
    """Side of the squares that are normalized to mean 0 and variance 1 in the target; 0 rebuilds plain pixels."""
    views: Literal["both", "first"] = "both"
    """Which global views are rebuilt."""
    masked_pixels: Literal["all", "masked"] = "masked"
    """With masking: whether all pixels count or only those that the encoder did not see."""
    masked_forward: Literal["shared", "separate"] = "shared"
    """With masking: one forward pass of the masked views serves both losses, or the contrastive loss keeps its own of
    the whole views and the masked ones cost a pass of their own."""

    def __post_init__(self) -> None:
        check_fields(self, "reconstruction")
        if self.weight < 0:
            raise UserError(f"reconstruction.weight must not be negative, not {self.weight}")
        if not 0 < self.end_fraction <= 1:
            raise UserError(
                f"reconstruction.end_fraction must lie in (0, 1], not {self.end_fraction}; weight 0 leaves the branch out"
            )
        if self.balance < 0:
            raise UserError(f"reconstruction.balance must not be negative, not {self.balance}")
        if self.balance and self.masked_forward == "separate":
            raise UserError("reconstruction.balance needs both losses in one forward pass: use masked_forward shared")
        if self.patch_norm < 0:
            raise UserError(f"reconstruction.patch_norm must not be negative, not {self.patch_norm}")


class RePre(nn.Module):
    """Encoder, framework and decoder; gives the losses of a batch of views.

    Example::

        encoder = Encoder("vit_small_patch16_224")
        framework = MoCoV3(MoCoV3Config(), encoder, embedding_dim=encoder.embedding_dim)
        decoder = Decoder(DecoderConfig(), widths=encoder.widths, strides=encoder.strides, channels=3,
                          generator=torch.Generator().manual_seed(0))
        model = RePre(encoder=encoder, framework=framework, decoder=decoder)
        losses = model([first, second], progress=0.0)       # two views, [B, 3, 224, 224] each
        losses.total.backward()

    Args:
        encoder: gives `Features`; the thing that stays after training.
        framework: owns heads, teacher and queue.
        decoder: rebuilds pixels from the maps; None leaves the plain framework.
        reconstruction: how the pixels are judged.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        framework: Framework,
        decoder: Decoder | None = None,
        reconstruction: ReconstructionConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.framework = framework
        self.reconstruction = reconstruction or ReconstructionConfig()
        self.decoder = decoder if self.reconstruction.weight else None

    def forward(self, views: Views | list[Tensor], *, progress: float) -> Losses:
        """Losses of the local batch.

        Args:
            views: views of one batch; a plain list of tensors means global views that are their own targets.
            progress: share of the run that is done, in [0, 1]; drives the schedules inside the framework.
        """
        if isinstance(views, list):
            views = Views(images=views, targets=views, n_global=len(views))
        rebuild = self.rebuilds(progress)
        student = self.student_features(views, rebuild=rebuild)
        if rebuild and self.reconstruction.balance:
            student = balance_gradients(student, self.reconstruction.balance)
        teacher = self.teacher_features(views)
        output = self.contrastive(student, teacher, progress)
        return self.total(output, self.pixel(student, views) if rebuild else None)

    def rebuilds(self, progress: float) -> bool:
        """Whether the branch takes part when this share of the run is done."""
        return self.decoder is not None and (
            progress < self.reconstruction.end_fraction or self.reconstruction.end_fraction == 1
        )

    @property
    def export_encoder(self) -> Encoder:
        """The encoder that a user takes away: the student's, or the teacher's where the framework says so."""
        kept = self.framework.export_encoder(self.encoder)
        assert isinstance(kept, Encoder)
        return kept

    def student_features(self, views: Views, *, rebuild: bool = True, maps: bool = True) -> list[Features]:
        """The encoder's features of every view, one pass per resolution.

        Args:
            rebuild: whether the branch takes part: patches that it must guess are hidden from the global views.
            maps: whether it is given the maps of the global views.
        """
        rebuild = rebuild and self.decoder is not None
        maps = maps and rebuild
        images = views.images
        if views.masks is not None and rebuild and self.reconstruction.masked_forward == "shared":
            seen = [hide(image, mask) for image, mask in zip(images, views.masks)]
            images = seen + images[views.n_global :]
        features: list[Features] = []
        start = 0
        while start < len(images):  # runs of views of one size: the global ones, then the local ones
            end = start + 1
            while end < len(images) and images[end].shape == images[start].shape and end != views.n_global:
                end += 1
            features += self._encode(images[start:end], maps=maps and start < views.n_global)
            start = end
        return features

    def teacher_features(self, views: Views) -> list[Features]:
        """The teacher's features of every global view; empty without a teacher."""
        seen = [self.framework.teacher_features(view) for view in views.images[: views.n_global]]
        return [features for features in seen if features is not None]

    def contrastive(self, student: list[Features], teacher: list[Features], progress: float) -> FrameworkOutput:
        """The framework's loss. Heads and losses run in float32 (or more) under mixed precision too: differences of
        cosines divided by a small temperature do not survive bfloat16."""
        with autocast(student[0].embedding.device, torch.float32):
            return self.framework.loss(_embeddings(student), _embeddings(teacher), progress)

    def pixel(self, student: list[Features], views: Views) -> Tensor | None:
        """The reconstruction loss over the chosen global views, before its weight; None without a decoder."""
        if self.decoder is None:
            return None
        settings = self.reconstruction
        used = views.n_global if settings.views == "both" else 1
        features = student[:used]
        if views.masks is not None and settings.masked_forward == "separate":
            masked = [hide(image, mask) for image, mask in zip(views.images[:used], views.masks)]
            features = self._encode(masked, maps=True)
        maps = [torch.cat(level) for level in zip(*(view.maps for view in features))]  # per level [used * B, C, H, W]
        target = torch.cat(views.targets[:used])
        only_masked = views.masks is not None and settings.masked_pixels == "masked"
        prediction = self.decoder(maps, target.shape[-2:])
        prediction = prediction if prediction.dtype == torch.float64 else prediction.float()
        return pixel_loss(
            prediction,
            target,
            kind=settings.loss,
            patch_norm=settings.patch_norm,
            mask=torch.cat(views.masks[:used]) if only_masked and views.masks is not None else None,
        )

    def total(self, output: FrameworkOutput, pixel: Tensor | None) -> Losses:
        """The weighted sum of both losses, with its parts."""
        total = output.loss if pixel is None else output.loss + self.reconstruction.weight * pixel
        return Losses(total, output.loss, pixel, output)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Normalized images [B, C, H, W] rebuilt from their features, in the same normalization."""
        if self.decoder is None:
            raise UserError("this model has no decoder: it was trained with reconstruction.weight 0")
        return self.decoder(self.encoder(images).maps, images.shape[-2:])

    def _encode(self, images: list[Tensor], *, maps: bool) -> list[Features]:
        joined = self.encoder(torch.cat(images), maps=maps)
        embeddings = joined.embedding.chunk(len(images))
        levels = zip(*(level.chunk(len(images)) for level in joined.maps)) if maps else [()] * len(images)
        return [Features(embedding, list(level)) for embedding, level in zip(embeddings, levels)]


def hide(images: Tensor, mask: Tensor) -> Tensor:
    """Replaces the masked pixels of normalized images [B, C, H, W] by 0, the mean; mask is bool [B, 1, H, W]."""
    return images.masked_fill(mask, 0.0)


def _embeddings(views: list[Features]) -> list[Features]:
    wide = [view.embedding for view in views]
    return [Features(x if x.dtype == torch.float64 else x.float()) for x in wide]


def build_model(
    *,
    encoder: EncoderConfig,
    framework: FrameworkConfig,
    decoder: DecoderConfig,
    reconstruction: ReconstructionConfig,
    seed: int,
) -> RePre:
    """The model of a run, initialized from `seed` alone.

    Encoder and heads draw from torch's global generator, seeded here; the decoder has a generator of its own, so that
    training with and without the branch starts from the same weights.
    """
    torch.manual_seed(seed)
    student = Encoder(encoder)
    contrast = build_framework(framework, student, embedding_dim=student.embedding_dim)
    branch = None
    if reconstruction.weight:
        branch = Decoder(
            decoder,
            widths=student.widths,
            strides=student.strides,
            channels=encoder.channels,
            generator=torch.Generator().manual_seed(seed),
        )
    return RePre(encoder=student, framework=contrast, decoder=branch, reconstruction=reconstruction)


def check_views(framework: FrameworkConfig, *, n_local: int) -> None:
    """Refuses local views for a framework that compares two global ones only."""
    from repre.frameworks import FRAMEWORKS

    name = framework_name(framework)
    if n_local and not FRAMEWORKS[name][1].supports_multi_crop:
        raise UserError(
            f"views.n_local is {n_local}, but {name} compares two global views only; set it to 0 or use dino"
        )
