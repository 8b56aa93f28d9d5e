"""KoLeo (Sablayrolles et al. 2019, arXiv 1806.03198, section 3.2), which spreads embeddings over the sphere, as in DINOv2.

DINOv2: Oquab et al. 2023, arXiv 2304.07193, section 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8
"""Added to each difference of coordinates and to the distance, as in DINOv2's code: equal embeddings have a finite loss."""


def koleo(embeddings: Tensor, everyone: Tensor, *, offset: int = 0) -> Tensor:
    """Mean of minus the logarithm of the distance to the nearest other embedding of the global batch.

    In slow loops, with all embeddings normalized::

        for i in range(B):
            others = [j for j in range(G) if j != offset + i]
            nearest = max(others, key=lambda j: dot(embeddings[i], everyone[j]))
            loss += -log(norm(embeddings[i] - everyone[nearest] + EPS) + EPS) / B

    The gradient flows into both ends of each distance.

    Args:
        embeddings: of one view of the local batch, [B, D], normalized here.
        everyone: those of the global batch, gathered with gradient, [G, D] with G >= 2, normalized here.
        offset: index of the local batch in the global one: ``everyone[offset + i]`` is ``embeddings[i]``.
    """
    assert len(everyone) >= 2, "KoLeo compares each image with another one, so the global batch needs at least two"
    mine, everyone = F.normalize(embeddings, dim=1, eps=EPS), F.normalize(everyone, dim=1, eps=EPS)
    with torch.no_grad():
        cosines = mine @ everyone.T  # [B, G]
        own = torch.arange(len(mine), device=mine.device) + offset
        nearest = cosines.scatter_(1, own[:, None], float("-inf")).argmax(1)
    return -(F.pairwise_distance(mine, everyone[nearest], eps=EPS) + EPS).log().mean()
