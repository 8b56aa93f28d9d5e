"""Any timm vision transformer or pyramid as an encoder: pooled embedding and feature maps in one pass.

Shapes:

    B  images    C  channels    H, W  height and width    D  embedding width    C_l, H_l, W_l  map of level l
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.drop_path import BatchSlice, use_drop_paths
from repre.models.load_report import LoadReport
from repre.models.mask_token import build_mask_token
from repre.models.moco_v3_init import start_as_moco_v3
from repre.models.patch_projection import use_patch_projections
from repre.models.position_tables import check_windows
from repre.models.residual_sums import use_bfloat16_sums
from repre.models.timm_features import timm_features
from repre.models.timm_model import (
    RESERVED_ARGUMENTS,
    FeatureLayout,
    PatchLayout,
    constructor_arguments,
    create_meta_model,
    create_timm_model,
    measure_features,
)
from repre.models.transform import ImageTransform
from repre.models.weight_files import PixelStatistics
from repre.models.weights import check_heads, heads, load_start_weights
from repre.types import Features
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size, height_and_width
from repre.utils.onednn_linear import use_onednn_linear
from repre.utils.step_compile import StepFunction

Argument = int | float | bool | str | tuple[int, ...]
"""Type of an argument of a timm model: what YAML, JSON and the command line can write."""
MAX_ARGUMENT = 1 << 16
"""Largest number among the arguments of a timm model; of so many blocks the first few would fill any memory."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture and start weights of the encoder."""

    name: str = "vit_small_patch16_224"
    """Any timm model with intermediate features: ViT, DINOv2, EVA, XCiT, Swin, PVT, MViT, Hiera and more."""
    image_size: Size | None = None
    """Side of square images, or height and width. None: the model's own. In a run leave it out, or give `views.size`."""
    channels: int = 3
    """Channels of the images."""
    patch_size: int | None = None
    """Side of a patch in pixels; None: the model's own."""
    drop_path: float = 0.0
    """Stochastic depth rate of the student; the teacher has none."""
    weights: str | None = None
    """Start weights: a .safetensors or .pth file, a run folder, or `hub` for timm's; None: random init."""
    allow_partial: bool = False
    """Load start weights even if some parameters are missing, unexpected or of another shape."""
    init: Literal["timm", "moco-v3"] = "timm"
    """How random weights are drawn: as timm does, or as MoCo v3's authors do for ViTs, with fixed sin-cos positions."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    freeze_patch_embed: bool = False
    """Do not train the patch embedding, as MoCo v3 does for stability (arXiv 2104.02057, section 4)."""
    out_indices: tuple[int, ...] | None = None
    """Blocks or stages that give the maps, from 0, in rising order. None: the blocks at 1/4, 2/4, 3/4 and 4/4 of a flat
    model's depth, or a pyramid's stages with a stride of at least 4 pixels."""
    model_args: dict[str, Argument] = field(default_factory=dict)
    """Further arguments of the timm model, such as embed_dim, depth or num_heads."""

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"encoder.drop_path must lie in [0, 1), not {self.drop_path}")
        if self.init != "timm" and self.weights is not None:
            raise UserError(
                f"encoder.init is {self.init}, but encoder.weights replaces what it draws: set encoder.init to timm, and "
                "encoder.model_args.num_heads to that of the weights (12 for MoCo v3's ViT-S; 6 for timm's, DINO's, DeiT's)"
            )
        for key, value in self.model_args.items():
            if key in RESERVED_ARGUMENTS:
                raise UserError(f"encoder.model_args.{key} cannot be set here; use the encoder's own settings for it")
            if not isinstance(value, int | float | bool | str | tuple):
                raise UserError(
                    f"encoder.model_args.{key} must be a number, true or false, a name, or a list of numbers, not {value!r}"
                )
            numbers = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int | float)]
            if any(abs(one) > MAX_ARGUMENT for one in numbers) or (key == "depth" and min(numbers, default=1) < 1):
                low = 1 if key == "depth" else -MAX_ARGUMENT
                raise UserError(f"encoder.model_args.{key} must be {low} to {MAX_ARGUMENT}, not {value!r}")
        if self.out_indices is not None and (
            not self.out_indices or list(self.out_indices) != sorted(set(self.out_indices))
        ):
            raise UserError(f"encoder.out_indices must name each level once, in rising order, not {self.out_indices}")


class Encoder(nn.Module):
    """A timm model that gives `Features`.

    Args:
        config: a config, or the name of a timm model.
        mask_token: have a learnt token that stands for hidden patches.

    Attributes:
        config: the config.
        model: the timm model.
        timm_arguments: arguments that the timm model was created with.
        embedding_dim: width D of the pooled embedding.
        patch_dim: width D_p of the patch tokens.
        patch_stride: pixels per patch token.
        mask_token: stands for hidden patches after the patch embedding; None without.
        depth: number of blocks (flat models) or stages (pyramids) that can give a map.
        out_indices: the blocks or stages that do.
        widths, strides: channels of each map, and pixels per cell. Where the stride does not divide the image's size, the
            model rounds the grid up or down.
        image_size: height and width that the model was built for; it takes other sizes if its architecture allows.
        load_report: what became of the start weights; None at random init.
        pixels: normalization and range of the pixels that the weights expect, where known; see `transform`.
        batch_slice: the images of the whole batch that the next passes encode, for drop path.
        encode_step: computes `encode` in training steps once it is compiled.

    Raises:
        UserError: timm has no such model; it gives no intermediate features; it refuses the size, the channels or the
            arguments; the start weights do not fit; or a mask token has no place. In `forward`: the model refuses the size
            of the images.
    """

    def __init__(self, config: EncoderConfig | str, *, mask_token: bool = False) -> None:
        super().__init__()
        config = EncoderConfig(name=config) if isinstance(config, str) else config
        self.config = config
        meta_model = create_meta_model(config.name)
        self.image_size = height_and_width(config.image_size or meta_model.pretrained_cfg["input_size"][1:])
        self.timm_arguments = constructor_arguments(
            meta_model,
            config.name,
            size=self.image_size,
            channels=config.channels,
            drop_path=config.drop_path,
            patch_size=config.patch_size,
            model_args=config.model_args,
        )
        self._layouts: dict[tuple[int, int], FeatureLayout] = {}
        layout = self.check_size(*self.image_size)
        self.embedding_dim, self.depth = layout.embedding_dim, layout.depth
        self.out_indices, self.widths, self.strides = (
            list(x) for x in (layout.out_indices, layout.widths, layout.strides)
        )
        self.patch_dim, self.patch_stride = layout.patches.dim, layout.patch_stride

        self.model: Any = create_timm_model(config.name, self.timm_arguments, pretrained=config.weights == "hub")
        check_windows(self.model, name=config.name, size=self.image_size)
        if config.weights == "hub":
            check_heads(heads(meta_model), heads(self.model), source="hub")
        if config.init == "moco-v3":
            start_as_moco_v3(self.model, name=config.name)
        self.batch_slice = BatchSlice()
        self._drop_paths = use_drop_paths(self.model, self.batch_slice)
        use_patch_projections(self.model, channels=config.channels)
        use_bfloat16_sums(self.model)
        use_onednn_linear(self.model)
        self.mask_token = build_mask_token(self.model, layout.embedded, name=config.name) if mask_token else None
        self.encode_step = StepFunction(self._encode_views)
        if config.grad_checkpointing:
            self.enable_grad_checkpointing()
        self.pixels = PixelStatistics()
        self.load_report: LoadReport | None = None
        if config.weights is not None:
            self.load_report = load_start_weights(
                self.model, config.weights, name=config.name, allow_partial=config.allow_partial
            )
        if config.freeze_patch_embed:
            self._freeze_patch_embed()

    def forward(
        self,
        x: Tensor,
        *,
        maps: bool = True,
        patches: bool = False,
        masks: Tensor | None = None,
        norm: bool = False,
    ) -> Features:
        """Features of images [B, C, H, W].

        Args:
            maps: give the maps, one [B, C_l, H_l, W_l] per level.
            patches: give the patch tokens, [B, N, D_p].
            masks: patches to hide behind the mask token, bool [B, rows, columns].
            norm: give the maps after the final norm (see `timm_features`), not as the blocks leave them.
        """
        if not torch.compiler.is_compiling():
            layout: FeatureLayout | None = self.check_size(x.shape[-2], x.shape[-1])
        elif norm or patches:  # a program has one size, which the encoder was built for or has seen
            layout = self._layouts[int(x.shape[-2]), int(x.shape[-1])]
        else:
            layout = None
        normed = layout.normed if layout and maps and norm else "none"
        with self._hidden(masks):
            features = timm_features(
                self.model,
                x,
                indices=self.out_indices if maps else None,
                token_grid=layout.token_grid if layout else None,
                patches=layout.patches if layout and (patches or normed == "last") else None,
                normed=normed,
            )
        return features if patches or features.patches is None else replace(features, patches=None)

    def encode(
        self,
        images: Sequence[Tensor],
        *,
        maps: bool = True,
        patches: bool = False,
        masks: Sequence[Tensor] | None = None,
    ) -> list[Features]:
        """Features of views of one size, each [B, C, H, W], in one pass; in training steps compiled, if `encode_step` is.

        A compiled pass gives the maps in the precision of autocast, with the channels last in memory.

        Args:
            maps, patches: as in `forward`.
            masks: of every view, as in `forward`.
        """
        joined_masks = None if masks is None else torch.cat(list(masks))
        if not self.encode_step.is_compiled:
            features = self(torch.cat(list(images)), maps=maps, patches=patches, masks=joined_masks)
            return [Features(*view) for view in _of_views(features, len(images))]
        layout = self.check_size(images[0].shape[-2], images[0].shape[-1])
        drop_paths = [drop_path for drop_path in self._drop_paths if drop_path.drops]
        for drop_path in drop_paths:
            drop_path.drawn = drop_path.draw(sum(map(len, images)), images[0].device)
        try:
            with self._hidden(joined_masks):
                views = self.encode_step(list(images), maps, layout.token_grid, layout.patches if patches else None)
                return [Features(*view) for view in views]
        finally:
            for drop_path in drop_paths:
                drop_path.drawn = None

    def _encode_views(
        self, images: list[Tensor], maps: bool, token_grid: tuple[int, int] | None, patches: PatchLayout | None
    ) -> list[tuple[Tensor, Tensor | None, list[Tensor]]]:
        """Embedding, patch tokens and maps of every view.

        Every output is a copy: autograd follows outputs of a compiled function that share memory outside of it, by a pass
        over the whole memory for each.
        """
        features = timm_features(
            self.model,
            torch.cat(images),
            indices=self.out_indices if maps else None,
            token_grid=token_grid,
            patches=patches,
        )
        device = images[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.embedding.dtype
        return [
            (
                embedding.clone(),
                None if tokens is None else tokens.clone(),
                [level.to(dtype, copy=True, memory_format=torch.channels_last) for level in levels],
            )
            for embedding, tokens, levels in _of_views(features, len(images))
        ]

    def _hidden(self, masks: Tensor | None) -> AbstractContextManager[None]:
        """Inside, masked patches are hidden behind the mask token."""
        if masks is None:
            return nullcontext()
        assert self.mask_token is not None, "an encoder without a mask token got masks"
        return self.mask_token.hiding(masks)

    def check_size(self, height: int, width: int) -> FeatureLayout:
        """The features that the model gives for images of this size. Allocates nothing and draws no random number.

        Raises:
            UserError: the model refuses the size.
        """
        if (height, width) not in self._layouts:
            self._layouts[height, width] = measure_features(
                self.config.name,
                self.timm_arguments,
                (height, width),
                built_for=self.image_size,
                out_indices=self.config.out_indices,
            )
        return self._layouts[height, width]

    def transform(self, *, crop_pct: float | None = None) -> ImageTransform:
        """How images become the input of `forward`, as `repre embed` makes them: resize, center crop, normalize.

        Args:
            crop_pct: share of the short side that the crop covers; see `usual_crop`.
        """
        return ImageTransform.of(self.image_size, self.config.channels, *self.pixels, crop_pct=crop_pct)

    @property
    def no_weight_decay(self) -> list[str]:
        """Names of the matrices to exempt from weight decay: position embeddings, tokens, and those that timm lists."""
        names = set(self.model.no_weight_decay()) if hasattr(self.model, "no_weight_decay") else set()
        names |= {name for name, _ in self.model.named_parameters(recurse=False)}  # timm leaves out register tokens
        return [f"model.{name}" for name in sorted(names)]

    def layer_ids(self) -> dict[str, int]:
        """Layer of each parameter by name, for layer-wise learning rates: 0 the stem, then the blocks, then the rest."""
        from timm.models import group_parameters

        layers = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        token = {} if self.mask_token is None else {"mask_token.token": 0}
        return token | {f"model.{name}": layer for name, layer in layers.items()}

    def enable_grad_checkpointing(self) -> None:
        """Recomputes activations in the backward pass from now on.

        Raises:
            UserError: the model does not support it.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"encoder.grad_checkpointing: {self.config.name} does not support it; set it to False"
            ) from error

    def _freeze_patch_embed(self) -> None:
        patch_embed = getattr(self.model, "patch_embed", None)
        if patch_embed is None:
            raise UserError(f"encoder.freeze_patch_embed: {self.config.name} has no patch embedding; set it to False")
        patch_embed.requires_grad_(False)


def _of_views(features: Features, n: int) -> Iterator[tuple[Tensor, Tensor | None, list[Tensor]]]:
    """Embedding, patch tokens and maps of each of n views that were encoded together."""
    patches = [None] * n if features.patches is None else features.patches.chunk(n)
    levels_of_views = zip(*(level.chunk(n) for level in features.maps)) if features.maps else [()] * n
    for embedding, tokens, levels in zip(features.embedding.chunk(n), patches, levels_of_views):
        yield embedding, tokens, list(levels)
