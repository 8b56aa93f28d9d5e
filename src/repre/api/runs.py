"""The calls of everyday use from Python; the command line makes the same ones."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repre.config import RunConfig
from repre.data.io.sources import open_source
from repre.errors import UserError
from repre.evaluation.classification.knn import knn_accuracy
from repre.evaluation.features import color_histogram, encoder_features, extract, load_labeled, raw_pixels
from repre.models.encoder import Encoder
from repre.recipes import recipe
from repre.reporting import write_report
from repre.training.loop import Probe, train
from repre.training.run_folder import RunFolder
from repre.utils.dist import is_main_process
from repre.utils.io import write_json


@dataclass(frozen=True)
class Run:
    """A finished pre-training run."""

    path: Path
    """The run's folder."""

    @property
    def summary(self) -> dict[str, Any]:
        """Figures of the run, as in its summary.json."""
        return json.loads(RunFolder(self.path).summary.read_text(encoding="utf-8"))


def pretrain(
    config: RunConfig | str,
    *,
    data: str | None = None,
    out: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Run:
    """Pre-trains an encoder, or goes on with the unfinished run in `out`.

    Args:
        config: a config, or the name of a recipe such as "vit-small-moco-v3".
        data, out, epochs, batch_size, seed: replace the config's.

    Raises:
        UserError: something in the config or the data needs mending; the message says what.
        RunError: the run could not go on; what was saved is intact.
    """
    config = recipe(config) if isinstance(config, str) else config
    given: dict[str, Any] = {"data": data, "out": out, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    probe = scenes_knn(config) if config.data.split(":")[0] == "scenes" else None
    path = train(config, probe=probe)
    if is_main_process():
        if probe is not None:
            report_baselines(path, probe)
        write_report(path)
    return Run(path)


def load_encoder(path: str | Path) -> Encoder:
    """The encoder of a finished run (its folder) or of a folder written by `Encoder.save`, in evaluation mode."""
    path = Path(path)
    folder = path / "encoder" if (path / "encoder").is_dir() else path
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}")
    if RunFolder(path).config.is_file() and folder == path:
        raise UserError(f"{path} is an unfinished run: it has no encoder yet; repeat its command to go on with it")
    return Encoder.load(folder).eval()


class SceneKNN:
    """k-NN on the labels of the embedded scenes, for an encoder and for what it has to beat."""

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


def scenes_knn(config: RunConfig) -> SceneKNN:
    return SceneKNN(config, train_images=2000, test_images=1000)


def report_baselines(path: Path, probe: SceneKNN) -> None:
    """Adds k-NN before and after training, and of the baselines, to the run's summary, and says whether it helped."""
    summary_path = RunFolder(path).summary
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    if "knn" in summary:
        return
    before, after = summary["validations"][0]["knn"], summary["validations"][-1]["knn"]
    summary["knn"] = {"before": before, "after": after, **probe.baselines()}
    write_json(summary_path, summary)


__all__ = ["Probe", "Run", "load_encoder", "pretrain"]
