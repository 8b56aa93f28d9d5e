"""Drop path whose draws belong to images: a piece of a batch, or a rank, drops what the whole batch would drop there."""

import torch
from torch import Tensor, nn


class BatchSlice:
    """Which images of the whole batch a pass shows; all drop paths of an encoder share one.

    Attributes:
        total: images of the whole batch, over pieces and ranks; 0: what is shown is the whole batch.
        index: int64 [B], their places in it.
    """

    def __init__(self) -> None:
        self.total = 0
        self.index: Tensor | None = None

    def show(self, start: int, stop: int, *, total: int, device: torch.device) -> None:
        """The passes that follow show the images `start` to `stop` of `total`, in one or several views."""
        if (start, stop) == (0, total):
            self.total, self.index = 0, None
        else:
            self.total, self.index = total, torch.arange(start, stop, device=device)


class DropPath(nn.Module):
    """Drops a residual branch for whole images (Huang et al. 2016, arXiv 1603.09382), and enlarges the rest to match.

    Every call draws a number for every image of the whole batch from torch's global generator, whatever it shows of them:
    after the same seed, pieces and ranks draw the same as the batch in one. It leaves the draws where activation
    checkpointing finds them again.
    """

    def __init__(self, probability: float, batch_slice: BatchSlice, *, scale: bool = True) -> None:
        super().__init__()
        self.probability, self.batch_slice, self.scale = probability, batch_slice, scale

    def forward(self, x: Tensor) -> Tensor:
        """x: [V * B, ...], all images of a view before those of the next."""
        if not self.training or self.probability == 0:
            return x
        if self.batch_slice.index is None:
            drawn = torch.rand(len(x), device=x.device)
        else:
            views = len(x) // len(self.batch_slice.index)
            drawn = (
                torch.rand(views, self.batch_slice.total, device=x.device)
                .index_select(1, self.batch_slice.index)
                .flatten()
            )
        keep = 1 - self.probability
        factor = (drawn < keep).to(x.dtype)
        if self.scale:
            factor = factor / keep
        return x * factor.view(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"{self.probability:.3g}"
