"""Start weights of an encoder: reads files of any origin, converts their names and shapes, and fits them to a model."""

import contextlib
import inspect
import json
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from repre.errors import UserError
from repre.models.timm_model import first_line
from repre.utils.safe_load import UNREADABLE, load_tensors

WRAPPER_KEYS = ("state_dict", "model", "encoder", "teacher", "student", "module")
"""Keys under which training scripts store the weights of a model; the first that a file has counts."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "backbone.", "base_encoder.", "encoder.", "model.")
"""Prefixes that wrappers put before the names of an encoder's parameters; names without the prefix are other parts."""


def load_start_weights(model: Any, path: Path, *, name: str, allow_partial: bool = False) -> None:
    """Loads start weights into a timm model.

    timm renames old keys, resamples position embeddings and patch kernels, and adapts the input channels. Classifier
    heads in the file are ignored.

    Args:
        model: the timm model.
        path: see `read_weights`.
        name: of the model, for messages.
        allow_partial: load what fits, with a warning, when names or shapes differ.

    Raises:
        UserError: the file cannot be read, or does not match the model.
    """
    own = model.state_dict()
    state = _fit_to_model(model, read_weights(path, model_keys=own), path)
    heads = tuple(
        f"{head}." for head in ("head", "fc", "head_dist", *_as_tuple(model.pretrained_cfg.get("classifier")))
    )
    state = {key: value for key, value in state.items() if key in own or not key.startswith(heads)}
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshapen = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or unexpected or misshapen:
        differences = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("not in the model", unexpected), ("of another shape", misshapen))
            if keys
        )
        if not allow_partial or len(missing) + len(misshapen) == len(own):
            raise UserError(
                f"encoder.weights {path} does not match {name}: {differences}; set encoder.name to the model of the "
                "file, or set encoder.allow_partial (--encoder.allow-partial) to load the parameters that fit"
            )
        warnings.warn(f"encoder.weights {path}: loaded in part; {differences}", stacklevel=3)
    fitting = {key: value for key, value in state.items() if key in own and key not in misshapen}
    model.load_state_dict(fitting, strict=False)


def read_weights(path: Path, *, model_keys: Iterable[str] = ()) -> dict[str, Tensor]:
    """Reads the tensors of a file, without the keys and prefixes that wrappers add.

    Args:
        path: a .safetensors or .pth file, the folder of a saved encoder, or the folder of a run that has one.
        model_keys: names of the model's parameters; a prefix that they have too is not a wrapper's.

    Raises:
        UserError: there is no such file, it is damaged, or it holds no tensors.
    """
    path = weights_file(path)
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"encoder.weights: {path} cannot be read as weights: it is damaged, or it holds more than tensors. Other "
            "objects are never unpickled, since that runs their code. Save the state_dict alone, as .safetensors"
        ) from error
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"encoder.weights: {path} cannot be read as weights ({first_line(error)}); give a .safetensors or .pth file"
        ) from error
    while isinstance(state, dict) and (inner := [state[k] for k in WRAPPER_KEYS if isinstance(state.get(k), dict)]):
        state = inner[0]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(
            f"encoder.weights: {path} holds no tensors, neither at its top nor under {', '.join(WRAPPER_KEYS)}; save the "
            "model's state_dict"
        )
    while prefix := next(
        (p for p in WRAPPER_PREFIXES if _any_starts_with(tensors, p) and not _any_starts_with(model_keys, p)), None
    ):
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors


def weights_file(path: Path) -> Path:
    """The weights file that a path names: the file itself, or that inside a saved encoder's or a run's folder.

    Raises:
        UserError: there is no such file.
    """
    if path.is_dir():
        candidates = [path / "encoder" / "model.safetensors", path / "model.safetensors"]
        path = next((file for file in candidates if file.is_file()), candidates[0])
    if not path.is_file():
        raise UserError(
            f"encoder.weights: there is no file {path}; give a weights file or the folder of a finished run"
        )
    return path


def _fit_to_model(model: Any, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Converts names and shapes with timm's own functions; what timm does not know stays as it is."""
    own = model.state_dict()
    if own.keys() == state.keys() and all(own[key].shape == value.shape for key, value in state.items()):
        return state
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # only saved encoders have this file
        saved_config = json.loads(weights_file(path).with_name("config.json").read_text(encoding="utf-8"))
        model.pretrained_model_args = dict(saved_config["model_args"])  # tells timm a position grid that is not square
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is not None:
        with contextlib.suppress(KeyError, RuntimeError, AssertionError, IndexError, AttributeError):  # another model
            state = convert(dict(state), model)
    state = dict(state)
    for layer in _as_tuple(model.pretrained_cfg.get("first_conv")):
        key = f"{layer}.weight"
        kernel, channels = state.get(key), own[key].shape[1]
        if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 3 and channels != 3:
            state[key] = adapt_input_conv(channels, kernel)
    return state


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """timm's configs give one name, several or none."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def _any_starts_with(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
