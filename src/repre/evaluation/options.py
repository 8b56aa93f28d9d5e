"""Options that evaluations share: where they compute and what they cache, and which maps they see.

Loads torch only when a device is asked for, so that the help of commands does without.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repre.errors import UserError
from repre.utils.config_checks import check_fields, check_workers

if TYPE_CHECKING:
    import torch

DenseFeatures = Literal["normed", "raw"]
"""Maps of an encoder after its final norm, as DINOv2's, or as its blocks leave them."""


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Device, workers, caches. Nothing here changes a metric beyond rounding."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; `auto` uses the fastest that is available."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on CUDA devices that support it, else fp32."""
    workers: int | None = None
    """Processes that decode images; None: one less than the number of cores, at most 16. 0 decodes in this process."""
    batch: int = 64
    """Images per batch where nothing is trained."""
    cache: Path | None = None
    """Folder for cached features and maps; None: the user's cache folder."""
    cache_gib: float = 50.0
    """Largest size of that folder in GiB; the least recently used entries are removed."""

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        if self.batch < 1:
            raise UserError(f"runtime.batch must be at least 1, not {self.batch}")
        check_workers(self.workers, "runtime.workers")

    @property
    def torch_device(self) -> "torch.device":
        """The device that `device` stands for."""
        from repre.utils.device import pick_device

        return pick_device(self.device)

    @property
    def dtype(self) -> "torch.dtype":
        """Data type of matrix products on `torch_device`."""
        from repre.utils.device import pick_precision

        return pick_precision(self.precision, self.torch_device)

    @property
    def processes(self) -> int:
        """Number of worker processes."""
        from repre.utils.device import pick_workers

        return pick_workers(self.workers)


def check_window_options(section: str, *, size: int | None, overlap: float) -> None:
    """Refuses windows that no image can be cut into; raises UserError.

    Args:
        section: of the settings, for messages.
    """
    if size is not None and size < 8:
        raise UserError(f"{section}.size must be at least 8 pixels, not {size}")
    if not 0 <= overlap < 1:
        raise UserError(f"{section}.overlap must lie in [0, 1), not {overlap}")
