"""k-NN during pre-training: what `repre eval knn` computes, on an encoder in memory."""

from functools import cached_property

from torch import Tensor

from repre.data.io.sources import open_source
from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.scenes import Scenes
from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.classification.knn import baseline_metrics, knn_metrics
from repre.evaluation.features import encoder_extractor, stream_views
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.models.transform import CROP_PCT, Transform

PROBE_SCENES = 2000
"""Labeled scenes that vote; half as many others are tested (`Scenes.held_out`)."""


class KNNProbe:
    """Measures an encoder by k-NN (k = 20) on labeled images, in float32 on the encoder's device.

    The views of all images stay in memory.

    Args:
        splits: labeled images.
        transform: renders the views.
        batch: images per forward pass.
    """

    def __init__(self, splits: LabeledSplits, transform: Transform, *, batch: int = 256) -> None:
        self.splits, self.transform, self.batch = splits, transform, batch

    @cached_property
    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views of the training and the test images, in batches; rendered when they are first used."""
        runtime = RuntimeOptions(device="cpu", workers=0, batch=self.batch)
        train, test = (
            list(stream_views(images, self.transform, runtime=runtime))
            for images in (self.splits.train, self.splits.test)
        )
        return train, test

    @classmethod
    def for_scenes(cls, spec: str, views: ViewsConfig) -> "KNNProbe":
        """Returns a probe on 2000 embedded scenes and 1000 held-out ones.

        Args:
            spec: the pre-training data, ``scenes``, ``scenes:COUNT`` or ``scenes:COUNT:SIZE``; gives the scenes' size.
            views: of the pre-training; gives the size of the test views and the normalization.
        """
        scenes = open_source(spec)
        assert isinstance(scenes, Scenes), spec
        splits = open_labeled(f"scenes:{PROBE_SCENES}:{scenes.config.size}")
        return cls(splits, Transform(views, CROP_PCT))

    def __call__(self, encoder: Encoder, step: int = 0) -> dict[str, float]:
        """Returns ``knn``, the accuracy on the test images. `step` is not used; `repre.training` passes it to probes."""
        return knn_metrics({"knn": encoder_extractor(encoder)}, self.splits, *self.views)

    def baselines(self) -> dict[str, float]:
        """Returns the accuracy of k-NN on ``raw pixels`` and ``color histogram``, and of the ``majority class``."""
        metrics = baseline_metrics(self.splits, *self.views, self.transform.views)
        return {name.replace("_", " "): value for name, value in metrics.items()}
