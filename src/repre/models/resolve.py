"""Resolves any way to name an encoder: a run, a checkpoint, saved weights, a timm name, or a random init.

runs/photos                                a finished run, or one that has a checkpoint
runs/photos/checkpoints/best.pt            one checkpoint of a run
runs/photos@best, runs/photos@epoch-0010   the same, in short
encoder/ or encoder/model.safetensors      what `save_encoder` and `repre export` write
vit_small_patch16_224                      timm's published weights (also hub:vit_small_patch16_224)
vit_small_patch16_224=weights.pth          a timm model with weights from a file
vit_small_patch16_224[patch_size=8,allow_partial=True]=weights.pth    the same, with arguments
random:vit_small_patch16_224               the same model at random init
random:runs/photos                         the model of a run at random init: the baseline of pre-training
random:vit_tiny_patch16_224[patch_size=4,depth=6,embed_dim=192,image_size=(96,128)]
"""

import ast
import hashlib
import json
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from repre.config import RunConfig, load_yaml
from repre.config_values import from_dict, to_dict
from repre.data.views.geometry import Range
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.repre import RePre, build_model
from repre.models.timm_folder import save_encoder, saved_encoder_config
from repre.models.weight_files import (
    IN_FOLDERS,
    PixelStatistics,
    describe_model,
    exported_part,
    is_own_checkpoint,
    numbers_in_words,
    owner,
    owner_of,
    read_content,
    run_settings,
    statistics_of,
    weights_file,
)
from repre.models.weights import WeightsMismatch
from repre.training.checkpoint import check_content, checkpoint_file, load_checkpoint
from repre.utils.image_size import Size, height_and_width
from repre.utils.os_errors import reason_of
from repre.utils.printable_text import say

GIVEN = "as given"
"""What `ResolvedEncoder.of_pixels` says of a normalization that the user chose."""


@dataclass(frozen=True)
class ResolvedEncoder:
    """An encoder that is known but not built yet."""

    spec: str
    """The name that the user gave."""
    config: EncoderConfig
    """The encoder with its weights; `weights` None means random init."""
    folder: Path | None
    """Folder where results about the encoder are stored; None where it has no folder of its own."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that the encoder expects; None: the default."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel that the encoder expects; None: the default."""
    value_range: Range | None = None
    """Pixel values that stood for 0 and 1 in training; None where no range was declared."""
    epoch: float | None = None
    """Epochs that its run had done; None for an encoder that comes from no run."""
    which: str = ""
    """Whose weights they are, if a run of repre wrote them: the teacher's or the student's."""
    of_pixels: str = ""
    """Who says what `mean` and `std` are, in words; see `statistics_of`."""
    _told: list[str] = field(default_factory=list, compare=False, repr=False)
    """What was printed about it, so that building it again prints nothing."""
    step: int | None = None
    """Steps that its run had done; None where that is not known."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the encoder was trained at; None where only timm knows."""
        size = self.config.image_size
        return None if size is None else height_and_width(size)

    @property
    def fingerprint(self) -> str:
        """Identity of the weights: the SHA-256 of their file, `hub`, or `random`."""
        if self.config.weights is None:
            return "random"
        if self.config.weights == "hub":
            return "hub"
        with open(weights_file(self.config.weights), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def build(
        self,
        *,
        image_size: Size | None = None,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        seed: int = 0,
    ) -> Encoder:
        """Builds the encoder. The first time, prints which weights it took and how pixels are normalized.

        Args:
            image_size: another size; position embeddings are resampled to it.
            drop_path: stochastic depth rate.
            grad_checkpointing: recompute activations in the backward pass.
            seed: of the random init.

        Raises:
            UserError: see `Encoder`.
        """
        torch.manual_seed(seed)
        config = replace(self.config, drop_path=drop_path, grad_checkpointing=grad_checkpointing)
        try:
            encoder = Encoder(replace(config, image_size=image_size) if image_size is not None else config)
        except WeightsMismatch as error:
            raise UserError(f"encoder {self.spec}: {error.reason}; {self._fix(error)}") from error
        encoder.pixels = PixelStatistics(self.mean, self.std, self.value_range)
        self._tell(encoder)
        return encoder

    def normalized(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> "ResolvedEncoder":
        """The same encoder with another normalization, where one is given.

        Raises:
            UserError: `mean` and `std` are no normalization.
        """
        if mean is None and std is None:
            return self
        views = ViewsConfig(mean=mean, std=std)  # checks them
        return replace(self, mean=views.mean, std=views.std, of_pixels=GIVEN)

    def _fix(self, error: WeightsMismatch) -> str:
        """What to change where the weights do not fit, in the words of commands that name an encoder."""
        name, equals, file = self.spec.rpartition("]=" if "]=" in self.spec else "=")
        if not equals or not error.in_part:
            return error.fix
        arguments = f"{name}," if "[" in name else f"{name}["
        return (
            f"name the model of the file, with its sizes, as NAME[depth=...]={file}; to load the parameters that fit, write "
            f"'{arguments}allow_partial=True]={file}'"
        )

    def _tell(self, encoder: Encoder) -> None:
        report = encoder.load_report
        words = "random weights" if report is None else replace(report, which=self.which or report.which).words
        mean, std = (
            numbers_in_words(tuple(values.flatten().tolist()))
            for values in ViewsConfig(mean=self.mean, std=self.std).statistics(encoder.config.channels)
        )
        line = f"encoder {self.spec}: {words}; pixels with mean {mean} and std {std}"
        line += f" ({self.of_pixels})" if self.of_pixels else ""
        if line not in self._told:
            self._told.append(line)
            say(line)


def resolve_encoder(spec: str) -> ResolvedEncoder:
    """Finds the encoder that `spec` names, in one of the ways listed at the top of this file.

    Raises:
        UserError: there is no such encoder, or a folder on the way to it cannot be entered.
    """
    try:
        return _resolve(spec)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # no name of a file: too long, a null byte; or no permission
        raise UserError(f"encoder {spec[:200]!r} cannot be opened: {reason_of(error)}; name another encoder") from error


def _resolve(spec: str) -> ResolvedEncoder:
    if spec.startswith("random:"):
        return _resolve_random(spec)
    if spec.startswith("hub:"):
        return _resolve_published(spec, spec.removeprefix("hub:"))
    if spec.startswith("local-dir:"):  # as timm and the last line of `repre pretrain` write it
        return replace(resolve_encoder(spec.removeprefix("local-dir:")), spec=spec)
    path = checkpoint_file(spec)
    if path.exists() or path != Path(spec).expanduser():
        return _resolve_named(spec, path)
    if match := re.fullmatch(r"([^\[=]+)(?:\[(.*\]))?=(.+)", spec):
        name, arguments, weights = match.groups()
        weights_file(weights, setting=f"encoder {name}, weights")
        config = _architecture(spec, name, arguments)
        pixels, of_pixels = statistics_of(weights, name)
        return ResolvedEncoder(spec, replace(config, weights=weights), None, *pixels, of_pixels=of_pixels)
    if "[" in spec and "]=" not in spec and "/" not in spec.partition("[")[0]:
        raise UserError(
            f"encoder {spec}: arguments go between name and weights; write NAME[depth=6]=FILE, or random:NAME[depth=6]"
        )
    if "/" in spec or path.suffix in (".pt", ".pth", ".safetensors"):
        raise UserError(
            f"encoder {spec}: there is no such run or file; give a run's folder, a checkpoint, NAME=FILE, or a timm name"
        )
    return _resolve_published(spec, spec)


def load_model(run: Path, *, checkpoint: Path | None = None) -> tuple[RePre, RunConfig]:
    """Loads the whole model of a run (encoder, framework, decoder) in evaluation mode.

    Args:
        run: the run's folder.
        checkpoint: a file with the whole model; None takes the last one.

    Raises:
        UserError: the run has no checkpoint, or the checkpoint holds an encoder only.
    """
    path = checkpoint or run / "checkpoints" / "last.pt"
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the --out folder of a repre pretrain that has saved one")
    state = load_checkpoint(path)
    if "model" not in state:
        raise UserError(f"{path} holds an encoder only; use checkpoints/last.pt")
    return _build_from_checkpoint(state, path)


def _build_from_checkpoint(state: dict[str, Any], path: Path) -> tuple[RePre, RunConfig]:
    config = from_dict(RunConfig, state["config"], source=path.name)
    model = build_model(
        encoder=replace(config.encoder_at_size, weights=None),
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=config.seed,
        mask_token=config.mask_token,
    )
    model.load_state_dict(state["model"])
    return model.eval(), config


def _resolve_published(spec: str, name: str) -> ResolvedEncoder:
    try:
        pixels, of_pixels = statistics_of("hub", name)
    except UserError as error:
        reason = str(error).removeprefix("encoder.name: ")
        raise UserError(f"encoder {spec}: there is no run or file of that name, and {reason}") from error
    return ResolvedEncoder(spec, EncoderConfig(name=name, weights="hub"), None, *pixels, of_pixels=of_pixels)


def _resolve_random(spec: str) -> ResolvedEncoder:
    name, bracket, arguments = spec.removeprefix("random:").partition("[")
    if not bracket and checkpoint_file(name).exists():
        trained = resolve_encoder(name)
        config = replace(trained.config, weights=None)
        return replace(trained, spec=spec, config=config, epoch=None, step=None, which="")
    return ResolvedEncoder(spec, _architecture(spec, name, arguments if bracket else None), None)


def _architecture(spec: str, name: str, arguments: str | None) -> EncoderConfig:
    """A timm model at random init; `arguments` are what follows the opening bracket, None without one."""
    model_args = {} if arguments is None else _parse_arguments(spec, arguments)
    image_size, patch_size = model_args.pop("image_size", None), model_args.pop("patch_size", None)
    allow_partial = bool(model_args.pop("allow_partial", False))
    sides = image_size if isinstance(image_size, tuple) and len(image_size) == 2 else (image_size,)
    if not all(size is None or isinstance(size, int) for size in (*sides, patch_size)):
        raise UserError(
            f"encoder {spec}: image_size and patch_size must be whole numbers, image_size also (height, width)"
        )
    return EncoderConfig(
        name=name, image_size=image_size, patch_size=patch_size, model_args=model_args, allow_partial=allow_partial
    )


def _parse_arguments(spec: str, text: str) -> dict[str, Any]:
    """Parses what follows the opening bracket: ``depth=6,embed_dim=192]``."""
    if not text.endswith("]"):
        raise UserError(f"encoder {spec}: the bracket is not closed; write NAME[depth=6,embed_dim=192]")
    try:
        call = ast.parse(f"f({text[:-1]})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("not a list of NAME=VALUE")
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UserError(f"encoder {spec}: write the arguments as [depth=6,embed_dim=192]") from error
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def _resolve_named(spec: str, named: Path) -> ResolvedEncoder:
    """What a path stands for: a run, one of its checkpoints, or a saved encoder."""
    file = weights_file(spec, setting="encoder")
    if file.suffix == ".pt" and is_own_checkpoint(content := read_content(file)):
        check_content(content, file)
        return _resolve_checkpoint(spec, file, content)
    if file.name not in IN_FOLDERS or not file.with_name("config.json").is_file():
        beside = " (the config.json next to it describes model.safetensors)" * file.with_name("config.json").is_file()
        raise UserError(
            f"encoder {spec}: the file does not name its model{beside}; write timm's name before it: NAME={spec}"
        )
    results = named if named.is_dir() else file.parent
    config, pixels = saved_encoder_config(file.parent), describe_model(file).pixels
    run = file.parent.parent
    which = owner_of(run_settings(file)) if file.parent.name == "encoder" and (run / "config.yaml").is_file() else ""
    epoch, step = _length(run if file.parent.name == "encoder" else results)
    of_pixels = "of the encoder's config.json"
    return ResolvedEncoder(spec, config, results, *pixels, epoch=epoch, step=step, which=which, of_pixels=of_pixels)


def _resolve_checkpoint(spec: str, path: Path, state: dict[str, Any]) -> ResolvedEncoder:
    """Saves a checkpoint's encoder to a temporary folder and resolves that."""
    run = path.parent.parent
    if "model" in state:
        model, config = _build_from_checkpoint(state, path)
        encoder, part = model.export_encoder, model.exported_part
    elif "encoder" in state and (run / "config.yaml").is_file():
        config = load_yaml(run / "config.yaml")
        encoder = Encoder(replace(config.encoder_at_size, weights=None), mask_token=config.mask_token)
        encoder.load_state_dict(state["encoder"])
        part = exported_part({"config": to_dict(config)})
    else:
        raise UserError(f"encoder {spec}: there is no config.yaml in {run}; give a checkpoint inside its run's folder")
    mean, std = (values.flatten().tolist() for values in config.views.statistics(config.encoder.channels))
    folder = tempfile.TemporaryDirectory(prefix="repre-encoder-")
    _temporary_folders.append(folder)
    save_encoder(encoder, folder.name, mean=mean, std=std, value_range=config.views.value_range)
    epoch = state["step"] / state["steps_per_epoch"] if "steps_per_epoch" in state else state.get("epoch")
    pixels = PixelStatistics(tuple(mean), tuple(std), config.views.value_range)
    config_at = saved_encoder_config(folder.name)
    return ResolvedEncoder(
        spec, config_at, run, *pixels, epoch=epoch, step=state.get("step"), which=owner(part), of_pixels="of its run"
    )


def _length(run: Path) -> tuple[float | None, int | None]:
    """The epochs and the steps of a finished run; None for other folders."""
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        return float(summary["epochs"]), summary.get("steps")
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


_temporary_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of encoders from checkpoints; each is removed when the process ends."""
