"""Metrics of pooled embeddings, without labels.

N  images    D  embedding dimension    C  channels    H, W  height and width of an image
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DUPLICATE_DISTANCE = 0.02
"""Root mean square difference of two 8 x 8 thumbnails with values in [0, 1] up to which two images count as copies."""
PIXEL_STD = 0.25
"""Standard deviation of pixels in [0, 1] that normalization divides by; about 0.225 for ImageNet's statistics."""


def embedding_metrics(embeddings: Tensor) -> dict[str, float]:
    """Metrics of embeddings [N, D] that detect collapse.

    rankme: `effective_rank`; near 1 means collapse. Higher is better among runs of one kind.
    embedding_std: `normalized_std`.
    """
    return {"rankme": effective_rank(embeddings), "embedding_std": float(normalized_std(embeddings.double()))}


def normalized_std(embeddings: Tensor) -> Tensor:
    """Mean standard deviation per dimension of L2-normalized embeddings [N, D], times sqrt(D).

    Returns:
        A scalar: 0 means collapse, 1 a uniform distribution on the sphere (the check of SimSiam, Chen and He 2020, arXiv
        2011.10566, section 4.1).
    """
    return F.normalize(embeddings, dim=1).std(0).mean() * embeddings.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the normalized singular values of features [N, D].

    RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 1).

    Returns:
        A number from 1 to min(N, D); NaN if a feature is not finite.
    """
    features = features.double()
    if not bool(features.isfinite().all()):
        return float("nan")
    if len(features) > 2 * features.shape[1]:
        features = torch.linalg.qr(features, mode="r").R  # a small matrix with the same singular values
    singular_values = torch.linalg.svdvals(features)
    shares = singular_values / singular_values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment_and_uniformity(first: Tensor, second: Tensor) -> dict[str, float]:
    """Alignment and uniformity of the embeddings of two views, [N, D] each.

    Wang and Isola 2020, arXiv 2005.10242, section 4, with alpha = 2 and t = 2.

    alignment: mean squared distance between the normalized embeddings of the two views of an image; from 0 to 4, lower is
        better.
    uniformity: log of the mean of exp(-2 squared distance) over pairs of different images, in both views; from -8 to 0,
        lower is better, 0 means collapse. Absent for a single image.
    """
    first, second = F.normalize(first.double(), dim=1), F.normalize(second.double(), dim=1)
    metrics = {"alignment": float((first - second).square().sum(1).mean())}
    if len(first) > 1:
        squared_distances = torch.cat([torch.pdist(view).square() for view in (first, second)])
        metrics["uniformity"] = float(squared_distances.mul(-2).exp().mean().log())
    return metrics


def distinct_share(images: Tensor) -> float:
    """Share of normalized images [N, C, H, W] whose 8 x 8 thumbnail differs from those of all earlier images."""
    thumbnails = F.adaptive_avg_pool2d(images, 8).flatten(1).double()
    limit = DUPLICATE_DISTANCE / PIXEL_STD * thumbnails.shape[1] ** 0.5
    is_copy = torch.cdist(thumbnails, thumbnails) <= limit
    return float((~is_copy.tril(-1).any(1)).double().mean())
