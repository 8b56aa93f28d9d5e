"""Where evaluations compute and what they keep; nothing here changes a figure beyond rounding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from repre.errors import UserError
from repre.utils.config_checks import check_fields
from repre.utils.device import pick_device, pick_precision, pick_workers


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Device, workers, caches."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; `auto` takes the fastest at hand."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on CUDA devices that have it, else fp32."""
    workers: int | None = None
    """Processes that decode images; None: one less than the processor's cores, at most 16. 0 decodes in this process."""
    batch: int = 64
    """Images per piece where nothing is trained."""
    cache: Path | None = None
    """Folder that keeps extracted features and maps; None: the user's cache folder."""
    cache_gib: float = 50.0
    """Most GiB that the folder may hold; what was not of use for longest goes first."""

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        if self.batch < 1:
            raise UserError(f"runtime.batch must be at least 1, not {self.batch}")
        if self.cache_gib < 0:
            raise UserError(f"runtime.cache_gib must not be negative, not {self.cache_gib}")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"runtime.workers must not be negative, not {self.workers}")

    @property
    def torch_device(self) -> torch.device:
        return pick_device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return pick_precision(self.precision, self.torch_device)

    @property
    def processes(self) -> int:
        return pick_workers(self.workers)
