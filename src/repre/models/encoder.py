"""Any timm vision transformer or pyramid as an encoder: pooled embedding and feature maps in one pass.

Shapes:

    B  images    C  channels    H, W  height and width    D  embedding width    C_l, H_l, W_l  map of level l
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import DropPath as TimmDropPath
from timm.models import group_parameters
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.drop_path import BatchSlice, DropPath
from repre.models.load_report import LoadReport
from repre.models.patch_projection import use_patch_projections
from repre.models.timm_model import (
    RESERVED_ARGUMENTS,
    FeatureLayout,
    create_meta_model,
    create_timm_model,
    measure_features,
)
from repre.models.weights import load_start_weights
from repre.types import Features
from repre.utils.config_checks import check_fields
from repre.utils.onednn_linear import use_onednn_linear
from repre.utils.step_compile import StepFunction

Argument = int | float | bool | str | tuple[int, ...]
"""Type of an argument of a timm model: what YAML, JSON and the command line can write."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Architecture and start weights of the encoder."""

    name: str = "vit_small_patch16_224"
    """Any timm model with intermediate features: ViT, DINOv2, EVA, XCiT, Swin, PVT, MViT, Hiera and more."""
    image_size: int | tuple[int, int] | None = None
    """Side of square images, or height and width. None: the size of the global views in a run, else the model's own."""
    channels: int = 3
    """Channels of the images."""
    patch_size: int | None = None
    """Side of a patch in pixels; None: the model's own."""
    drop_path: float = 0.0
    """Stochastic depth rate of the student; the teacher drops nothing."""
    weights: str | None = None
    """Start weights: a .safetensors or .pth file, a run folder, or `hub` for timm's; None: random init."""
    allow_partial: bool = False
    """Load start weights even if some parameters are missing, unexpected or of another shape."""
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
        if self.channels < 1:
            raise UserError(f"encoder.channels must be at least 1, not {self.channels}")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"encoder.drop_path must lie in [0, 1), not {self.drop_path}")
        if self.image_size is not None and min(_height_and_width(self.image_size)) < 1:
            raise UserError(f"encoder.image_size must be at least 1, not {self.image_size}")
        if self.patch_size is not None and self.patch_size < 1:
            raise UserError(f"encoder.patch_size must be at least 1, not {self.patch_size}")
        for key, value in self.model_args.items():
            if key in RESERVED_ARGUMENTS:
                raise UserError(f"encoder.model_args.{key} cannot be set here; use the encoder's own settings for it")
            if not isinstance(value, int | float | bool | str | tuple):
                raise UserError(
                    f"encoder.model_args.{key} must be a number, true or false, a name, or a list of numbers, not {value!r}"
                )
        if self.out_indices is not None and (
            not self.out_indices or list(self.out_indices) != sorted(set(self.out_indices))
        ):
            raise UserError(f"encoder.out_indices must name each level once, in rising order, not {self.out_indices}")


class Encoder(nn.Module):
    """A timm model that gives `Features`.

    Args:
        config: a config, or the name of a timm model.

    Attributes:
        config: the config.
        model: the timm model.
        timm_arguments: arguments that the timm model was created with.
        embedding_dim: width D of the pooled embedding.
        depth: number of blocks (flat models) or stages (pyramids) that can give a map.
        out_indices: the blocks or stages that do.
        widths, strides: channels of each map, and pixels per cell. Where the stride does not divide the image's size, the
            model rounds the grid up or down.
        image_size: height and width that the model was built for; it takes other sizes if its architecture allows.
        load_report: what became of the start weights; None at random init.
        batch_slice: the images of the whole batch that the next passes encode, for drop path.
        encode_step: computes `encode` in training steps once it is compiled.

    Raises:
        UserError: timm has no such model; it gives no intermediate features; it refuses the size, the channels or the
            arguments; or the start weights do not fit. In `forward`: the model refuses the size of the images.
    """

    def __init__(self, config: EncoderConfig | str) -> None:
        super().__init__()
        config = EncoderConfig(name=config) if isinstance(config, str) else config
        self.config = config
        meta_model = create_meta_model(config.name)
        self.image_size = _height_and_width(config.image_size or meta_model.pretrained_cfg["input_size"][1:])
        self.timm_arguments = _constructor_arguments(config, meta_model, self.image_size)
        self._layouts: dict[tuple[int, int], FeatureLayout] = {}
        layout = self.check_size(*self.image_size)
        self.embedding_dim, self.depth = layout.embedding_dim, layout.depth
        self.out_indices, self.widths, self.strides = layout.out_indices, layout.widths, layout.strides

        self.model: Any = create_timm_model(config.name, self.timm_arguments, pretrained=config.weights == "hub")
        self.batch_slice = BatchSlice()
        self._replace_drop_paths()
        use_patch_projections(self.model, channels=config.channels)
        if hasattr(self.model, "norm_pre"):  # of flat transformers: the first thing that their tokens pass
            self.model.norm_pre.register_forward_hook(_in_bfloat16)
        use_onednn_linear(self.model)
        self.encode_step = StepFunction(self._encode_views)
        if config.grad_checkpointing:
            self.enable_grad_checkpointing()
        self.load_report: LoadReport | None = None
        if config.weights is not None:
            self.load_report = load_start_weights(
                self.model, config.weights, name=config.name, allow_partial=config.allow_partial
            )
        if config.freeze_patch_embed:
            self._freeze_patch_embed()

    def forward(self, x: Tensor, *, maps: bool = True) -> Features:
        """Features of images [B, C, H, W]: embedding [B, D] and, with `maps`, one [B, C_l, H_l, W_l] per level."""
        layout = None if torch.compiler.is_compiling() else self.check_size(x.shape[-2], x.shape[-1])
        return self._features(x, maps, None if layout is None else layout.token_grid)

    def encode(self, images: Sequence[Tensor], *, maps: bool = True) -> list[Features]:
        """Features of views of one size, each [B, C, H, W], in one pass; in training steps compiled, if `encode_step` is.

        A compiled pass gives the maps in the precision of autocast, with the channels last in memory.
        """
        if not self.encode_step.is_compiled:
            features = self(torch.cat(list(images)), maps=maps)
            levels_of_views = (
                zip(*(level.chunk(len(images)) for level in features.maps)) if maps else [()] * len(images)
            )
            embeddings = features.embedding.chunk(len(images))
            return [Features(embedding, list(levels)) for embedding, levels in zip(embeddings, levels_of_views)]
        token_grid = self.check_size(images[0].shape[-2], images[0].shape[-1]).token_grid
        drop_paths = [drop_path for drop_path in self._drop_paths if drop_path.drops]
        for drop_path in drop_paths:
            drop_path.drawn = drop_path.draw(sum(map(len, images)), images[0].device)
        try:
            return [Features(*view) for view in self.encode_step(list(images), maps, token_grid)]
        finally:
            for drop_path in drop_paths:
                drop_path.drawn = None

    def _encode_views(
        self, images: list[Tensor], maps: bool, token_grid: tuple[int, int] | None
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Embedding and maps of every view.

        Every output is a copy: autograd follows outputs of a compiled function that share memory outside of it, by a pass
        over the whole memory for each.
        """
        features = self._features(torch.cat(images), maps, token_grid)
        device = images[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.embedding.dtype
        levels_of_views: list[list[Tensor]] = [[] for _ in images]
        for level in features.maps:
            for levels, view in zip(levels_of_views, level.chunk(len(images))):
                levels.append(view.to(dtype, copy=True, memory_format=torch.channels_last))
        embeddings = (view.clone() for view in features.embedding.chunk(len(images)))
        return list(zip(embeddings, levels_of_views))

    def _features(self, x: Tensor, maps: bool, token_grid: tuple[int, int] | None) -> Features:
        """Features of images.

        Args:
            token_grid: rows and columns of the patch tokens, if the model gives the maps as tokens: they are then views of
                the tokens, with the channels last in memory.
        """
        if not maps:
            return Features(self.model.forward_head(self.model.forward_features(x), pre_logits=True))
        final, levels = self.model.forward_intermediates(
            x, indices=self.out_indices, stop_early=False, output_fmt="NCHW" if token_grid is None else "NLC"
        )
        if token_grid is not None:
            levels = [level.unflatten(1, token_grid).permute(0, 3, 1, 2) for level in levels]
        return Features(self.model.forward_head(final, pre_logits=True), list(levels))

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

    @property
    def no_weight_decay(self) -> list[str]:
        """Names of the matrices to exempt from weight decay: position embeddings, tokens, and those that timm lists."""
        names = set(self.model.no_weight_decay()) if hasattr(self.model, "no_weight_decay") else set()
        names |= {name for name, _ in self.model.named_parameters(recurse=False)}  # timm leaves out register tokens
        return [f"model.{name}" for name in sorted(names)]

    def layer_ids(self) -> dict[str, int]:
        """Layer of each parameter by name, for layer-wise learning rates: 0 the stem, then the blocks, then the rest."""
        layers = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        return {f"model.{name}": layer for name, layer in layers.items()}

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

    def _replace_drop_paths(self) -> None:
        """Replaces timm's drop paths by ours, whose draws do not depend on how the batch is cut."""
        self._drop_paths: list[DropPath] = []
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, TimmDropPath):
                    ours = DropPath(child.drop_prob or 0.0, self.batch_slice, scale=child.scale_by_keep)
                    setattr(parent, name, ours)
                    self._drop_paths.append(ours)

    def _freeze_patch_embed(self) -> None:
        patch_embed = getattr(self.model, "patch_embed", None)
        if patch_embed is None:
            raise UserError(f"encoder.freeze_patch_embed: {self.config.name} has no patch embedding; set it to False")
        patch_embed.requires_grad_(False)


def _in_bfloat16(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
    """On CUDA the tokens in bfloat16 under its autocast, so that all residual sums are: half the memory and traffic.

    Positions are float32 parameters, and adding them to the patches would make all sums float32. Norms are still computed in
    float32, and so is the embedding; the CPU's autocast would leave them in bfloat16.
    """
    if not tokens.is_cuda or not torch.is_autocast_enabled("cuda"):
        return tokens
    return tokens.to(torch.bfloat16) if torch.get_autocast_dtype("cuda") is torch.bfloat16 else tokens


def _constructor_arguments(config: EncoderConfig, meta_model: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The arguments for timm's constructor: only those that it has."""
    parameters = inspect.signature(type(meta_model)).parameters
    arguments: dict[str, Any] = {"in_chans": config.channels, **config.model_args}
    if "drop_path_rate" in parameters:  # also when it is 0: the default of some models is not
        arguments["drop_path_rate"] = config.drop_path
    elif config.drop_path:
        raise UserError(f"encoder.drop_path: {config.name} has no stochastic depth; set it to 0")
    if config.patch_size is not None:
        if "patch_size" not in parameters:
            raise UserError(f"encoder.patch_size: the patch size of {config.name} is fixed; leave it None")
        arguments["patch_size"] = config.patch_size
    if "img_size" in parameters:
        arguments["img_size"] = size
    if "strict_img_size" in parameters:
        arguments["strict_img_size"] = False  # pyramids with windows: any grid, padded to whole windows
    elif "dynamic_img_size" in parameters:
        arguments["dynamic_img_size"] = True  # flat transformers: positions are resampled to the grid of each view
    return arguments


def _height_and_width(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
