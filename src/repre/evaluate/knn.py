"""k-nearest-neighbour classification on frozen features, as DINO evaluates (arXiv 2104.14294, appendix F.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float = 0.07, classes: int
) -> Tensor:
    """Class of every test feature by a vote of its k nearest training features.

    Slowly::

        for i in range(N):
            near = the k largest of [cos(test[i], train[j]) for j in range(M)]
            votes[labels[j]] += exp(cos(test[i], train[j]) / temperature)   for j in near
            prediction[i] = argmax(votes)

    Args:
        train: [M, D]; labels: int64 [M]; test: [N, D].

    Returns:
        int64 [N].
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    predictions = []
    for part in test.split(1024):
        cosines, nearest = (part @ train.T).topk(min(k, len(train)), dim=1)  # [n, k]
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[nearest], (cosines / temperature).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, *, k: int = 20, classes: int) -> float:
    """Share of test features [N, D] that `knn_predict` puts into their true class [N]."""
    return float((knn_predict(train, labels, test, k=k, classes=classes) == truth).float().mean())
