"""RePre (arXiv 2201.06857): an encoder, a contrastive framework, and in parallel a decoder that reconstructs pixels.

views -> encoder -+- embeddings -> framework -> contrastive loss -+-> total
                  +- maps of several depths -> decoder -> pixels -+
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks import Framework, FrameworkConfig, build_framework
from repre.losses import PixelLossKind, pixel_loss
from repre.models.balance_gradients import balance_gradients
from repre.models.decoder import Decoder, DecoderConfig
from repre.models.encoder import Encoder, EncoderConfig
from repre.types import Features, FrameworkOutput, Losses, Views
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields
from repre.utils.step_compile import StepFunction

MEMORY_BUDGET = 0.8
"""Share of the encoder's activations that a compiled step keeps for the backward pass (docs/performance.md)."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """The reconstruction loss. The config of the views has its target and its masks."""

    weight: float = 10.0
    """Weight of the pixel loss; 0 builds no decoder and gives the plain framework, bit for bit."""
    end_fraction: float = 1.0
    """Fraction of the run after which the branch is dropped and only the contrastive loss trains."""
    balance: float = 0.0
    """Above 0: in every step, scale the branch's gradient, where it enters the encoder, to this multiple of the norm of the
    contrastive gradient. `weight` then acts on the decoder alone. Needs the whole batch in one pass."""
    loss: PixelLossKind = "l1"
    """Distance between pixels."""
    patch_norm: int = 0
    """Side of the squares in which the target is normalized to mean 0 and variance 1; 0: plain pixels."""
    views: Literal["both", "first"] = "both"
    """The global views to reconstruct."""
    masked_pixels: Literal["all", "masked"] = "masked"
    """With masks: the pixels that count in the loss, all or only the hidden ones."""
    masked_forward: Literal["shared", "separate"] = "shared"
    """With masks: `shared` computes both losses from one forward pass of the masked views; `separate` computes the
    contrastive loss from the unmasked views, in a forward pass of its own."""
    masked_input: Literal["token", "pixels"] = "token"
    """What the encoder sees in place of a hidden patch: `token`, learned, after the patch embedding, or `pixels` of
    the mean color, for encoders that cannot have a token."""

    def __post_init__(self) -> None:
        check_fields(self, "reconstruction")
        if not 0 < self.end_fraction <= 1:
            raise UserError(
                f"reconstruction.end_fraction must lie in (0, 1], not {self.end_fraction}; use reconstruction.weight 0 to "
                "leave the branch out"
            )
        if self.balance and self.masked_forward == "separate":
            raise UserError(
                "reconstruction.balance needs both losses in one forward pass; set reconstruction.masked_forward to shared"
            )


class RePre(nn.Module):
    """Encoder, framework and decoder; computes the losses of a batch of views.

    Example::

        encoder = Encoder("vit_small_patch16_224")
        framework = MoCoV3(MoCoV3Config(), encoder, embedding_dim=encoder.embedding_dim)
        decoder = Decoder(DecoderConfig(), widths=encoder.widths, strides=encoder.strides, channels=3,
                          generator=torch.Generator().manual_seed(0))
        model = RePre(encoder=encoder, framework=framework, decoder=decoder)
        losses = model([first, second], progress=0.0)       # two views, [B, 3, 224, 224] each
        losses.total.backward()

    Args:
        encoder: gives `Features`.
        framework: owns heads, teacher and queue.
        decoder: reconstructs pixels from the maps; None: the plain framework.
        reconstruction: the reconstruction loss.
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
        self.pixel_loss_step = StepFunction(self._pixel_loss)

    def compile_step(self, backend: str = "inductor") -> None:
        """Compiles what training steps spend their time on: encoder, teacher, decoder with the pixel loss, parts of the
        framework's loss. Calls outside of a training step stay as they are.

        Args:
            backend: of `torch.compile`.
        """
        functions: list[StepFunction[..., Any]] = [self.pixel_loss_step, *self.framework.step_functions()]
        for function in functions:
            function.compile(backend=backend)
        for encoder in [module for module in self.modules() if isinstance(module, Encoder)]:
            has_dropout = any(isinstance(module, nn.Dropout) and module.p for module in encoder.modules())
            encoder.encode_step.compile(backend=backend, memory_budget=1.0 if has_dropout else MEMORY_BUDGET)

    def forward(self, views: Views | list[Tensor], *, progress: float) -> Losses:
        """Computes the losses of the local batch.

        Args:
            views: views of one batch; a list of tensors means global views that are their own targets.
            progress: fraction of the run that is done, in [0, 1]; drives the schedules of the framework.
        """
        if isinstance(views, list):
            views = Views(images=views, targets=views, n_global=len(views))
        reconstruct = self.reconstructs(progress)
        student = self.student_features(views, reconstruct=reconstruct)
        if reconstruct and self.reconstruction.balance:
            student = balance_gradients(student, self.reconstruction.balance)
        teacher = self.teacher_features(views)
        output = self.contrastive_loss(student, teacher, views, progress)
        return self.total_loss(output, self.reconstruction_loss(student, views) if reconstruct else None)

    def reconstructs(self, progress: float) -> bool:
        """Whether the branch takes part at this fraction of the run."""
        return self.decoder is not None and (
            progress < self.reconstruction.end_fraction or self.reconstruction.end_fraction == 1
        )

    @property
    def export_encoder(self) -> Encoder:
        """The encoder to use after training: the student's, or the teacher's if the framework prefers it."""
        encoder = self.framework.export_encoder(self.encoder)
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def exported_part(self) -> str:
        """Name of `export_encoder` among the model's modules."""
        exported = self.export_encoder
        return next(name for name, module in self.named_modules() if module is exported)

    def student_features(self, views: Views, *, reconstruct: bool = True, maps: bool = True) -> list[Features]:
        """Computes the encoder's features of every view, in one pass per resolution.

        Args:
            views: views of one batch.
            reconstruct: whether the branch takes part. Masks hide patches of the global views if the framework needs them,
                or if the branch takes part and shares the pass.
            maps: whether to return the maps of the global views, which the decoder needs.
        """
        reconstruct = reconstruct and self.decoder is not None
        hide = self.framework.needs.masks or (reconstruct and self.reconstruction.masked_forward == "shared")
        features: list[Features] = []
        start = 0
        while start < len(views.images):  # one pass for each size: the global views, then the local ones
            is_global = start < views.n_global
            end = start + 1
            while (
                end < len(views.images)
                and views.images[end].shape == views.images[start].shape
                and end != views.n_global
            ):
                end += 1
            features += self._encode(
                views.images[start:end],
                maps=maps and reconstruct and is_global,
                patches=self.framework.needs.patches and is_global,
                masks=views.masks if hide and is_global else None,
            )
            start = end
        return features

    def _encode(
        self, images: list[Tensor], *, maps: bool = True, patches: bool = False, masks: list[Tensor] | None
    ) -> list[Features]:
        """Features of views of one size, with patches hidden in the way that is set."""
        if masks is not None and self.encoder.mask_token is None:
            images = [image.masked_fill(in_pixels(mask, image), 0.0) for image, mask in zip(images, masks)]
            masks = None
        return self.encoder.encode(images, maps=maps, patches=patches, masks=masks)

    def teacher_features(self, views: Views) -> list[Features]:
        """Computes the teacher's features of every global view; an empty list without a teacher."""
        return self.framework.teacher_features(views.images[: views.n_global])

    def contrastive_loss(
        self, student: list[Features], teacher: list[Features], views: Views, progress: float
    ) -> FrameworkOutput:
        """Computes the framework's loss, in float32 or more even under mixed precision: bfloat16 is too coarse for
        differences of cosines divided by a small temperature."""
        with autocast(student[0].embedding.device, torch.float32):
            return self.framework.loss(_without_maps(student), _without_maps(teacher), views, progress)

    def reconstruction_loss(self, student: list[Features], views: Views) -> Tensor | None:
        """Computes the pixel loss over the chosen global views, before its weight; None without a decoder."""
        if self.decoder is None:
            return None
        config = self.reconstruction
        n_views = views.n_global if config.views == "both" else 1
        features = student[:n_views]
        if views.masks is not None and config.masked_forward == "separate":
            features = self._encode(views.images[:n_views], masks=views.masks[:n_views])
        masks = views.masks[:n_views] if views.masks is not None and config.masked_pixels == "masked" else None
        return self.pixel_loss_step([view.maps for view in features], views.targets[:n_views], masks)

    def _pixel_loss(
        self, maps_of_views: list[list[Tensor]], targets: list[Tensor], masks: list[Tensor] | None
    ) -> Tensor:
        """The pixel loss over some views, from the maps of each."""
        assert self.decoder is not None
        maps = [torch.cat(level) for level in zip(*maps_of_views)]  # per level [n_views * B, C_l, H_l, W_l]
        target = torch.cat(targets)
        return pixel_loss(
            self.decoder.patches(maps, target.shape[-2:]),
            target,
            stride=self.decoder.stride,
            kind=self.reconstruction.loss,
            patch_norm=self.reconstruction.patch_norm,
            mask=None if masks is None else in_pixels(torch.cat(masks), target),
        )

    def total_loss(self, output: FrameworkOutput, pixel: Tensor | None) -> Losses:
        """Returns the weighted sum of both losses, with its parts."""
        total = output.loss if pixel is None else output.loss + self.reconstruction.weight * pixel
        return Losses(total, output.loss, pixel, output)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Reconstructs normalized images [B, C, H, W] from their features, in the same normalization.

        Args:
            masks: patches to hide from the encoder, bool [B, rows, columns].

        Raises:
            UserError: the model has no decoder.
        """
        if self.decoder is None:
            raise UserError(
                "this model has no decoder, because reconstruction.weight was 0; train with a reconstruction.weight above 0"
            )
        (features,) = self._encode([images], masks=None if masks is None else [masks])
        return self.decoder(features.maps, images.shape[-2:])


def in_pixels(mask: Tensor, images: Tensor) -> Tensor:
    """A mask of patches, bool [B, rows, columns], as a mask of the pixels of images [B, C, H, W]: bool [B, 1, H, W]."""
    rows, columns = (side // cells for side, cells in zip(images.shape[-2:], mask.shape[-2:]))
    return mask.repeat_interleave(rows, 1).repeat_interleave(columns, 2)[:, None]


def _without_maps(views: list[Features]) -> list[Features]:
    """Embeddings and patch tokens, in float32 or more."""

    def precise(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    return [
        Features(precise(view.embedding), None if view.patches is None else precise(view.patches)) for view in views
    ]


def build_model(
    *,
    encoder: EncoderConfig,
    framework: FrameworkConfig,
    decoder: DecoderConfig,
    reconstruction: ReconstructionConfig,
    seed: int,
    mask_token: bool = False,
) -> RePre:
    """Builds the model of a run; its weights depend on `seed` alone.

    With `mask_token` the encoder gets one; see `needs_mask_token`.

    Encoder and heads draw from torch's global generator, which this function seeds. The decoder has a generator of its own,
    so that training with and without the branch starts from the same weights.
    """
    torch.manual_seed(seed)
    student = Encoder(encoder, mask_token=mask_token)
    contrastive = build_framework(framework, student, embedding_dim=student.embedding_dim)
    branch = None
    if reconstruction.weight:
        branch = Decoder(
            decoder,
            widths=student.widths,
            strides=student.strides,
            channels=encoder.channels,
            generator=torch.Generator().manual_seed(seed),
        )
    return RePre(encoder=student, framework=contrastive, decoder=branch, reconstruction=reconstruction)
