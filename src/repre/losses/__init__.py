"""Losses: pure functions of their arguments, each in a file of its own."""

from repre.losses.cosine_regression import cosine_regression
from repre.losses.dino_loss import centered_softmax, dino_loss
from repre.losses.ibot_patch_loss import ibot_patch_loss
from repre.losses.info_nce import info_nce, info_nce_queue
from repre.losses.koleo import koleo
from repre.losses.nt_xent import nt_xent
from repre.losses.pixel_loss import PixelLossKind, pixel_loss
from repre.losses.sinkhorn_knopp import sinkhorn_center, sinkhorn_knopp

__all__ = [
    "PixelLossKind",
    "centered_softmax",
    "cosine_regression",
    "dino_loss",
    "ibot_patch_loss",
    "info_nce",
    "info_nce_queue",
    "koleo",
    "nt_xent",
    "pixel_loss",
    "sinkhorn_center",
    "sinkhorn_knopp",
]
