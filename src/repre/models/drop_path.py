"""Drop path whose random draws belong to images: a part of a batch, or a rank, drops what the whole batch would drop."""

import torch
from torch import Tensor, nn


class BatchSlice:
    """The images of the whole batch that a forward pass encodes; all drop paths of an encoder share one.

    Attributes:
        total: images in the whole batch, over all micro-batches and ranks; 0 where a pass encodes the whole batch.
        index: int64 [B], positions of the encoded images in the whole batch; None where a pass encodes all of it.
    """

    def __init__(self) -> None:
        self.total = 0
        self.index: Tensor | None = None

    def select(self, start: int, stop: int, *, total: int, device: torch.device) -> None:
        """The next passes encode the images `start` to `stop` of `total`, in one or several views."""
        if (start, stop) == (0, total):
            self.total, self.index = 0, None
        else:
            self.total, self.index = total, torch.arange(start, stop, device=device)


class DropPath(nn.Module):
    """Drops a residual branch for whole images and scales the others up to match (Huang et al. 2016, arXiv 1603.09382).

    Every pass draws a number for each image of the whole batch from torch's global generator, however few of them it
    encodes. So after the same seed, micro-batches and ranks draw what the whole batch would draw. The draws come from the
    global generator, whose state activation checkpointing restores.

    Args:
        probability: of dropping an image's branch, in [0, 1).
        batch_slice: the images that a pass encodes.
        scale: divide what remains by the probability to remain.

    Attributes:
        drawn: factors that the next pass uses instead of drawing, [V * B]. For compiled passes: their backward pass may
            compute a part of the forward pass again, and would draw other numbers.
    """

    def __init__(self, probability: float, batch_slice: BatchSlice, *, scale: bool = True) -> None:
        super().__init__()
        self.probability, self.batch_slice, self.scale = probability, batch_slice, scale
        self.drawn: Tensor | None = None

    @property
    def drops(self) -> bool:
        """Whether a pass draws."""
        return self.training and self.probability > 0

    def draw(self, count: int, device: torch.device) -> Tensor:
        """Factors of the branch for `count` images, [V * B]: 0, or 1 over the probability to remain."""
        index, total = self.batch_slice.index, self.batch_slice.total
        if index is None:
            uniforms = torch.rand(count, device=device)
        else:
            views = count // len(index)
            uniforms = torch.rand(views, total, device=device).index_select(1, index).flatten()
        keep_probability = 1 - self.probability
        mask = (uniforms < keep_probability).to(uniforms.dtype)
        return mask / keep_probability if self.scale else mask

    def forward(self, x: Tensor) -> Tensor:
        """x: [V * B, ...], all images of a view before those of the next."""
        if not self.drops:
            return x
        factors = self.draw(len(x), x.device) if self.drawn is None else self.drawn
        return x * factors.to(x.dtype).view(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"{self.probability:.3g}"


def use_drop_paths(model: nn.Module, batch_slice: BatchSlice) -> list[DropPath]:
    """Replaces timm's drop paths in a model by ours; returns them."""
    from timm.layers import DropPath as TimmDropPath

    replaced = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TimmDropPath):
                ours = DropPath(child.drop_prob or 0.0, batch_slice, scale=child.scale_by_keep)
                setattr(parent, name, ours)
                replaced.append(ours)
    return replaced
