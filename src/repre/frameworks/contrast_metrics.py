"""Metrics of a contrastive task, logged with every step."""

import torch
from torch import Tensor, nn

from repre.utils.dist import mean_over_ranks, rank


@torch.no_grad()
def retrieval_accuracy(queries: Tensor, keys: Tensor) -> Tensor:
    """Share of this rank's queries whose nearest key by cosine, among the keys of all ranks, is their own: a scalar.

    Args:
        queries: [B, D].
        keys: [G, D] of all ranks, in rank order.
    """
    nearest = (nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T).argmax(1)
    own = rank() * len(queries) + torch.arange(len(queries), device=queries.device)
    return (nearest == own).float().mean()


@torch.no_grad()
def negative_metrics(queries: Tensor, keys: Tensor, positive: Tensor, *, temperature: float) -> dict[str, Tensor]:
    """The effective number of negatives: exp of the mean entropy, over the queries of all ranks, of the softmax over a
    query's negatives.

    In slow loops::

        for i in range(B):
            p = softmax([cos(queries[i], keys[j]) / temperature for j in range(G) if not positive[i, j]])
            entropy += -sum(p * log(p)) / B
        effective_negatives = exp(entropy)
        negative_share = effective_negatives / number of negatives

    Args:
        queries, keys: [B, P] and [G, P], normalized here.
        positive: bool [B, G], True where a key shows the query's own image; the same number in every row.
    """
    cosines = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T
    probabilities = (cosines / temperature).masked_fill(positive, float("-inf")).softmax(1)  # [B, G]
    count = mean_over_ranks(torch.special.entr(probabilities).sum(1).mean()).exp()
    return {"effective_negatives": count, "negative_share": count / (len(keys) - positive[0].sum()).clamp(min=1)}


def positive_mask(count: int, total: int, *, offset: int, device: torch.device) -> Tensor:
    """Bool [count, total]: key ``offset + i`` is the positive of query i."""
    return torch.arange(total, device=device) == torch.arange(offset, offset + count, device=device)[:, None]
