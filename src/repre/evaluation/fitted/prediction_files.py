"""Predicts many images into a folder (`repre predict`), in parts: the same call again continues after the finished ones.

predictions/predict.json        model, images and settings; `predicted` is null until all is done
            predictions.csv     or predictions.json for boxes
            masks/, depth/      a file for every image
            overlays/           some images with their masks or boxes
            unreadable.txt      images that cannot be read, with the reason
            .parts/             what is finished, until all is
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repre import __version__
from repre.config_values import differences
from repre.data.io.decode import UnreadableImage
from repre.data.io.file_choice import FileChoice
from repre.data.io.frame_notes import describe_several
from repre.data.io.image_files import FileSource
from repre.data.io.sources import Source
from repre.data.labels.splits import source_identity
from repre.errors import RunError, UserError
from repre.evaluation.fitted.fitted_folder import fingerprint, load_fitted, model_folder
from repre.evaluation.fitted.fitted_model import FittedModel, PredictOptions
from repre.evaluation.fitted.output_names import output_names
from repre.evaluation.fitted.prediction_images import Predicted, open_images, stream
from repre.evaluation.share_check import check_image_is_shared, readable_image
from repre.utils.device import pick_device
from repre.utils.folder_lock import writing
from repre.utils.io import write_atomically, write_json
from repre.utils.os_errors import reason_of
from repre.utils.printable_text import say
from repre.utils.together import my_share, together

FORMAT = 1
"""Version of the folder's layout."""
PER_PART = 256
"""Images that may have to be predicted again after an interruption."""
SETTINGS, OVERLAYS, UNREADABLE, PARTS = "predict.json", "overlays", "unreadable.txt", ".parts"


@dataclass(frozen=True)
class Predictions:
    """A folder of predictions."""

    path: Path
    """The file with all predictions: predictions.csv, or predictions.json for boxes."""
    count: int
    """Number of images that were predicted."""
    unreadable: Path | None
    """List of the images that could not be read; None if all could."""


def predict_files(
    model: Path,
    data: str | Sequence[str],
    *,
    out: Path,
    choice: FileChoice | None = None,
    options: PredictOptions | None = None,
    per_part: int = PER_PART,
    log: Callable[[str], object] = say,
) -> Predictions:
    """Predicts all images of `data` and writes the predictions to a folder. Call it again to resume.

    A killed call that is given again ends with the files of one that was never killed. Options of the runtime may change
    between two calls; they change predictions by rounding alone.

    Args:
        model: a folder that an evaluation wrote, see `load_fitted`.
        data: images, as for `repre pretrain --data`, or image files.
        out: new or empty folder, or one that an earlier call with the same model, images and settings began.
        choice: which files are used; None: all images.
        per_part: images per part.
        log: prints a message for the user.

    Raises:
        UserError: no such model or images, no image can be read, `out` holds something else, or another process writes it.
        RunError: a worker process died, or the disk is full.
    """
    options = options or PredictOptions()
    fitted = load_fitted(model)
    source = open_images(fitted, data, choice=choice)
    _refuse_out_among_images(out, data)
    settings = {
        "format": FORMAT,
        "repre": __version__,
        "task": fitted.task,
        "model": fingerprint(model_folder(model)),
        "images": source_identity(source),
        "count": len(source),
        "per_part": per_part,
        "options": {name: value for name, value in asdict(options).items() if name != "runtime"},
    }
    with writing(out):
        predicted = _check_out(out, settings)
        if predicted is not None:
            log(f"{out} is already complete")
        else:
            pick_device(options.runtime.device)  # its mistakes come before anything is written
            try:
                (out / PARTS).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--out {out} cannot be written ({reason_of(error)}); name another folder") from error
            log(f"model: {fitted.measured}")
            write_json(out / SETTINGS, settings | {"predicted": None})
            parts = _Parts(out / PARTS, total=len(source), per_part=per_part)
            try:
                together(
                    pick_device(options.runtime.device),
                    _predict,
                    fitted,
                    source,
                    parts,
                    parts.missing(),
                    out,
                    options,
                    shared=readable_image(source),
                )
                predicted = _finish(fitted, parts, out, options, log)
            except OSError as error:
                raise RunError(f"--out {out} cannot be written ({reason_of(error)})") from error
            write_json(out / SETTINGS, settings | {"predicted": predicted})
        shutil.rmtree(out / PARTS, ignore_errors=True)
    unreadable = out / UNREADABLE
    return Predictions(out / fitted.file_name, predicted, unreadable if unreadable.is_file() else None)


def _check_out(out: Path, settings: dict[str, Any]) -> int | None:
    """Refuses a folder of other content. Returns the number of predicted images if the folder is complete, else None."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    path = out / SETTINGS
    if not path.is_file():
        raise UserError(f"--out {out} exists and holds no predictions; name a new folder")
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        predicted = earlier.pop("predicted")
        if predicted is not None and not isinstance(predicted, int):
            raise ValueError("predicted is not a number")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); name a new folder with --out") from error
    lines = differences(settings, earlier)
    if lines:
        said = {"model": "another model", "images": "other images"}
        reasons = [said.get(line.partition(":")[0], line) for line in lines]
        raise UserError(f"--out {out} holds other predictions ({'; '.join(reasons)}); name a new folder")
    return predicted


def _refuse_out_among_images(out: Path, data: Any) -> None:
    """Refuses a folder inside that of the images: what is written there would count as images in the next call."""
    for place in data if isinstance(data, list | tuple) else [data]:
        folder = Path(place) if isinstance(place, str | Path) else None
        if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--out {out} is inside the folder of the images, {folder}, where masks and pictures would count as "
                "images; name a folder elsewhere"
            )


class _Parts:
    """What is finished: a file of rows for every `per_part` images."""

    def __init__(self, folder: Path, *, total: int, per_part: int) -> None:
        self.folder, self.total, self.per_part = folder, total, per_part
        self.count = -(-total // per_part)

    def missing(self) -> list[int]:
        """The unfinished parts."""
        return [number for number in range(self.count) if not self._path(number).is_file()]

    def images(self, numbers: Iterable[int]) -> list[int]:
        """The images of some parts."""
        return [index for number in numbers for index in self._range(number)]

    def write(self, number: int, content: dict[str, list[Any]]) -> None:
        """Marks a part as finished."""
        write_json(self._path(number), content)

    def all(self, key: str) -> Iterator[Any]:
        """Yields the entries of all parts: `rows`, `failures` or `several`."""
        for number in range(self.count):
            yield from json.loads(self._path(number).read_text(encoding="utf-8"))[key]

    def is_last(self, index: int) -> bool:
        """Whether an image is the last of its part."""
        return index == self.total - 1 or (index + 1) % self.per_part == 0

    def _range(self, number: int) -> range:
        return range(number * self.per_part, min((number + 1) * self.per_part, self.total))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def _predict(
    model: FittedModel,
    source: Source,
    parts: _Parts,
    missing: list[int],
    out: Path,
    options: PredictOptions,
    *,
    shared: int | None,
) -> None:
    """Predicts the images of parts; of several ranks, each does its share.

    Args:
        missing: the parts.
        shared: an image that rank 0 can read.

    Raises:
        UserError: a rank does not see the images or the parts, because it has another disk.
    """
    rank, ranks = my_share()
    if not parts.folder.is_dir():
        raise UserError(f"rank 0 writes to {out}, which rank {rank} does not see: --out must be on a shared disk")
    check_image_is_shared(source, shared)
    total, waiting = len(source), parts.images(missing[rank::ranks])
    names = source.files.names if isinstance(source, FileSource) else [source.describe(i) for i in range(total)]
    drawn = _spread(total, total if options.overlays == -1 else options.overlays) if model.is_drawn else set()
    own_names = model.files_per_image or bool(drawn)
    files = output_names(names[index] for index in range(total)) if own_names else None
    content: dict[str, list[Any]] = {"rows": [], "failures": [], "several": []}

    def take(image: Predicted) -> None:
        index = image.read.number
        if image.failure is not None:
            content["failures"].append(list(image.failure))
            return
        file = "" if files is None else files[index]
        content["rows"].append(model.write(image.prediction, file, out, options) | {"name": names[index]})
        if image.read.several_frames:
            content["several"].append(image.prediction.name)
        if index in drawn:
            _draw(model, source, image, out / OVERLAYS / f"{file}.png", options)

    for image in stream(model, source, options=options, indices=waiting, part=parts.per_part):
        take(image)
        if parts.is_last(image.read.number):
            parts.write(image.read.number // parts.per_part, content)
            content = {"rows": [], "failures": [], "several": []}


def _spread(total: int, count: int) -> set[int]:
    """`count` of `total` numbers, evenly spread."""
    return set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())


def _draw(model: FittedModel, source: Source, image: Predicted, path: Path, options: PredictOptions) -> None:
    try:
        pixels = source.load(image.read.number)
    except UnreadableImage:  # it has vanished since it was predicted
        return
    sheet = model.draw(pixels, image.prediction, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: sheet.save(file, format="png"))


def _finish(model: FittedModel, parts: _Parts, out: Path, options: PredictOptions, log: Callable[[str], object]) -> int:
    """Writes the file of all predictions and the list of unreadable images; returns the number of predicted images."""
    failures = list(parts.all("failures"))
    count = sum(1 for _ in parts.all("rows"))
    if not count:
        for name in (PARTS, OVERLAYS):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / SETTINGS).unlink()
        out.rmdir()
        name, reason = failures[0]
        raise UserError(f"none of {len(failures)} images can be read; the first: {name}: {reason}")
    model.join(lambda: parts.all("rows"), out, options)
    if failures:
        listing = "".join(f"{name}\t{reason}\n" for name, reason in failures).encode("utf-8", "surrogateescape")
        write_atomically(out / UNREADABLE, lambda file: file.write(listing))
    if several := list(parts.all("several")):
        log(describe_several(len(several), several[0]))
    return count
