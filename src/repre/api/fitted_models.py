"""Use a model that an evaluation fitted: load it, predict images, write the predictions of many images to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repre.api.arguments import PathLike, as_data, as_output, build_config, led_by_rank_0

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repre.data.io.file_choice import FileChoice
    from repre.evaluation.fitted.fitted_model import FittedModel, PredictOptions
    from repre.evaluation.fitted.prediction_files import Predictions


def load_model(path: PathLike) -> FittedModel:
    """Loads a model that `evaluate` fitted: encoder, head and preprocessing, in evaluation mode.

        model = repre.load_model("runs/photos/evaluations/linear-1f0c2a9b3d4e.json")
        model.predict("photo.jpg")[0].labels[0]

    Loading runs no code from the files.

    Args:
        path: the result of "linear", "finetune", "segment" or "detect", or the folder of the same name.

    Returns:
        A model whose `predict` takes images of any kind and returns `Classes`, `Masks`, `DepthMap` or `Boxes`, and whose
        `forward` maps normalized pixels to tensors.

    Raises:
        UserError: there is no model, or a file is damaged or of a newer version.
    """
    from repre.evaluation.fitted.fitted_folder import load_fitted

    return load_fitted(Path(path))


@led_by_rank_0
def predict(
    model: PathLike,
    images: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    choice: FileChoice | None = None,
    config: PredictOptions | None = None,
    **settings: Any,
) -> Predictions:
    """Predicts many images and writes the predictions to a folder. Call it again to resume after an interruption.

        repre.predict("runs/photos/evaluations/segment-1f0c2a9b3d4e", "photos/", out="predictions/", overlays=20)

    Classes become predictions.csv, masks a PNG for every image and predictions.csv with the share of every class, boxes
    predictions.json in COCO's format. Images that cannot be read are listed in unreadable.txt.

    Args:
        model: what `load_model` takes.
        images: a folder, image files, or anything else that `pretrain` takes as data.
        out: new folder, or one that an earlier call with the same model, images and settings began.
        choice: which files are used; None: all images.
        config: a `PredictOptions`; None uses the defaults.
        settings: fields of the config to replace: `top`, `threshold`, `overlays`, `runtime`.

    Raises:
        UserError: no such model or images, an unknown setting, or `out` holds something else.
        RunError: a worker process died, or the disk is full.
    """
    from repre.evaluation.fitted.fitted_model import PredictOptions
    from repre.evaluation.fitted.prediction_files import predict_files

    options = build_config(PredictOptions, config, settings, source="predict")
    return predict_files(Path(model), as_data(images), out=as_output(out), choice=choice, options=options)
