"""Files of weights: which file a name stands for, what it holds, and what is known about the model it belongs to.

The one rule for weights that repre wrote, wherever they are named: a run stands for the encoder that it exports, which is
the teacher's where the framework prefers it, else the student's; so does every checkpoint of it.

runs/photos                              encoder/ of a finished run, else the last checkpoint
runs/photos@best, .../checkpoints/best.pt  one checkpoint
runs/photos/encoder                      a folder with model.safetensors or pytorch_model.bin
dino_vits16.pth                          any other file; see `repre.models.weight_parts`
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors.torch import load_file
from torch import Tensor

from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.models.timm_model import first_line, published_statistics
from repre.models.weight_parts import flatten
from repre.training.checkpoint import check_content, checkpoint_file
from repre.utils.os_errors import reason_of
from repre.utils.safe_load import UNREADABLE, load_tensors

IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of repre, timm or transformers, which the config.json beside them describes."""
TEACHER_PART, STUDENT_PART = "framework.teacher.encoder", "encoder"
WITH_TEACHER = ("dino", "dinov2")
"""Frameworks that export the teacher, for checkpoints from before these said which encoder their run exports."""
NO_WEIGHTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights: run git lfs pull where the file comes from",
    b"<": "is a web page or XML, not weights: download the file itself, in a browser if it needs a login",
    b"{": "is JSON, not weights: give the .safetensors or .pth file",
    b"\x89HDF": "is HDF5, as Keras writes: give weights of PyTorch, as .safetensors or .pth",
}
"""First bytes of files that are often taken for weights, and what to say about them."""
NO_WEIGHTS_ENDINGS = {
    ".npz": "convert it first: torch.save(timm.create_model(NAME, checkpoint_path=FILE).state_dict(), 'weights.pth')",
    ".onnx": "it is a program; give the .safetensors or .pth file that it was made from",
    ".gguf": "its weights are quantized; give the .safetensors or .pth file that it was made from",
}


class PixelStatistics(NamedTuple):
    """The pixel values that an encoder expects; None where nothing says."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel, which normalization subtracts."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, which normalization divides by."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stood for 0 and 1."""


@dataclass(frozen=True)
class DescribedModel:
    """What is written about the model of a file of weights, beside it or in it; empty where nothing is."""

    name: str = ""
    """Its timm architecture."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """That timm creates it with."""
    heads: int | None = None
    """Attention heads of every block, where no architecture is named."""
    pixels: PixelStatistics = field(default_factory=PixelStatistics)
    """The pixel values that it expects."""

    def as_options(self) -> str:
        """Options of `repre pretrain` for an encoder like this one; empty where it is not known."""
        if not self.name:
            return ""
        arguments = dict(self.arguments)
        options = [f"--encoder.name {self.name}"]
        if (patch := arguments.pop("patch_size", None)) is not None:
            options.append(f"--encoder.patch-size {_words(patch)}")
        set_elsewhere = ("img_size", "in_chans", "dynamic_img_size", "strict_img_size", "num_classes")
        options += [
            f"--encoder.model-args.{key.replace('_', '-')} {_words(value)}"
            for key, value in arguments.items()
            if key not in set_elsewhere
        ]
        return " ".join(options)


@dataclass(frozen=True)
class FoundWeights:
    """The content of a file of weights."""

    path: Path
    """The file."""
    tensors: dict[str, Tensor]
    """By their names; those in nested dictionaries by their keys joined with dots. Of a checkpoint of repre only those of
    the encoder that its run exports."""
    which: str
    """Whose they are, if repre wrote them: the teacher's or the student's."""
    model: DescribedModel
    """What is known about the model."""


def weights_file(spec: str | Path, *, setting: str = "encoder.weights") -> Path:
    """The file that a name stands for, in one of the ways at the top of this file.

    Args:
        setting: that names it, for messages.

    Raises:
        UserError: there is no such file.
    """
    try:
        named = checkpoint_file(str(spec))
        named.is_file()
    except (OSError, ValueError) as error:  # no name of a file: too long, a null byte; or no permission
        raise UserError(
            f"{setting} {str(spec)[:200]!r} cannot be opened: {reason_of(error)}; name another file"
        ) from error
    path = named
    if path.is_dir():
        folders = [folder for folder in (path / "encoder", path) if (folder / "config.json").is_file()]
        candidates = [folder / name for folder in (*folders, path) for name in IN_FOLDERS]
        candidates.append(path / "checkpoints" / "last.pt")
        path = next((file for file in candidates if file.is_file()), path)
        if path == named and (named / "config.yaml").is_file():
            raise UserError(
                f"{setting} {spec}: the run has no checkpoint yet; resume it first: repre pretrain --resume {named}"
            )
        if path == named:
            raise UserError(
                f"{setting} {spec}: the folder holds neither a run nor an encoder (model.safetensors); give a run's --out "
                "folder, or a file of weights"
            )
    if path.is_file():
        return path
    if named != Path(spec).expanduser():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.pt")))
        raise UserError(f"{setting} {spec}: there is no checkpoint {path}; the run has {there or 'none yet'}")
    raise UserError(f"{setting} {spec}: there is no file {path}; give a file of weights, a run's folder, or RUN@NAME")


def read_weights(spec: str | Path) -> FoundWeights:
    """Reads the weights that a name stands for; runs no code from the file.

    Raises:
        UserError: there is no such file, it is damaged, or it holds no weights.
    """
    path = weights_file(spec)
    content = read_content(path)
    if is_own_checkpoint(content):
        check_content(content, path)
        part = exported_part(content)
        stored = content.get("model")
        if stored is not None:
            prefix = f"{part}."
            stored = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        else:
            stored = content["encoder"]
        which = owner(part) if "model" in content else owner_of(run_settings(path))
        config = content.get("config") or run_settings(path)
        return FoundWeights(path, flatten({"encoder": stored}), which, _describe_run(config))
    tensors = flatten(content)
    if not tensors:
        raise UserError(f"encoder.weights: {path} holds no tensors; save the model's state_dict")
    which = ""
    if path.parent.name == "encoder" and (settings := run_settings(path)):
        which = owner_of(settings)
    return FoundWeights(path, tensors, which, describe_model(path))


def exported_part(checkpoint: Mapping[str, Any]) -> str:
    """The name of the encoder that the run of a whole checkpoint exports, as a module of the model."""
    return str(checkpoint.get("exported") or _exported_by(checkpoint.get("config") or {}))


def describe_model(path: Path) -> DescribedModel:
    """What a config.json beside a file says about its model, or the run of a checkpoint."""
    if path.suffix == ".pt" and (settings := run_settings(path)):
        return _describe_run(settings)
    if path.name not in IN_FOLDERS:
        return DescribedModel()
    config = _read_json(path.with_name("config.json"))
    heads = config.get("num_attention_heads")
    if "architecture" not in config:
        size = {"img_size": config["image_size"]} if "image_size" in config else {}
        pixels = _read_json(path.with_name("preprocessor_config.json"))
        statistics = PixelStatistics(*_pair(pixels.get("image_mean"), pixels.get("image_std")))
        return DescribedModel("", size, heads if isinstance(heads, int) else None, statistics)
    arguments, cfg, own = config.get("model_args"), config.get("pretrained_cfg"), config.get("repre")
    cfg = cfg if isinstance(cfg, dict) else {}
    value_range = own.get("value_range") if isinstance(own, dict) else None
    statistics = PixelStatistics(*_pair(cfg.get("mean"), cfg.get("std")), tuple(value_range) if value_range else None)
    return DescribedModel(
        str(config["architecture"]), arguments if isinstance(arguments, dict) else {}, None, statistics
    )


def statistics_of(weights: str, name: str) -> tuple[PixelStatistics, str]:
    """The pixel values that weights expect, and who says so, in words.

    Args:
        weights: a name for `weights_file`, or `hub`.
        name: of the timm model; a tag in it says which published weights a file holds.

    Raises:
        UserError: there are no such weights, or timm has no such model.
    """
    if weights == "hub":
        return PixelStatistics(*published_statistics(name)), "timm's, for these weights"
    path = weights_file(weights)
    if (found := describe_model(path).pixels).mean is not None:
        where = "of its run" if path.suffix == ".pt" else "in the configuration next to the weights"
        return found, where
    if path.suffix == ".pt" and is_own_checkpoint(content := read_content(path)) and "config" in content:
        return _describe_run(content["config"]).pixels, "of its run"
    if "." in name:
        return PixelStatistics(*published_statistics(name)), f"timm's, for the tag in {name}"
    mean, std = published_statistics(name)
    usual, spread = (tuple(values.flatten().tolist()) for values in ViewsConfig().statistics(3))
    if not _close(mean, usual) or not _close(std, spread):
        return PixelStatistics(), (
            f"ImageNet's, since the file names none; timm's own weights of {name} expect mean {numbers_in_words(mean)} "
            f"and std {numbers_in_words(std)}"
        )
    return PixelStatistics(), "ImageNet's, since the file names none"


# ------------------------------------------------------------------------------------------------------- reading files


def read_content(path: Path) -> Any:
    """The content of a file: nested dictionaries and lists of tensors and plain values.

    Raises:
        UserError: it is damaged, or holds other objects or no weights.
    """
    if path.suffix.lower() in NO_WEIGHTS_ENDINGS:
        raise UserError(f"encoder.weights: {path} cannot be read: {NO_WEIGHTS_ENDINGS[path.suffix.lower()]}")
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip()
        if not start:
            raise UserError(f"encoder.weights: {path} is empty; copy or download it again")
        for sign, words in NO_WEIGHTS.items():
            if start.startswith(sign):
                raise UserError(f"encoder.weights: {path} {words}")
        return load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"encoder.weights: {path} cannot be read as weights: it is damaged, or it holds more than tensors. Other "
            "objects are never unpickled, since that runs their code. Save the state_dict alone, as .safetensors"
        ) from error
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"encoder.weights: {path} cannot be read as weights ({first_line(error)}); it may be cut short: copy or "
            "download it again, as a .safetensors or .pth file"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """What timm, transformers and `save_encoder` write beside weights; empty where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# ------------------------------------------------------------------------------------------------- checkpoints of repre


def is_own_checkpoint(content: Any) -> bool:
    """Whether `save_checkpoint` wrote this: a whole checkpoint, or one that holds an encoder only."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        return False
    return isinstance(content.get("encoder" if "model" not in content else "model"), dict)


def _exported_by(settings: Mapping[str, Any]) -> str:
    """The encoder that a run exports by the name of its framework."""
    framework = settings.get("framework")
    name = framework.get("name") if isinstance(framework, dict) else None
    return TEACHER_PART if name in WITH_TEACHER else STUDENT_PART


def owner(part: str) -> str:
    """Whose encoder a module of a run's model is, in words."""
    return "the student's" if part == STUDENT_PART else "the teacher's" if "teacher" in part else f"{part}'s"


def owner_of(settings: Mapping[str, Any]) -> str:
    """Whose encoder a run exports, by its settings, in words."""
    return owner(_exported_by(settings))


def run_settings(file: Path) -> dict[str, Any]:
    """The config.yaml of the run that a checkpoint or a saved encoder lies in, as plain values; empty without one."""
    try:
        content = yaml.safe_load((file.parent.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _describe_run(settings: Mapping[str, Any]) -> DescribedModel:
    """The encoder of a run by its settings, as plain values."""
    encoder, views = settings.get("encoder"), settings.get("views")
    if not isinstance(encoder, dict) or not isinstance(views, dict) or "name" not in encoder:
        return DescribedModel()
    arguments = dict(encoder.get("model_args") or {})
    if encoder.get("patch_size") is not None:
        arguments["patch_size"] = encoder["patch_size"]
    arguments["img_size"] = views.get("size", 224)
    mean, std = _pair(views.get("mean"), views.get("std"))
    if mean is None:
        channels = encoder.get("channels", 3)
        mean, std = (tuple(values.flatten().tolist()) for values in ViewsConfig().statistics(channels))
    value_range = views.get("value_range")
    pixels = PixelStatistics(mean, std, tuple(value_range) if value_range else None)
    return DescribedModel(str(encoder["name"]), arguments, None, pixels)


def _pair(mean: Any, std: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation where both are given."""
    return (tuple(mean), tuple(std)) if mean and std else (None, None)


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))


def numbers_in_words(values: tuple[float, ...]) -> str:
    """Numbers of channels for a message, such as ``0.5 0.5 0.5``."""
    return " ".join(f"{value:g}" for value in values)


def _words(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)
