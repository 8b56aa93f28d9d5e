"""The labels that a run is measured on while it trains, in addition to its monitors without labels."""

from dataclasses import dataclass, field

from repre.data.labels.label_map import MaskOptions
from repre.errors import UserError
from repre.utils.config_checks import check_fields

OPTION_OF_METRIC = {
    "probe/knn": "knn",
    "probe/linear": "linear",
    "probe/miou": "segment",
    "probe/patch_knn": "segment",
}
"""The metrics of probes, and the setting that names their labels."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Measurements on labels of your own while a run trains. Nothing here changes the weights; all of it may change on
    resume."""

    knn: str | None = None
    """Labeled images for `probe/knn`, the accuracy of 20 nearest neighbors: class folders, csv:FILE, a data set such as
    cifar10:ROOT."""
    linear: str | None = None
    """Labeled images for `probe/linear`, the accuracy of a linear classifier; data as for `knn`."""
    accept_labels: bool = False
    """Accept the labels of `knn` and `linear` as read, even if they look wrong."""
    segment: str | None = None
    """Images with masks (a few dozen are enough) for `probe/miou` of a linear head and `probe/patch_knn`, the mIoU of
    nearest patches: pairs:IMAGES,MASKS, pairs:DIR, voc:DIR, ade20k:DIR."""
    masks: MaskOptions = field(default_factory=MaskOptions)
    """How the pixels of the mask files of `segment` become classes."""
    every_epochs: int | None = None
    """Epochs between two probes, a multiple of `runtime.eval_every_epochs`; None: at every validation. The first and the
    last validation always have one."""
    images: int = 2000
    """Largest number of training images, and of test images, that a probe uses; drawn once."""

    def __post_init__(self) -> None:
        check_fields(self, "probe")
        if self.images < 2:
            raise UserError(f"probe.images must be at least 2, not {self.images}")
        if self.every_epochs is not None and self.every_epochs < 1:
            raise UserError(f"probe.every_epochs must be at least 1, not {self.every_epochs}")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that these settings give."""
        return [metric for metric, option in OPTION_OF_METRIC.items() if getattr(self, option) is not None]

    def check_run(self, *, eval_every_epochs: int, best_metric: str, shape: tuple[int, int]) -> None:
        """Checks these settings against those of a run.

        Args:
            eval_every_epochs, best_metric: of `RuntimeConfig`.
            shape: height and width of the global views.

        Raises:
            UserError: the probes come when no validation does, no probe gives the best metric, or the views are not square.
        """
        if self.every_epochs is not None and self.every_epochs % eval_every_epochs:
            raise UserError(
                f"probe.every_epochs is {self.every_epochs}, but a probe is part of a validation, and "
                f"runtime.eval_every_epochs is {eval_every_epochs}: give a multiple of it, or set "
                f"--runtime.eval-every-epochs {self.every_epochs} too"
            )
        if best_metric.startswith("probe/") and best_metric not in self.metrics:
            option = OPTION_OF_METRIC.get(best_metric)
            remedy = f"set --probe.{option} LABELS" if option else f"there are {', '.join(OPTION_OF_METRIC)}"
            given = f"probes of this run: {', '.join(self.metrics)}" if self.metrics else "this run has no probe"
            raise UserError(f"runtime.best_metric: no metric {best_metric!r}; {remedy} ({given})")
        if self.segment is not None and shape[0] != shape[1]:
            raise UserError(
                f"probe.segment cuts square windows, but the global views have {shape[0]} x {shape[1]} pixels; leave it "
                "out, or train on square views"
            )
