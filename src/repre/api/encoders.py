"""Use an encoder: load it, compute the features of many images, export it for other libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repre.api.arguments import PathLike, as_data, as_output, build_config, led_by_rank_0
from repre.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repre.data.io.file_choice import FileChoice
    from repre.evaluation.options import RuntimeOptions
    from repre.exporters import Exported
    from repre.models.encoder import Encoder


@dataclass(frozen=True)
class Embeddings:
    """A file of image features."""

    path: Path
    """The .npz or .parquet file."""
    count: int
    """Number of images in the file."""
    unreadable: Path | None
    """List of the files that could not be read; None if all could."""
    map: Path | None = None
    """CSV with coordinates, cluster and near-duplicates of every image; None if no map was asked for."""
    map_page: Path | None = None
    """The same as an HTML page with thumbnails that opens offline."""


def load_encoder(encoder: PathLike) -> Encoder:
    """Loads an encoder in evaluation mode.

        encoder = repre.load_encoder("runs/photos")
        images = encoder.transform()(["a.jpg", "b.jpg"])  # resized, cropped, normalized as `repre embed` does
        features = encoder(images)

    Args:
        encoder: a run, a checkpoint (also RUN@NAME), a folder written by `save_encoder`, a weights file, a timm name or
            random:NAME (see `repre.models.resolve`).

    Raises:
        UserError: there is no such encoder, or a run has no checkpoint yet.
    """
    from repre.models.resolve import resolve_encoder

    return resolve_encoder(str(encoder)).build().eval()


@led_by_rank_0
def embed(
    encoder: PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    out: PathLike = "features.npz",
    kind: Literal["pooled", "patch", "pyramid"] = "pooled",
    features: Literal["normed", "raw"] = "normed",
    size: int | tuple[int, int] | None = None,
    half: bool = False,
    value_range: tuple[float, float] | None = None,
    choice: FileChoice | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    runtime: RuntimeOptions | dict[str, Any] | None = None,
    map: Literal["auto", "umap", "pca"] | None = None,
    map_clusters: int = 20,
    map_duplicates: float = 0.98,
    map_thumbnails: int = 1000,
    seed: int = 0,
) -> Embeddings:
    """Computes the features of many images and writes them to a file. Call it again to resume after an interruption.

    Args:
        encoder: a run, a checkpoint, a weights file, a timm name or random:NAME (see `repre.models.resolve`).
        data: images, as for `pretrain`, one or several.
        choice: which files are used; None: all images.
        out: a .npz or .parquet file. It holds `paths` and `features` ([N, D] for pooled, [N, C, h, w] for patch), or
            `level_0`, `level_1`, ... for pyramid.
        kind: the pooled embedding, the last feature map, or the feature maps of all levels.
        features: maps after the encoder's final norm, or raw from its blocks.
        size: side of the images in pixels, or (height, width); None uses the encoder's own.
        half: store float16 instead of float32.
        value_range: pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type.
        mean, std: of every channel, instead of what the weights expect; both or neither.
        runtime: device, workers and batch size, as `RuntimeOptions` or as a dictionary of its fields.
        map: also write a map of the images next to `out`, as CSV and as a page: "umap", "pca", or "auto" for UMAP if it is
            installed; None writes no map.
        map_clusters: number of clusters.
        map_duplicates: cosine of centered features from which two images are near-duplicates.
        map_thumbnails: largest number of thumbnails on the page.
        seed: of the map.

    Raises:
        UserError: no such encoder or images, no readable image, or `out` cannot be written.
    """
    from repre.evaluation.options import RuntimeOptions
    from repre.exporters import data_map, embeddings

    path = as_output(out)
    options = None
    if map is not None:
        options = data_map.MapOptions(
            method=map, clusters=map_clusters, duplicate_cosine=map_duplicates, thumbnails=map_thumbnails, seed=seed
        )
    count = embeddings.embed(
        str(encoder),
        data=as_data(data),
        choice=choice,
        out=path,
        kind=kind,
        features=features,
        size=size,
        half=half,
        value_range=value_range,
        mean=mean,
        std=std,
        runtime=build_config(RuntimeOptions, runtime, {}, source="runtime"),
        data_map=options,
    )
    table, page = data_map.map_files(path) if options is not None else (None, None)
    unreadable = path.with_name(f"{path.name}.unreadable.txt")
    return Embeddings(path, count, unreadable if unreadable.is_file() else None, table, page)


def export(
    encoder: PathLike | None = None,
    *,
    model: PathLike | None = None,
    to: str | None = None,
    out: PathLike | None = None,
    size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Exported:
    """Exports an encoder, or a fitted model with its head, and compares what the other library computes.

    Args:
        encoder: what `embed` accepts.
        model: what `load_model` accepts, instead of an encoder.
        to: "timm" (the default), "huggingface", "onnx" or "torch-export"; of a model "onnx" (the default) or "torch-export".
        out: new folder; by default exports/TO in the folder of the run or next to the model, or in the current folder.
        size: of the images that an exported encoder takes, in pixels, or (height, width); None: that of its training.
        mean, std: of every channel, instead of what the weights expect; both or neither.

    Raises:
        UserError: no such encoder, model or target, a library is missing, or `out` holds other files.
        RunError: the exported program computes something else; the export is removed.
    """
    from repre import exporters

    if (encoder is None) == (model is None):
        raise UserError("export needs either an encoder (--encoder) or a fitted model (--model)")
    if model is not None:
        if size is not None or mean is not None or std is not None:
            raise UserError("--size, --mean and --std are only for --encoder: a fitted model keeps its own")
        from repre.evaluation.fitted.fitted_folder import model_folder

        to = to or "onnx"
        beside = model_folder(Path(model)).parent
        return exporters.export_fitted(
            Path(model), to=to, out=beside / "exports" / to if out is None else as_output(out)
        )
    to = to or "timm"
    parent = Path(str(encoder)) if Path(str(encoder)).is_dir() else Path()
    folder = parent / "exports" / to if out is None else as_output(out)
    return exporters.export(str(encoder), to=to, out=folder, size=size, mean=mean, std=std)
