"""Creates a timm model by name and measures the features that it gives, without computing them.

What a model can do is asked of the model (its methods, its feature table, a forward pass on the meta device), never read
from its name. timm takes seconds to import, so functions import it when they need a model, and help does without.
"""

import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

from repre.errors import UserError, near_names
from repre.utils.image_size import as_text

ENCODER_METHODS = ("forward_intermediates", "forward_head", "feature_info")
"""Attributes of a timm model that can serve as an encoder."""
ENCODER_ARGUMENTS = {"num_classes", "in_chans", "img_size", "dynamic_img_size", "strict_img_size"}
"""Constructor arguments of timm models that the encoder sets itself."""
RESERVED_ARGUMENTS = ENCODER_ARGUMENTS | {
    *("features_only", "out_indices", "model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "kwargs"),
}
"""Arguments that `EncoderConfig.model_args` must not hold: the encoder's own, and those of timm's factory (paths to weights
among them)."""
NormedMaps = Literal["all", "last", "none"]
"""Which maps come after the model's final norm."""


class PatchLayout(NamedTuple):
    """Where the patch tokens are in the output of `forward_features`."""

    grid: tuple[int, int]
    """Rows and columns of the tokens; of a pyramid those of its last stage."""
    dim: int
    """Width D_p of a token."""
    prefix: int
    """Class and register tokens before them."""
    channels_first: bool
    """Whether the output is a map [B, D_p, rows, columns] instead of tokens or [B, rows, columns, D_p]."""


class FeatureLayout(NamedTuple):
    """The features that a model gives for images of one size."""

    embedding_dim: int
    """Width D of the pooled embedding."""
    depth: int
    """Number of blocks (flat models) or stages (pyramids) that can give a map."""
    out_indices: list[int]
    """The blocks or stages that do."""
    widths: list[int]
    """Channels of each map."""
    strides: list[int]
    """Pixels per cell of each map."""
    token_grid: tuple[int, int] | None
    """Rows and columns of the maps, if the model also gives them as patch tokens [B, N, C_l]; else None."""
    patches: PatchLayout
    """The patch tokens after the final norm."""
    patch_stride: int
    """Pixels per patch token."""
    normed: NormedMaps
    """Maps that can be had after the final norm: all, by timm's `norm=True`; or the last, as the patch tokens."""
    embedded: tuple[int, int, int] | None
    """Rows, columns and width of the tokens that its `patch_embed` gives; None if it has none that gives tokens."""


def create_timm_model(name: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> Any:
    """Creates a timm model without a classifier.

    Raises:
        UserError: timm refuses the arguments, or the published weights cannot be downloaded.
    """
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
    except OSError as error:  # timm reads files and the network only for weights
        raise UserError(
            f"encoder.weights hub: {name} could not be downloaded ({first_line(error)}); connect to the internet, or set "
            "encoder.weights to a file"
        ) from error
    except (AssertionError, ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError) as error:
        call = f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
        refusal, fix = f"timm refuses {call}", "change encoder.model_args, encoder.image_size or encoder.patch_size"
        if "img_size" in arguments:
            reductions = _reductions(create_meta_model(name))
            patch = arguments.get("patch_size") if len(set(reductions)) == 1 else None
            fix = _sizes_that_fit(arguments["img_size"], patch or max(reductions)) or fix
        if pretrained:
            refusal, fix = f"{refusal} with the hub's weights", "use the published architecture, or other weights"
        raise UserError(f"encoder: {refusal}: {first_line(error)}; {fix}") from error


def constructor_arguments(
    model: Any,
    name: str,
    *,
    size: tuple[int, int],
    channels: int,
    drop_path: float,
    patch_size: int | None,
    model_args: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments for the constructor of a timm model: only those that it has.

    Args:
        model: of the same class, such as that of `create_meta_model`.
        name: of the model, for messages.
        size: height and width of the images.
        channels, drop_path, patch_size, model_args: as in `EncoderConfig`.

    Raises:
        UserError: the class has no such setting.
    """
    parameters = inspect.signature(type(model)).parameters
    arguments: dict[str, Any] = {"in_chans": channels, **model_args}
    if "drop_path_rate" in parameters:  # also when it is 0: the default of some models is not
        arguments["drop_path_rate"] = drop_path
    elif drop_path:
        raise UserError(f"encoder.drop_path: {name} has no stochastic depth; set it to 0")
    if patch_size is not None:
        if "patch_size" not in parameters:
            raise UserError(f"encoder.patch_size: the patch size of {name} is fixed; leave it None")
        arguments["patch_size"] = patch_size
    if "img_size" in parameters:
        arguments["img_size"] = size
    if "strict_img_size" in parameters:
        arguments["strict_img_size"] = False  # pyramids with windows: any grid, padded to whole windows
    elif "dynamic_img_size" in parameters:
        arguments["dynamic_img_size"] = True  # flat transformers: positions are resampled to the grid of each view
    return arguments


@cache
def create_meta_model(name: str) -> Any:
    """Creates a timm model on the meta device (shapes without memory), to ask what it can do; the same one for every call.

    Raises:
        UserError: timm has no such model or no such weights, or the model gives no intermediate features.
    """
    import timm

    known = timm.list_models()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise UserError(
            f"encoder.name: timm has no model {name!r}{near_names(architecture, known) or '; see timm.list_models()'}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")] if tag else []
    if tag and tag not in tags:
        fix = near_names(tag, tags) or f"; it has {', '.join(tags) or 'none'}"
        raise UserError(f"encoder.name: timm has no weights {tag!r} for {architecture}{fix}")
    with torch.device("meta"):
        model = create_timm_model(name, {})
    if missing := [attribute for attribute in ENCODER_METHODS if not hasattr(model, attribute)]:
        raise UserError(
            f"encoder.name: {name} gives no intermediate features (it lacks {', '.join(missing)}); "
            "use a ViT, DeiT, EVA, XCiT, Swin, PVTv2, MViTv2, Hiera or ConvNeXt"
        )
    return model


def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels that timm's published weights expect.

    Raises:
        UserError: as `create_meta_model`.
    """
    pretrained_cfg = create_meta_model(name).pretrained_cfg
    return tuple(pretrained_cfg["mean"]), tuple(pretrained_cfg["std"])


def accepts_any_size(arguments: Mapping[str, Any]) -> bool:
    """Whether a model built with these arguments takes images of other sizes than `img_size`."""
    return (
        "img_size" not in arguments
        or arguments.get("dynamic_img_size", False)
        or not arguments.get("strict_img_size", True)
    )


@torch.no_grad()
def measure_features(
    name: str,
    arguments: Mapping[str, Any],
    size: tuple[int, int],
    *,
    built_for: tuple[int, int],
    out_indices: tuple[int, ...] | None,
) -> FeatureLayout:
    """Measures the features for images of a size by a forward pass on the meta device: no memory, no random draw.

    The result is kept for later calls, because creating a model takes long on the meta device, too.

    Args:
        name, arguments: what the model is created from.
        size: height and width of the images.
        built_for: height and width that the model is created for.
        out_indices: blocks or stages that give the maps; None chooses four.

    Raises:
        UserError: the model refuses the size, or has no such block or stage.
    """
    key = repr((name, sorted(arguments.items()), size, built_for, out_indices))
    if key not in _measured:
        _measured[key] = _measure_features(name, arguments, size, built_for, out_indices)
    return _measured[key]


_measured: dict[str, FeatureLayout] = {}


def _measure_features(
    name: str,
    arguments: Mapping[str, Any],
    size: tuple[int, int],
    built_for: tuple[int, int],
    out_indices: tuple[int, ...] | None,
) -> FeatureLayout:
    with torch.device("meta"):
        model = create_timm_model(name, arguments).eval()
        images = torch.empty(2, arguments["in_chans"], *size)
        if size != built_for and not accepts_any_size(arguments):
            # Some models read position tables past their end without an error. Their parameter shapes give them away.
            resized = create_timm_model(name, {**arguments, "img_size": size})
            if [t.shape for t in resized.state_dict().values()] != [t.shape for t in model.state_dict().values()]:
                raise UserError(
                    f"encoder: {name} cannot take images of {size[0]} x {size[1]}: its parameters only fit the size "
                    f"that it was built for, {built_for[0]} x {built_for[1]}; use that size"
                )
    reductions = _reductions(model)
    levels = _choose_levels(name, out_indices, reductions)
    embedded: list[Any] = []
    if isinstance(getattr(model, "patch_embed", None), torch.nn.Module):
        model.patch_embed.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    try:
        last = len(reductions) - 1
        indices = [*levels, *([last] if levels[-1] != last else [])]
        final, maps = model.forward_intermediates(images, indices=indices, stop_early=False, output_fmt="NCHW")
        embedding = model.forward_head(final, pre_logits=True)
    except (AssertionError, RuntimeError, ValueError) as error:
        fix = _sizes_that_fit(size, max(reductions))
        raise UserError(
            f"encoder: {name} cannot take images of {size[0]} x {size[1]} ({first_line(error)}){fix and f'; {fix}'}"
        ) from error
    patches = _patch_layout(final, maps[-1])
    maps = maps[: len(levels)]
    return FeatureLayout(
        embedding_dim=embedding.shape[-1],
        depth=len(reductions),
        out_indices=levels,
        widths=[level.shape[1] for level in maps],
        strides=[reductions[level] for level in levels],
        token_grid=_token_grid(model, images, levels, maps),
        patches=patches,
        patch_stride=reductions[-1],
        normed=_normed(model, images, levels, reductions, maps, patches),
        embedded=_embedded_tokens(embedded[0], size) if embedded else None,
    )


def _reductions(model: Any) -> list[int]:
    """Pixels per cell of every block or stage of a timm model."""
    return [int(row["reduction"]) for row in getattr(model.feature_info, "info", model.feature_info)]


def _sizes_that_fit(size: tuple[int, int], stride: int) -> str:
    """Advice with the next smaller and larger sizes whose sides are multiples of the stride; empty if these are."""
    if not any(side % stride for side in size):
        return ""
    smaller, larger = ([max(1, round_(side / stride)) * stride for side in size] for round_ in (math.floor, math.ceil))
    texts = dict.fromkeys(as_text((height, width)) for height, width in (smaller, larger))
    return f"use a multiple of {stride} for each side, such as {' or '.join(texts)}"


def _patch_layout(final: torch.Tensor, last_map: torch.Tensor) -> PatchLayout:
    """Finds the patch tokens in a model's final output, by the grid [B, C, h, w] of its last map."""
    rows, columns = last_map.shape[-2:]
    if final.ndim == 3:
        return PatchLayout((rows, columns), final.shape[-1], final.shape[1] - rows * columns, False)
    channels_first = tuple(final.shape[1:3]) != (rows, columns)
    return PatchLayout((rows, columns), final.shape[1 if channels_first else 3], 0, channels_first)


def _embedded_tokens(output: Any, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """Rows, columns and width of the tokens that a patch embedding gave for images of a size; None if it gave none."""
    tokens = output[0] if isinstance(output, tuple) else output
    if tokens.ndim == 4:  # [B, rows, columns, D]; a map [B, D, rows, columns] is wider than high
        rows, columns, dim = tokens.shape[1:]
        return (rows, columns, dim) if abs(rows * size[1] - columns * size[0]) < max(size) else None
    count, dim = tokens.shape[1:]
    rows = round((count * size[0] / size[1]) ** 0.5)
    return (rows, count // rows, dim) if rows and count % rows == 0 else None


def _token_grid(
    model: Any, images: torch.Tensor, levels: list[int], maps: list[torch.Tensor]
) -> tuple[int, int] | None:
    """The grid of all maps [B, C_l, h, w] if it is one, and the model also gives them as tokens [B, h w, C_l]."""
    grids = {(level.shape[2], level.shape[3]) for level in maps}
    if len(grids) > 1:
        return None
    try:
        _, tokens = model.forward_intermediates(images, indices=levels, stop_early=False, output_fmt="NLC")
    except AssertionError:  # timm's models assert the formats that they know
        return None
    (rows, columns) = grids.pop()
    return (rows, columns) if all(level.shape[1] == rows * columns for level in tokens) else None


def _normed(
    model: Any,
    images: torch.Tensor,
    levels: list[int],
    reductions: list[int],
    maps: list[torch.Tensor],
    patches: PatchLayout,
) -> NormedMaps:
    """Finds which of the maps [B, C_l, h, w] the model gives after its final norm, in the same shapes."""
    if len(set(reductions)) == 1:  # a pyramid's final norm fits the width of its last stage only
        try:
            _, normed = model.forward_intermediates(
                images, indices=levels, norm=True, stop_early=False, output_fmt="NCHW"
            )
        except (AssertionError, RuntimeError):  # some of timm's models assert that no norm is asked for
            normed = []
        if [level.shape for level in normed] == [level.shape for level in maps]:
            return "all"
    return "last" if levels[-1] == len(reductions) - 1 and patches.dim == maps[-1].shape[1] else "none"


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; the error's type where it has no message."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _choose_levels(name: str, out_indices: tuple[int, ...] | None, reductions: list[int]) -> list[int]:
    """Checks the wanted blocks or stages; without any, chooses as `EncoderConfig.out_indices` documents."""
    count = len(reductions)
    if out_indices is not None:
        if out_indices[0] < 0 or out_indices[-1] >= count:
            raise UserError(f"encoder.out_indices {out_indices}: {name} has levels 0 to {count - 1}")
        return list(out_indices)
    if len(set(reductions)) == 1:
        return sorted({math.ceil(count * quarter / 4) - 1 for quarter in (1, 2, 3, 4)})
    return [level for level, reduction in enumerate(reductions) if reduction >= 4]
