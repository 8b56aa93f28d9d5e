"""A patch embedding's convolution, computed on CUDA as a linear layer on unfolded patches.

cuDNN has no fast kernel for a convolution of few channels whose stride is its kernel: on an H100 it took 6 % of a training
step of ViT-S/16 (docs/performance.md). A product of matrices gives the same values up to rounding.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProjection(nn.Conv2d):
    """The layer of a convolution whose patches do not overlap; same parameters under the same names.

    Args:
        convolution: stride = kernel size, no padding, one group.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H / p, W / p]."""
        return self.product(x) if x.is_cuda else super().forward(x)

    def product(self, x: Tensor) -> Tensor:
        """The same as one product of matrices; the channels of the result are last in memory."""
        height, width = self.kernel_size
        rows, columns = x.shape[-2] // height, x.shape[-1] // width
        patches = x[..., : rows * height, : columns * width].unflatten(3, (columns, width)).unflatten(2, (rows, height))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, rows, columns, C p p]
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def use_patch_projections(model: nn.Module, *, channels: int) -> None:
    """Replaces every convolution of a model that cuts images of `channels` channels into patches that do not overlap."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.in_channels == channels and _is_patch_projection(child):
                setattr(parent, name, PatchProjection(child))


def cuts_patches(patch_embed: nn.Module) -> bool:
    """Whether a patch embedding cuts images into patches that do not overlap, after `use_patch_projections`."""
    convolutions = [module for module in patch_embed.modules() if isinstance(module, nn.Conv2d)]
    return bool(convolutions) and all(isinstance(module, PatchProjection) for module in convolutions)


def _is_patch_projection(convolution: nn.Conv2d) -> bool:
    return (
        tuple(convolution.stride) == tuple(convolution.kernel_size)
        and convolution.padding in ((0, 0), "valid")
        and tuple(convolution.dilation) == (1, 1)
        and convolution.groups == 1
    )
