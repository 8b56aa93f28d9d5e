"""The loss of depth regression: scale-invariant in logarithms (Eigen et al. 2014, arXiv 1406.2283, equation 4).

B  images    H, W  height and width
"""

import torch
from torch import Tensor

SCALE_SHARE = 0.5
"""λ of the paper: 0 is the plain squared error of log depth, 1 ignores a common factor of a whole image."""


def scale_invariant_loss(log_depth: Tensor, depth: Tensor) -> Tensor:
    """Returns the scale-invariant error, as mean over the images with any known depth; 0 without one.

    For one image with n pixels of known depth, in slow loops::

        d = [log_depth[pixel] - log(depth[pixel]) for pixel in known]
        sum(d_i ** 2) / n - SCALE_SHARE * sum(d_i) ** 2 / n ** 2

    Args:
        log_depth: predicted logarithm of the depth, [B, 1, H, W].
        depth: in meters, float32 [B, H, W]; 0 where it is unknown.
    """
    known = depth > 0
    difference = torch.where(known, log_depth[:, 0] - depth.clamp_min(1e-12).log(), 0).flatten(1)
    count = known.flatten(1).sum(1)
    n = count.clamp_min(1)
    losses = difference.square().sum(1) / n - SCALE_SHARE * (difference.sum(1) / n).square()
    return losses.sum() / (count > 0).sum().clamp_min(1)
