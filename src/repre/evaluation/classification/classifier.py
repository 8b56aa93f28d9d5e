"""The two networks of classification: an encoder with a linear layer, trained end to end or fitted to standardized features.

B  images    C  channels    H, W  height and width    D  dimensions of the features
"""

import torch
from torch import Tensor, nn

from repre.evaluation.classification.linear_fit import Classifiers
from repre.evaluation.features import encoder_extractor
from repre.models.encoder import Encoder
from repre.utils.amp import autocast

HEAD_STD = 0.01
"""Standard deviation of the head's weights at init."""


class Classifier(nn.Module):
    """A linear layer on the pooled embedding: images [B, C, H, W] -> scores [B, classes]."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images, maps=False).embedding)

    def scores(self, images: Tensor, precision: torch.dtype) -> Tensor:
        """Scores float32 [B, classes] on the CPU; matrix products are computed in `precision`."""
        with autocast(images.device, precision):
            return self(images).float().cpu()


class StandardizedClassifier(nn.Module):
    """A linear layer on the standardized features of a frozen encoder: images [B, C, H, W] -> scores [B, classes].

    Args:
        classifiers: what was fitted, one classifier (L = 1).
        tokens: whether the features end with the mean of the patch tokens, see `encoder_extractor`.
    """

    def __init__(self, encoder: Encoder, classifiers: Classifiers, *, tokens: bool) -> None:
        super().__init__()
        self.encoder, self.tokens = encoder.requires_grad_(False), tokens
        for name in ("mean", "scale"):
            self.register_buffer(name, getattr(classifiers, name))
        self.weight = nn.Parameter(classifiers.weight[:, 0], requires_grad=False)  # [D, classes]
        self.bias = nn.Parameter(classifiers.bias[0], requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images, maps=False, patches=self.tokens)
        if features.patches is None:
            return self.head(features.embedding)
        return self.head(torch.cat([features.embedding.float(), features.patches.float().mean(1)], dim=1))

    def head(self, features: Tensor) -> Tensor:
        """Features float32 [B, D] -> scores [B, classes]."""
        mean: Tensor = self.get_buffer("mean")
        return ((features - mean) * self.get_buffer("scale")) @ self.weight + self.bias

    def scores(self, images: Tensor, precision: torch.dtype) -> Tensor:
        """Scores float32 [B, classes] on the CPU; the encoder computes in `precision`, the linear layer in float32."""
        extract = encoder_extractor(self.encoder, tokens=self.tokens, precision=precision)
        return self.head(extract(images).float()).cpu()
