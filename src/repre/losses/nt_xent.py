"""NT-Xent of SimCLR (arXiv 2002.05709, equation 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(a: Tensor, b: Tensor, all_a: Tensor, all_b: Tensor, *, temperature: float, offset: int = 0) -> Tensor:
    """Cross-entropy of identifying an image's other view among all other views of the global batch.

    In slow loops, with ``pool = all_a + all_b`` and ``G = len(all_a)``::

        for i in range(B):
            for anchor, own, other in ((a[i], offset + i, G + offset + i), (b[i], G + offset + i, offset + i)):
                denominator = sum(exp(cos(anchor, pool[j]) / temperature) for j in range(2 * G) if j != own)
                loss += -log(exp(cos(anchor, pool[other]) / temperature) / denominator) / (2 * B)

    Args:
        a, b: projections of the two views of the local batch, [B, D], normalized here.
        all_a, all_b: projections of the global batch, gathered with gradient, [G, D].
        temperature: divides the cosines.
        offset: index of the local batch in the global one: ``all_a[offset + i]`` is ``a[i]``.
    """
    anchors = F.normalize(torch.cat([a, b]), dim=1)  # [2B, D]
    pool = F.normalize(torch.cat([all_a, all_b]), dim=1)  # [2G, D]
    in_a = torch.arange(len(a), device=a.device) + offset
    in_b = in_a + len(all_a)
    own, other = torch.cat([in_a, in_b]), torch.cat([in_b, in_a])  # [2B] indices into the pool
    logits = anchors @ pool.T / temperature  # [2B, 2G]
    is_own = F.one_hot(own, len(pool)).bool()
    return F.cross_entropy(logits.masked_fill(is_own, float("-inf")), other)
