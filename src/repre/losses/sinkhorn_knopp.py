"""Sinkhorn-Knopp (Cuturi 2013), which gives every prototype an equal share of the global batch, as in SwAV and DINOv2.

SwAV: Caron et al. 2020, arXiv 2006.09882, section 3.1. DINOv2: Oquab et al. 2023, arXiv 2304.07193, section 4.

    n  rows: views or patches of the local batch    P  prototypes
"""

from collections.abc import Callable

import torch
from torch import Tensor

from repre.losses.dino_loss import centered_softmax
from repre.utils.dist import max_over_ranks, sum_over_ranks


def sinkhorn_knopp(
    logits: Tensor, *, temperature: float | Tensor, counted: Tensor | None = None, iterations: int = 3
) -> Tensor:
    """Distributions of the local rows over the prototypes, [n, P]; each sums to 1, without gradient.

    In slow loops, with the rows of all ranks in one list and without those that do not count::

        q = [[exp(logits[i][k] / temperature) for k in range(P)] for i in range(n)]
        for iteration in range(iterations):
            for k in range(P):
                total = sum(q[i][k] for i in range(n))
                for i in range(n): q[i][k] /= total * P
            for i in range(n):
                total = sum(q[i])
                for k in range(P): q[i][k] /= total * n
        return [[n * x for x in row] for row in q]

    Args:
        logits: the teacher's, [n, P].
        temperature: divides the logits.
        counted: bool [n], False for padded rows, whose distributions mean nothing and change no other. None counts all.
        iterations: at least 1. Every iteration is a sum over ranks, which may have different numbers of rows.
    """
    if counted is None:
        counted = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    center = sinkhorn_center(lambda rows: logits[rows], counted, temperature=temperature, iterations=iterations)
    return centered_softmax(logits, center, temperature)


@torch.no_grad()
def sinkhorn_center(
    logits: Callable[[slice], Tensor],
    counted: Tensor,
    *,
    temperature: float | Tensor,
    iterations: int = 3,
    piece: int | None = None,
) -> Tensor:
    """The center [P] with which `centered_softmax` gives the distributions of `sinkhorn_knopp`.

    The algorithm only ever multiplies rows and columns. After its last step every row sums to 1, so a row is the softmax of
    its logits and of one number for each prototype. Only these numbers have to be found, which takes the logits of a few
    rows at a time. In their logarithms nothing overflows, whatever the temperature.

    Args:
        logits: gives the logits of a slice of the rows, [rows, P]; it is called once in every iteration.
        counted: bool [n], False for rows that do not count.
        temperature, iterations: those of `sinkhorn_knopp`.
        piece: rows at once; None takes all.
    """
    n = max(1, len(counted))  # also without rows, this rank takes part in the sums
    slices = [slice(start, start + (piece or n)) for start in range(0, n, piece or n)]

    def scaled(rows: slice) -> Tensor:
        return (logits(rows) / temperature).masked_fill(~counted[rows, None], float("-inf"))

    parts = [scaled(rows).logsumexp(0) for rows in slices]  # the first iteration's columns: rows are not normalized yet
    totals = torch.stack(parts).logsumexp(0)  # [P]
    highest = max_over_ranks(totals)
    column = -(highest + sum_over_ranks((totals - highest).exp()).log())  # logarithm of each column's factor
    for _ in range(iterations - 1):
        shares = [_shares(logits(rows) / temperature + column, counted[rows]) for rows in slices]
        column = column - sum_over_ranks(torch.stack(shares).sum(0)).log()
    column = column.nan_to_num(0.0, 0.0, 0.0)  # no row of any rank counts
    return -temperature * column


def _shares(scores: Tensor, counted: Tensor) -> Tensor:
    """Sum over the rows that count of the softmax of each, [rows, P] -> [P]."""
    return (scores.softmax(1) * counted[:, None]).sum(0)
