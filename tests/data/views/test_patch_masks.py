"""Masks of patches hide exactly what was asked for."""

import torch

from repre.data.views.patch_masks import enlarge, hide_patches


def test_masks_hide_an_exact_share_in_patches() -> None:
    numbers = torch.rand(6, 49, generator=torch.Generator().manual_seed(0))
    masks = enlarge(hide_patches(numbers, ratio=0.3), patch=32)
    assert masks.shape == (6, 1, 224, 224)
    assert masks.dtype == torch.bool
    assert (masks.sum(dim=(1, 2, 3)) == round(0.3 * 49) * 32**2).all()
    patches = masks.view(6, 7, 32, 7, 32).float().mean(dim=(2, 4))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert len(patches.unique(dim=0)) == 6
