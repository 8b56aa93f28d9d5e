"""A learned token that replaces hidden patches, as in SimMIM (arXiv 2111.09886) and iBOT (arXiv 2111.07832)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.patch_projection import cuts_patches


class MaskToken(nn.Module):
    """Replaces what a patch embedding gives for hidden patches, before positions are added.

    Args:
        patch_embed: gives tokens [B, rows, columns, D] or [B, rows x columns, D].
        dim: width D of the tokens.
    """

    def __init__(self, patch_embed: nn.Module, *, dim: int) -> None:
        super().__init__()
        # SimMIM's deviation. iBOT's zeros stay zeros in a window of Swin that is all hidden, where each norm multiplies the
        # gradient by 300. The generator is its own, so that everything else is drawn as without a token.
        self.token = nn.Parameter(0.02 * torch.randn(dim, generator=torch.Generator().manual_seed(0)))
        self._masks: Tensor | None = None
        patch_embed.register_forward_hook(self._replace)

    @contextmanager
    def hiding(self, masks: Tensor | None) -> Iterator[None]:
        """Inside, the patch embedding's tokens are replaced where `masks`, bool [B, rows / n, columns / n], are True."""
        self._masks = masks
        try:
            yield
        finally:
            self._masks = None

    def _replace(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self._masks is None:
            return output
        repeats = round((output[0, ..., 0].numel() / self._masks[0].numel()) ** 0.5)
        hidden = self._masks.repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)
        hidden = hidden if output.ndim == 4 else hidden.flatten(1)
        return torch.where(hidden[..., None], self.token.to(output.dtype), output)


def build_mask_token(model: Any, embedded: tuple[int, int, int] | None, *, name: str) -> MaskToken:
    """The mask token of a timm model.

    Args:
        embedded: rows, columns and width of the tokens that the model's patch embedding gives, if it has one.
        name: of the model, for messages.

    Raises:
        UserError: the model has no such tokens, or its patches overlap.
    """
    if embedded is None or not cuts_patches(model.patch_embed):
        reason = "the patches of its patch embedding overlap, so that hidden pixels would show in their neighbors"
        raise UserError(
            f"encoder.name: {name} cannot have a mask token: "
            f"{'it has no patch embedding that gives tokens' if embedded is None else reason}; use a ViT or a Swin, or set "
            "reconstruction.masked_input to pixels if only the branch needs masks"
        )
    return MaskToken(model.patch_embed, dim=embedded[2])
