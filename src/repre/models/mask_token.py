"""A learnt token that takes the place of hidden patches, as in SimMIM (arXiv 2111.09886) and iBOT (arXiv 2111.07832)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class MaskToken(nn.Module):
    """Replaces what a patch embedding gives for hidden patches, before positions are added.

    Args:
        patch_embed: gives tokens [B, rows, columns, D] or [B, rows x columns, D], alone or first in a tuple.
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

    def _replace(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._masks is None:
            return output
        tokens, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        repeats = round((tokens[0, ..., 0].numel() / self._masks[0].numel()) ** 0.5)
        hidden = self._masks.repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)
        hidden = hidden if tokens.ndim == 4 else hidden.flatten(1)
        tokens = torch.where(hidden[..., None], self.token.to(tokens.dtype), tokens)
        return tokens if rest is None else (tokens, *rest)
