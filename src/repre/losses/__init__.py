"""Losses: pure functions of their arguments, each in a file of its own."""

from repre.losses.cosine_regression import cosine_regression
from repre.losses.dino_loss import dino_loss
from repre.losses.info_nce import info_nce, info_nce_queue
from repre.losses.nt_xent import nt_xent
from repre.losses.pixel_loss import PixelLossKind, pixel_loss

__all__ = ["PixelLossKind", "cosine_regression", "dino_loss", "info_nce", "info_nce_queue", "nt_xent", "pixel_loss"]
