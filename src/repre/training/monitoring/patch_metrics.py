"""Metrics of patch features, without labels: do two views of one image agree on what is where?

B  images    C  channels    h, w  grid of a feature map    P = h w  cells of that grid
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.augmentations import ViewParameters
from repre.training.monitoring.embedding_metrics import effective_rank


def matching_cells(
    first: ViewParameters, second: ViewParameters, *, grid: tuple[int, int] | torch.Size
) -> tuple[Tensor, Tensor]:
    """Finds, by geometry, the cell of the second view that shows the center of each cell of the first view.

    The center of cell (i, j) of view 1 lies in the image at ``top + (i + 1/2) / h * height`` and ``left + x * width``,
    where x is ``(j + 1/2) / w``, or 1 minus that in a flipped view. The inverse of the same map for view 2 gives the cell.

    Returns:
        cells: index of the cell in the flattened grid, int64 [B, P]; 0 if it is not visible.
        visible: whether the center lies inside the second view, bool [B, P].
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


def predicted_cells(first: Tensor, second: Tensor) -> Tensor:
    """Finds, by cosine of the features, the most similar cell of the second view for each cell of the first view.

    Args:
        first, second: patch tokens [B, P, C] of the two views.

    Returns:
        Index of the cell in the flattened grid, int64 [B, P].
    """
    first, second = (F.normalize(tokens, dim=2) for tokens in (first, second))
    return (first @ second.mT).argmax(2)


def depth_metrics(patches: Tensor, maps: list[Tensor]) -> dict[str, float]:
    """Metrics of one view's patch tokens [B, P, C], and of its feature maps, one [B, C_l, h_l, w_l] per level.

    patch_rank: `effective_rank` of the patch tokens.
    level_similarity_A_B: `linear_cka` of neighboring levels; 1 if level B adds nothing to level A.
    """
    metrics = {"patch_rank": effective_rank(patches.flatten(0, 1))}
    for level, (shallow, deep) in enumerate(pairwise(maps)):
        metrics[f"level_similarity_{level}_{level + 1}"] = linear_cka(shallow, deep)
    return metrics


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two feature maps of the same images (Kornblith et al. 2019, arXiv 1905.00414, equation 4).

    Every cell is a sample; the finer map is first averaged to the coarser grid.

    Args:
        first, second: feature maps [B, C, h, w]; channels and grids may differ.

    Returns:
        A number from 0 to 1; 1 if one map is a scaled rotation of the other. NaN if features are constant or not finite.
    """
    grid = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    x, y = (F.adaptive_avg_pool2d(maps.float(), grid).movedim(1, -1).flatten(0, 2).double() for maps in (first, second))
    x, y = x - x.mean(0), y - y.mean(0)  # [B P, C]
    cross = (x.mT @ y).square().sum()
    return float(cross / ((x.mT @ x).norm() * (y.mT @ y).norm()))
