"""k-NN on the labels of the embedded scenes, before, during and after training."""

import json
from pathlib import Path
from typing import Any

from repre.config import RunConfig
from repre.data.io.sources import open_source
from repre.evaluation.classification.knn import knn_accuracy
from repre.evaluation.features import color_histogram, encoder_features, extract, load_labeled, raw_pixels
from repre.models.encoder import Encoder
from repre.utils.io import write_json


class SceneKNN:
    """k-NN on the labels of the embedded scenes, for an encoder and for its baselines."""

    def __init__(self, config: RunConfig, *, train_images: int, test_images: int) -> None:
        size = config.data.partition(":")[2].partition(":")[2]
        self.config = config
        self.train, self.test = (
            load_labeled(
                open_source(f"scenes:{count}" + (f":{size}" if size else ""), split=split, canvas=config.decode_size),
                views=config.views,
                canvas=config.decode_size,
            )
            for count, split in ((train_images, "train"), (test_images, "val"))
        )

    def __call__(self, encoder: Encoder, step: int) -> dict[str, float]:
        return {"knn": self.accuracy(encoder_features(encoder))}

    def accuracy(self, features: Any) -> float:
        """Share of the test scenes whose class k-NN finds on `features` (images -> [B, D])."""
        return knn_accuracy(
            extract(self.train.images, features),
            self.train.labels,
            extract(self.test.images, features),
            self.test.labels,
            classes=self.train.classes,
        )

    def baselines(self) -> dict[str, float]:
        return {
            "raw pixels": self.accuracy(raw_pixels),
            "color histogram": self.accuracy(color_histogram(self.config.views)),
            "majority class": float(self.test.labels.bincount().max() / len(self.test.labels)),
        }


def add_baselines(path: Path, probe: SceneKNN) -> None:
    """Adds k-NN before and after training, and of the baselines, to the run's summary."""
    summary_path = path / "summary.json"
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    if "knn" in summary:
        return
    before, after = summary["validations"][0]["knn"], summary["validations"][-1]["knn"]
    summary["knn"] = {"before": before, "after": after, **probe.baselines()}
    write_json(summary_path, summary)
