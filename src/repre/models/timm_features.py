"""Computes the features of images with a timm model: pooled embedding, patch tokens, and maps, raw or after the final norm.

B  images    C, H, W  their shape    N  patch tokens    D_p  width of a patch token    C_l, H_l, W_l  map of level l
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from repre.models.timm_model import NormedMaps, PatchLayout
from repre.types import Features


def timm_features(
    model: Any,
    x: Tensor,
    *,
    indices: list[int] | None,
    token_grid: tuple[int, int] | None,
    patches: PatchLayout | None,
    normed: NormedMaps = "none",
) -> Features:
    """Features of images [B, C, H, W] in one pass.

    Args:
        indices: blocks or stages that give the maps, [B, C_l, H_l, W_l] each; None gives no maps.
        token_grid: rows and columns of the patch tokens, if the model gives the maps as tokens: they are then views of
            the tokens, with the channels last in memory.
        patches: where the patch tokens are, if they are wanted.
        normed: maps to give after the final norm; for the last one the patch tokens must be wanted. A pyramid's final norm
            fits its last stage only; its other maps come after a norm of their stage or without one.
    """
    if indices is None:
        final, levels = model.forward_features(x), []
    else:
        output_fmt = "NCHW" if token_grid is None else "NLC"
        final, levels = model.forward_intermediates(
            x, indices=indices, norm=normed == "all", stop_early=False, output_fmt=output_fmt
        )
        if token_grid is not None:
            levels = [level.unflatten(1, token_grid).permute(0, 3, 1, 2) for level in levels]
    tokens = None if patches is None else _patch_tokens(model, final, patches)
    norm = _norm_of_average(model)
    if normed == "all" and norm is not None:
        levels = [norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for level in levels]
    if normed == "last" and patches is not None and tokens is not None:
        levels = [*levels[:-1], tokens.mT.unflatten(2, patches.grid)]
    return Features(model.forward_head(final, pre_logits=True), tokens, list(levels))


def _patch_tokens(model: Any, final: Tensor, layout: PatchLayout) -> Tensor:
    """Patch tokens [B, N, D_p] after the final norm, from the output of `forward_features`."""
    if final.ndim == 3:
        tokens = final[:, layout.prefix :]
    else:
        tokens = final.flatten(2).mT if layout.channels_first else final.flatten(1, 2)
    norm = _norm_of_average(model)
    return tokens if norm is None else norm(tokens)


def _norm_of_average(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The norm that stands behind the average of the tokens (timm's fc_norm) instead of before it; None without.

    It serves as the final norm of every token.
    """
    norm = getattr(model, "fc_norm", None)
    return norm if norm is not None and isinstance(getattr(model, "norm", None), nn.Identity) else None
