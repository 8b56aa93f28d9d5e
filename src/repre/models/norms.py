"""Batch normalization over the global batch, without running statistics.

torch's SyncBatchNorm refuses the CPU, and a projection head never needs running statistics: it is only used in training
and is thrown away afterwards. Leaving them out makes a head a pure function of its batch, so a step can be replayed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.utils.dist import mean_over_ranks, world_size


class BatchNorm(nn.Module):
    """Normalizes [B, D] by the mean and biased variance over the batches of all ranks, which must be of equal size.

    Args:
        width: D.
        affine: learn a scale and a shift per channel.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, width: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        if affine:
            self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        else:
            self.weight = self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        if world_size() == 1:
            if len(x) == 1:  # one sample has no variance; torch raises here with a message about shapes
                raise ValueError("batch normalization in the heads needs at least two images per batch")
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        wide = x if x.dtype == torch.float64 else x.float()
        mean = mean_over_ranks(wide.mean(0))
        centered = wide - mean
        variance = mean_over_ranks(centered.square().mean(0))
        out = centered * (variance + self.eps).rsqrt()
        if self.weight is not None:
            assert self.bias is not None, "scale and shift come together"
            out = out * self.weight + self.bias
        return out.to(x.dtype)
