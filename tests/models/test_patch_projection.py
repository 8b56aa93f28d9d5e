"""The patch embedding as a product equals its convolution; only convolutions that cut patches of the image are replaced."""

import pytest
import timm
import torch
from torch import nn

from repre.models.patch_projection import PatchProjection, use_patch_projections


@pytest.mark.parametrize(("kernel", "size"), [(4, (8, 12)), ((2, 3), (6, 9)), (4, (9, 14))])
def test_the_product_is_the_convolution(kernel: int | tuple[int, int], size: tuple[int, int]) -> None:
    """Also with rows and columns that fill no patch, which a convolution leaves out."""
    convolution = nn.Conv2d(5, 7, kernel, stride=kernel, dtype=torch.float64)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(PatchProjection(convolution).product(x), convolution(x), rtol=1e-12, atol=1e-12)


def test_a_model_keeps_its_parameters_under_their_names() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    before = dict(model.named_parameters())
    use_patch_projections(model, channels=3)
    assert type(model.patch_embed.proj) is PatchProjection
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_convolutions_that_overlap_or_see_features_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 2, stride=2), nn.Conv2d(3, 6, 2, stride=2, groups=3)
    )
    use_patch_projections(model, channels=3)
    assert all(type(layer) is nn.Conv2d for layer in model)
