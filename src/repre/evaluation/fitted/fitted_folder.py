"""A folder with a fitted model: ``model.safetensors`` (encoder and head) and ``config.json``; loading runs no code from it.

runs/photos/evaluations/linear-1f0c2a9b3d4e.json
runs/photos/evaluations/linear-1f0c2a9b3d4e/model/model.safetensors
                                                  config.json        task, classes, encoder, head, preprocessing
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from repre import __version__
from repre.config_values import from_dict, to_dict
from repre.errors import RunError, UserError, near_names
from repre.evaluation.fitted.fitted_model import LARGEST_SIDE, FittedModel
from repre.evaluation.fitted.fitted_tasks import TASKS
from repre.evaluation.metric_units import describe_value
from repre.models.encoder import Encoder, EncoderConfig
from repre.utils.config_checks import check_fields
from repre.utils.io import new_folder, write_atomically, write_json
from repre.utils.os_errors import reason_of
from repre.utils.safe_load import UNREADABLE

FORMAT = 1
"""Version of the folder's layout."""
MODEL = "model"
"""Name of the folder beside a result."""
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The evaluation that fitted a model."""

    evaluation: str
    """Its name, such as `linear`."""
    result: str
    """File name of its result."""
    encoder_weights: str
    """SHA-256 of the file of the encoder's weights before the evaluation, `hub` or `random`."""
    metric: str
    """Name of the main metric."""
    value: float
    """Its value on the test images."""


@dataclass(frozen=True, kw_only=True)
class FittedConfig:
    """The content of ``config.json``, but for `head` and `preprocessing`, which belong to the task."""

    format: int
    """Version of the layout."""
    repre: str
    """Version of this package that wrote the folder."""
    task: str
    """A name of `TASKS`."""
    classes: tuple[str, ...]
    """Names of the classes; none for depth."""
    batch: int
    """Images at once in the evaluation."""
    encoder: EncoderConfig
    """Architecture of the encoder, without start weights."""
    origin: Origin
    """Where the model comes from."""
    sha256: str
    """Hash of model.safetensors."""

    def __post_init__(self) -> None:
        check_fields(self, "config")
        if len(self.classes) > MOST_CLASSES:
            raise UserError(f"classes: there must be at most {MOST_CLASSES}, not {len(self.classes)}")
        if not 1 <= self.batch <= LARGEST_SIDE:
            raise UserError(f"batch must be 1 to {LARGEST_SIDE}, not {self.batch}")
        if self.encoder.weights is not None:
            raise UserError("encoder.weights must be null: the weights are in model.safetensors")


def save_fitted(model: FittedModel, folder: Path, origin: Origin) -> None:
    """Writes a model to a folder; a reader sees the old folder, none, or the new one as a whole.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    try:
        with new_folder(folder) as partial:
            _write(model, partial, origin)
    except OSError as error:
        raise RunError(f"the fitted model cannot be written to {folder} ({reason_of(error)})") from error


def _write(model: FittedModel, folder: Path, origin: Origin) -> None:
    encoder = model.encoder
    weights: dict[str, Tensor] = {}
    for name, value in model.network.state_dict().items():
        value = value.detach().cpu().contiguous()
        shared = any(value.data_ptr() == other.data_ptr() for other in weights.values())
        weights[name] = value.clone() if shared else value  # the format refuses tensors that share memory
    write_atomically(folder / "model.safetensors", lambda file: file.write(save(weights)))
    config = FittedConfig(
        format=FORMAT,
        repre=__version__,
        task=model.task,
        classes=tuple(model.classes),
        batch=model.batch,
        encoder=replace(
            encoder.config,
            image_size=encoder.image_size,
            out_indices=tuple(encoder.out_indices),
            weights=None,
            init="timm",
            drop_path=0.0,
            allow_partial=False,
            grad_checkpointing=False,
            freeze_patch_embed=False,
        ),
        origin=origin,
        sha256=_sha256(folder / "model.safetensors"),
    )
    parts = {"head": to_dict(model.head), "preprocessing": to_dict(model.preprocessing)}
    write_json(folder / "config.json", to_dict(config) | parts)


def load_fitted(path: Path) -> FittedModel:
    """Loads a fitted model in evaluation mode, on the CPU.

    Args:
        path: the folder that `save_fitted` wrote, the result beside it (.json), or the folder of the result's name.

    Raises:
        UserError: there is no model, or a file is damaged, of a newer version, or holds something else.
    """
    folder = model_folder(path)
    content = _read_config(folder)
    source = str(folder / "config.json")
    if content.get("format") != FORMAT:
        version = content.get("format")
        newer = isinstance(version, int) and version > FORMAT
        raise UserError(
            f"{source} has format {version!r}, this version of repre reads {FORMAT}" + "; upgrade repre" * newer
        )
    head, preprocessing = content.pop("head", None), content.pop("preprocessing", None)
    config: FittedConfig = _parse(FittedConfig, content, source)
    if config.task not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(f"{source}: no task {config.task!r}{near_names(config.task, TASKS)}; there are {known}")
    task = TASKS[config.task]
    if bool(config.classes) != task.has_classes:
        raise UserError(f"{source}: classes has {len(config.classes)} names, which does not fit the task {config.task}")
    head = _parse(task.Head, head, source, "head")
    preprocessing = _parse(task.Preprocessing, preprocessing, source, "preprocessing")
    weights = _read_weights(folder, config)
    try:
        _check_encoder(config.encoder, weights)
        encoder = Encoder(config.encoder)
        model = task.build(encoder, classes=config.classes, head=head, preprocessing=preprocessing, batch=config.batch)
        _check_shapes(model.network.state_dict(), weights)
    except UserError as error:
        raise UserError(f"{folder} holds a model that does not fit together: {error}") from error
    except UNREADABLE as error:
        raise UserError(
            f"{folder} holds a model that does not fit together ({type(error).__name__}: {error})"
        ) from error
    model.network.load_state_dict(weights)
    origin = config.origin
    model.measured = f"{origin.evaluation}, {origin.metric} {describe_value(origin.metric, origin.value)}"
    model.requires_grad_(False)
    return model.eval()


def model_folder(path: Path) -> Path:
    """The folder of a fitted model that a path names, see `load_fitted`.

    Raises:
        UserError: there is none.
    """
    path = path.expanduser()
    if path.suffix == ".json" and path.is_file() and path.name != "config.json":
        path = path.with_suffix("")
    candidates = [path, path / MODEL, path.parent if path.is_file() else path]
    for folder in candidates:
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    stem = path.with_suffix(".json")
    if stem.is_file():
        raise UserError(
            f"the model of {stem} was not saved (repre compare saves none); run `repre eval` to fit and save it"
        )
    models = sorted(str(folder.parent) for folder in path.glob(f"evaluations/*/{MODEL}"))
    if models:
        raise UserError(f"--model {path} holds several models or results; name one: {', '.join(models[:5])}")
    raise UserError(
        f"--model {path}: there is no fitted model; name the result of `repre eval linear`, finetune, segment, depth or "
        "detect: runs/NAME/evaluations/RESULT.json"
    )


def fingerprint(folder: Path) -> str:
    """Identity of a fitted model: the hash of its config, which holds the hash of its weights."""
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); evaluate again") from error
    if not isinstance(content, dict) or "task" not in content:
        raise UserError(
            f"{path} describes no fitted model; name the result of `repre eval linear` or another evaluation"
        )
    return content


def _parse(kind: type[Any], data: Any, source: str, name: str = "") -> Any:
    """Plain values of a config.json as a config; raises UserError, also if some are missing."""
    try:
        return from_dict(kind, data, source=source, name=name)
    except TypeError as error:
        raise UserError(f"{source} is damaged: {error}; evaluate again") from error


def _read_weights(folder: Path, config: FittedConfig) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    try:
        if _sha256(path) != config.sha256:
            raise UserError(f"{path} is damaged or belongs to another config.json: its hash differs; evaluate again")
        return load_file(path)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); evaluate again") from error


def _check_encoder(config: EncoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Refuses an encoder that is larger than its weights before memory is taken for it."""
    for name, value in config.model_args.items():
        blocks = value if isinstance(value, tuple) else (value,)
        if "depth" in name and sum(int(count) for count in blocks) > len(weights):
            raise UserError(f"encoder.model_args.{name} {value} is more than {len(weights)} tensors can be")
    with torch.device("meta"):
        expected = Encoder(config).model.state_dict()
    prefix = next((name.partition("encoder.model.")[0] for name in weights if "encoder.model." in name), "")
    part = f"{prefix}encoder.model."
    _check_shapes(expected, {name.removeprefix(part): value for name, value in weights.items() if part in name})


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuses weights of other names or shapes."""
    if missing := sorted({*expected} ^ {*found}):
        raise UserError(f"config.json and model.safetensors differ in {len(missing)} weights, such as {missing[0]}")
    for name, value in expected.items():
        if value.shape != found[name].shape:
            raise UserError(
                f"{name} has the shape {list(found[name].shape)}, but config.json gives {list(value.shape)}"
            )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
