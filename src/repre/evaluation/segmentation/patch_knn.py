"""Segmentation by nearest neighbors of patches: nothing is trained. mIoU at the masks' own resolution, as `segment` has.

The dense retrieval of "Towards In-Context Scene Understanding" (Balazevic et al. 2023, arXiv 2306.01667, section 3), known
as the hummingbird evaluation: a patch of a test image takes the labels of the patches of training images that are most
similar to it, by the softmax of cosine / temperature over the k nearest. The votes are resized to the mask.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from repre.data.labels.masks import MaskOptions, MaskSource
from repre.data.labels.same_images import notes_on_pair
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import WindowsConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.maps import CachedMaps, cached_maps, window_side
from repre.evaluation.metrics import check_fractions, with_fraction
from repre.evaluation.options import DenseFeatures, RuntimeOptions, check_window_options
from repre.evaluation.result import Result, data_details, pair_identity
from repre.evaluation.segmentation.patch_memory import fill_memory, unit_patches, votes_of_maps
from repre.evaluation.segmentation.segment import open_train_and_test, score
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields

NEIGHBORS = 30
TEMPERATURE = 0.02
"""Neighbors and temperature of the paper and of open-hummingbird-eval (Pariza et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class PatchKNNConfig(MaskOptions):
    """Segmentation by the nearest labeled patches, on any data with masks."""

    data: str = "scenes"
    """Images with masks: scenes, scenes:COUNT:SIZE, ade20k:DIR, voc:DIR, pairs:IMAGES,MASKS or pairs:DIR."""
    test: str | None = None
    """Other data to test on, with the same classes; None uses the validation images of `data`, or holds out a fifth."""
    k: int = NEIGHBORS
    """Number of neighbors that vote."""
    temperature: float = TEMPERATURE
    """A neighbor's vote has the weight exp(cosine / temperature)."""
    memory: int = 100_000
    """Largest number of labeled patches that vote, drawn evenly from the training windows. With C channels each
    takes 4 C bytes."""
    level: int = -1
    """The map whose cells are the patches: 0 is the shallowest one of the encoder, -1 the deepest."""
    features: DenseFeatures = "normed"
    """Maps after the encoder's final norm, or raw from its blocks."""
    size: int | None = None
    """Side of the windows in pixels; None uses the encoder's own image size."""
    window: Literal["slide", "pad", "resize"] = "slide"
    """How an image of another size or aspect is cut: overlapping windows over the image, whose short side is resized to
    `size`; one padded window of its long side; or one window of the whole image, whatever its aspect."""
    overlap: float = 1 / 3
    """Share of a sliding window that overlaps with the next one."""
    short_side: int | None = None
    """Short side in pixels to which images are resized for sliding windows; None: `size`, 0: images are not resized."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images that have labels; smaller subsets are part of larger ones. One metric for
    each."""
    save_predictions: int = 0
    """Number of test images to draw with truth and prediction."""
    seed: int = 0
    """Random seed for the patches, the choice of labeled images and random weights."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "patch_knn")
        check_fractions(self.label_fraction)
        for name in ("k", "memory"):
            if getattr(self, name) < 1:
                raise UserError(f"patch_knn.{name} must be at least 1, not {getattr(self, name)}")
        check_window_options("patch_knn", size=self.size, overlap=self.overlap)


def check(resolved: ResolvedEncoder, config: PatchKNNConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    train, test = _open(resolved, config)
    _check_level(resolved.build(image_size=config.size), config)
    return pair_identity(train, test)


def _open(resolved: ResolvedEncoder, config: PatchKNNConfig) -> tuple[MaskSource, MaskSource]:
    """The training and the test images."""
    return open_train_and_test(
        config.data,
        config.test,
        channels=resolved.config.channels,
        value_range=config.value_range or resolved.value_range,
        options=config.only_masks(),
    )


def _check_level(encoder: Encoder, config: PatchKNNConfig) -> None:
    count = len(encoder.out_indices)
    if not -count <= config.level < count:
        raise UserError(f"--level {config.level}: the encoder has {count} maps, 0 to {count - 1}; -1 is the deepest")


def run(resolved: ResolvedEncoder, config: PatchKNNConfig, *, work_dir: Path | None = None) -> Result:
    """Returns ``miou`` and ``pixel_accuracy``; ``miou@0.1`` and so on for label fractions.

    Args:
        work_dir: folder for drawn predictions.

    Raises:
        UserError: a mistake in the data or the config, or an image cannot be read.
    """
    if config.save_predictions and work_dir is None:
        raise UserError("save_predictions needs work_dir, the folder to save to")
    train, test = _open(resolved, config)
    encoder = resolved.build(image_size=config.size, seed=config.seed)
    _check_level(encoder, config)
    side, count = window_side(encoder), len(encoder.out_indices)
    windows = WindowsConfig(size=side, mode=config.window, overlap=config.overlap, short_side=config.short_side)
    mean, std = ViewsConfig(mean=resolved.mean, std=resolved.std).statistics(encoder.config.channels)

    def maps_of(source: Any) -> CachedMaps:
        return cached_maps(
            encoder,
            source,
            windows,
            mean=mean,
            std=std,
            levels=[config.level % count],
            norm=config.features == "normed",
            runtime=config.runtime,
        )

    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"train_images": len(train), "val_images": len(test), "size": side}
    details |= data_details(train, test, config.test, notes_on_pair(train, test))
    with naming_bad_images(train, test, workers=config.runtime.processes):
        train_maps, test_maps = maps_of(train), maps_of(test)
    device, patches, fractions = config.runtime.torch_device, unit_patches(0), sorted(config.label_fraction)[::-1]
    for fraction in fractions:
        labeled = label_subset(len(train), fraction, seed=config.seed)
        memory = fill_memory(
            train_maps,
            train_maps.windows(labeled),
            patches,
            source=train,
            limit=config.memory,
            seed=config.seed,
            device=device,
        )
        votes = votes_of_maps(
            memory, test_maps, test, patches, k=config.k, temperature=config.temperature, size=windows.size
        )
        scores = score(
            votes, test, pictures=config.save_predictions if fraction == fractions[0] else 0, work_dir=work_dir
        )
        for name, value in (("miou", scores.miou), ("pixel_accuracy", scores.pixel_accuracy)):
            metrics[with_fraction(name, fraction, fractions)] = value
        details[with_fraction("iou", fraction, fractions)] = dict(zip(test.classes, scores.iou))
        details[with_fraction("memory", fraction, fractions)] = {"images": len(labeled), "patches": len(memory.labels)}
    return Result(metrics, "miou", details)
