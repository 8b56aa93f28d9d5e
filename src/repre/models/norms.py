"""Normalization layers that torch does not have in this form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.utils.dist import mean_over_ranks, world_size


class BatchNorm(nn.Module):
    """Batch normalization over the global batch, without running statistics.

    torch's SyncBatchNorm does not run on the CPU. A projection head needs no running statistics, since it is used in
    training only. Without them its output depends on the batch alone, so a step can be replayed.

    Args:
        dim: D.
        affine: learn a scale and a shift per channel.
        eps: added to the variance.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, dim: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        if affine:
            self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        else:
            self.weight = self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes [B, D] by mean and biased variance over the batches of all ranks, which must have the same size.

        Raises:
            ValueError: the only rank has a batch of one, which has no variance.
        """
        if world_size() == 1:
            if len(x) == 1:
                raise ValueError("batch normalization in the heads needs at least two images per batch")
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        x_float = x if x.dtype == torch.float64 else x.float()
        mean = mean_over_ranks(x_float.mean(0))
        centered = x_float - mean
        variance = mean_over_ranks(centered.square().mean(0))
        normalized = centered * (variance + self.eps).rsqrt()
        if self.weight is not None and self.bias is not None:
            normalized = normalized * self.weight + self.bias
        return normalized.to(x.dtype)


class ChannelNorm(nn.LayerNorm):
    """Layer normalization of [B, C, H, W] over the channels of each cell."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
