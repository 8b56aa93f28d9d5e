"""The regression loss of BYOL (arXiv 2006.07733, equation 2)."""

import torch.nn.functional as F
from torch import Tensor


def cosine_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean of ``2 - 2 cos(predictions[i], targets[i])`` over the batch, in [0, 4].

    Args:
        predictions, targets: [B, D], normalized here.
    """
    return (2.0 - 2.0 * F.cosine_similarity(predictions, targets, dim=1)).mean()
