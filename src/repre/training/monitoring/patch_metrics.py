"""Looks at patch features without labels: do two views of one image agree on where things are?

B  images    C  channels    h, w  cells of a map    P = h w  patches of a view
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.params import ViewParameters


def right_cells(
    first: ViewParameters, second: ViewParameters, *, grid: tuple[int, int] | torch.Size
) -> tuple[Tensor, Tensor]:
    """For every patch of the first view the cell of the second view that shows its center.

    Slowly: the center of cell (i, j) of view 1 lies in the image at ``top + (i + 1/2) / h * height`` and
    ``left + x * width``, where x is ``(j + 1/2) / w``, or 1 less that in a flipped view; view 2 is asked backwards.

    Returns:
        cells: place of that cell in the flattened grid, int64 [B, P]; 0 where there is none.
        visible: whether the center lies in the second view, bool [B, P].
    """
    h, w = grid
    down = ((torch.arange(h, dtype=torch.float64) + 0.5) / h)[None, :, None]
    across = ((torch.arange(w, dtype=torch.float64) + 0.5) / w)[None, None, :]
    top, left, height, width = first.boxes.double()[:, :, None, None].unbind(1)  # [B, 1, 1] each
    y = top + down * height
    x = left + torch.where(first.flip[:, None, None], 1 - across, across) * width
    top, left, height, width = second.boxes.double()[:, :, None, None].unbind(1)
    y, x = torch.broadcast_tensors((y - top) / height, (x - left) / width)  # [B, h, w]
    visible = (y >= 0) & (y < 1) & (x >= 0) & (x < 1)
    x = torch.where(second.flip[:, None, None], 1 - x, x)
    row, column = (y * h).floor().clamp(0, h - 1).long(), (x * w).floor().clamp(0, w - 1).long()
    return torch.where(visible, row * w + column, 0).flatten(1), visible.flatten(1)


def found_cells(first: Tensor, second: Tensor) -> Tensor:
    """For every patch of maps [B, C, h, w] the place of the most similar patch, by cosine, of the second: [B, P]."""
    one, other = (F.normalize(maps.flatten(2), dim=1) for maps in (first, second))  # [B, C, P]
    return (one.mT @ other).argmax(2)


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the shares of the singular values of x [N, D] (RankMe, Garrido et al. 2023, arXiv 2210.02885,
    equation 1); from 1 to min(N, D). NaN where x is not finite."""
    x = x.double()
    if not bool(x.isfinite().all()):
        return float("nan")
    if len(x) > 2 * x.shape[1]:
        x = torch.linalg.qr(x, mode="r").R  # the same singular values, of a small matrix
    values = torch.linalg.svdvals(x)
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414, equation 4) of two maps of the same images, in [0, 1].

    1: one is a rotation of the other, up to scale. The finer map [B, C, h, w] is averaged to the coarser grid; every patch
    is a sample. NaN where the features are not finite or constant.
    """
    grid = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    x, y = (F.adaptive_avg_pool2d(maps.float(), grid).movedim(1, -1).flatten(0, 2).double() for maps in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)  # [B P, C]
    cross = (x.mT @ y).square().sum()
    return float(cross / ((x.mT @ x).norm() * (y.mT @ y).norm()))
