"""InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), as MoCo v3 (arXiv 2104.02057, section 3) and MoBY use it.

MoBY: Xie et al. 2021, arXiv 2105.04553.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, keys: Tensor, *, temperature: float, offset: int = 0) -> Tensor:
    """Cross-entropy of identifying each query's key among all keys.

    In slow loops::

        for i in range(B):
            logits = [cos(queries[i], keys[j]) / temperature for j in range(G)]
            loss += -log(exp(logits[offset + i]) / sum(exp(l) for l in logits)) / B

    Args:
        queries: [B, D], normalized here.
        keys: keys of the global batch, [G, D], normalized here.
        temperature: divides the cosines.
        offset: index of the first query's key; the positive of query i is key ``offset + i``.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature  # [B, G]
    labels = torch.arange(len(queries), device=queries.device) + offset
    return F.cross_entropy(logits, labels)


def info_nce_queue(queries: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of identifying each query's positive among the negatives of a queue.

    In slow loops::

        for i in range(B):
            logits = [cos(queries[i], positives[i]) / t] + [cos(queries[i], negatives[j]) / t for j in range(Q)]
            loss += -log(exp(logits[0]) / sum(exp(l) for l in logits)) / B

    Args:
        queries, positives: [B, D], normalized here.
        negatives: [Q, D], normalized here.
        temperature: divides the cosines.
    """
    queries = F.normalize(queries, dim=1)
    positive = (queries * F.normalize(positives, dim=1)).sum(1, keepdim=True)  # [B, 1]
    logits = torch.cat([positive, queries @ F.normalize(negatives, dim=1).T], 1) / temperature  # [B, 1 + Q]
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long, device=queries.device))
