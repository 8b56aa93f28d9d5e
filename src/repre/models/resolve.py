"""What people name when they are asked for an encoder: a run, a checkpoint, saved weights, a timm name, or chance.

runs/photos                              a finished run, or one that has a checkpoint
runs/photos/checkpoints/best.pt          one checkpoint of a run
encoder/ or encoder/model.safetensors    what `Encoder.save` and `repre export` write
vit_small_patch16_224                    timm's published weights (also hub:vit_small_patch16_224)
vit_small_patch16_224=weights.pth        a timm model with weights from a file
random:vit_small_patch16_224             the same model without training
random:runs/photos                       the model of a run without training: what pre-training has to beat
random:vit_tiny_patch16_224[patch_size=4,depth=6,embed_dim=192]
"""

import ast
import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from repre.config import RunConfig, from_dict, load_yaml
from repre.data.views.geometry import Range
from repre.errors import UserError
from repre.models.encoder import Argument, Encoder, EncoderConfig, weights_file
from repre.models.repre import RePre, build_model
from repre.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class ResolvedEncoder:
    """Where an evaluation starts from.

    Attributes:
        spec: what the user wrote.
        config: the encoder, its weights among it; no weights means chance.
        folder: where results on it are kept; None where it has no folder of its own.
        mean, std: normalization of the channels that the encoder expects; None takes the default.
        value_range: pixel values that stood for 0 and 1 where a range was declared for its training.
    """

    spec: str
    config: EncoderConfig
    folder: Path | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    value_range: Range | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the encoder was trained at; None where only timm knows."""
        size = self.config.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def fingerprint(self) -> str:
        """What the weights are: hash of their file, `hub`, or `random`."""
        if self.config.weights is None:
            return "random"
        if self.config.weights == "hub":
            return "hub"
        with open(weights_file(Path(self.config.weights)), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def build(
        self,
        *,
        image_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        seed: int = 0,
    ) -> Encoder:
        """The encoder; what is random in it is drawn from `seed`. Positions are resampled to another `image_size`."""
        torch.manual_seed(seed)
        config = replace(self.config, drop_path=drop_path, grad_checkpointing=grad_checkpointing)
        return Encoder(replace(config, image_size=image_size) if image_size is not None else config)


def resolve_encoder(spec: str) -> ResolvedEncoder:
    """Finds what `spec` names; see the head of this file. UserError where there is no such thing."""
    if spec.startswith("random:"):
        return _random(spec)
    if spec.startswith("hub:"):
        return ResolvedEncoder(
            spec, EncoderConfig(name=spec[4:], weights="hub"), None, *Encoder.published_statistics(spec[4:])
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(spec, path)
    if path.is_file():
        return _file(spec, path)
    name, equals, weights = spec.partition("=")
    if equals and "[" not in name:
        if not Path(weights).expanduser().exists():
            raise UserError(f"--encoder {spec}: there is no file {weights}")
        return ResolvedEncoder(spec, EncoderConfig(name=name, weights=str(Path(weights).expanduser())), None)
    if "/" in spec or path.suffix in (".pt", ".pth", ".safetensors"):
        raise UserError(f"--encoder {spec}: there is no such run or file")
    return ResolvedEncoder(spec, EncoderConfig(name=spec, weights="hub"), None, *Encoder.published_statistics(spec))


def load_model(run: Path, *, checkpoint: Path | None = None) -> tuple[RePre, RunConfig]:
    """The whole model of a run (encoder, framework, decoder) at its last or another checkpoint, in evaluation mode."""
    last = run / "checkpoints" / "last.pt"
    if checkpoint is None and not last.is_file():
        raise UserError(f"{run} holds no run with a checkpoint; give the --out folder of repre pretrain")
    path = checkpoint or last
    state = load_checkpoint(path)
    if "model" not in state:
        raise UserError(f"{path} holds an encoder only; use checkpoints/last.pt")
    config = from_dict(RunConfig, state["config"], source=path.name)
    model = build_model(
        encoder=replace(config.encoder_at_size, weights=None),
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=config.seed,
    )
    model.load_state_dict(state["model"])
    return model.eval(), config


# ------------------------------------------------------------------------------------------------------- the kinds


def _random(spec: str) -> ResolvedEncoder:
    name, bracket, arguments = spec.removeprefix("random:").partition("[")
    if not bracket and Path(name).expanduser().exists():
        known = resolve_encoder(name)
        return replace(known, spec=spec, config=replace(known.config, weights=None), folder=None)
    given: dict[str, Argument] = {}
    if bracket:
        if not arguments.endswith("]"):
            raise UserError(f"--encoder {spec}: the bracket is not closed; write random:NAME[depth=6,embed_dim=192]")
        try:
            call = ast.parse(f"f({arguments[:-1]})", mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError("not a list of NAME=VALUE")
            values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
            given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        except (SyntaxError, ValueError) as error:
            raise UserError(f"--encoder {spec}: write the arguments as [depth=6,embed_dim=192]") from error
    size = given.pop("image_size", None)
    patch = given.pop("patch_size", None)
    if not (size is None or isinstance(size, int)) or not (patch is None or isinstance(patch, int)):
        raise UserError(f"--encoder {spec}: image_size and patch_size are whole numbers")
    return ResolvedEncoder(spec, EncoderConfig(name=name, image_size=size, patch_size=patch, model_args=given), None)


def _folder(spec: str, path: Path) -> ResolvedEncoder:
    inside = path / "encoder" if (path / "encoder" / "config.json").is_file() else path
    if (inside / "config.json").is_file():
        return ResolvedEncoder(spec, Encoder.describe(inside), path, **_saved_pixels(inside))
    if (path / "checkpoints" / "last.pt").is_file():
        return _checkpoint(spec, path / "checkpoints" / "last.pt")
    if (path / "config.yaml").is_file():
        raise UserError(f"--encoder {spec} is a run without a checkpoint yet; repeat its command to go on with it")
    raise UserError(f"--encoder {spec}: the folder holds neither a run nor an encoder")


def _file(spec: str, path: Path) -> ResolvedEncoder:
    if path.suffix == ".pt":
        return _checkpoint(spec, path)
    if path.suffix == ".safetensors" and path.with_name("config.json").is_file():
        if path.name != "model.safetensors":
            raise UserError(f"--encoder {spec}: beside a config.json the weights are called model.safetensors")
        return ResolvedEncoder(spec, Encoder.describe(path.parent), path.parent, **_saved_pixels(path.parent))
    raise UserError(f"--encoder {spec}: which model are these weights of? Write timm's name before: NAME={spec}")


def _checkpoint(spec: str, path: Path) -> ResolvedEncoder:
    """A checkpoint's encoder, handed on in a folder of its own for as long as this process lives."""
    run = path.parent.parent
    state = load_checkpoint(path)
    if "model" in state:
        model, config = load_model(run, checkpoint=path)
        encoder = model.export_encoder
    elif "encoder" in state and (run / "config.yaml").is_file():
        config = load_yaml(run / "config.yaml")
        encoder = Encoder(replace(config.encoder_at_size, weights=None))
        encoder.load_state_dict(state["encoder"])
    else:
        raise UserError(f"--encoder {spec}: no run's config lies beside this checkpoint; name the run's own file")
    mean, std = (tuple(s.flatten().tolist()) for s in config.views.statistics(config.encoder.channels))
    copy = tempfile.TemporaryDirectory(prefix="repre-encoder-")
    _KEPT.append(copy)
    encoder.save(copy.name, mean=list(mean), std=list(std), value_range=config.views.value_range)
    return ResolvedEncoder(spec, Encoder.describe(copy.name), run, **_saved_pixels(Path(copy.name)))


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that are removed when the process ends."""


def _saved_pixels(folder: Path) -> dict[str, Any]:
    """What pixels the saved encoder expects, as `Start` takes it."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cfg, ours = content["pretrained_cfg"], content["repre"]
    found = {name: tuple(cfg[name]) for name in ("mean", "std") if "mean" in cfg and "std" in cfg}
    return found | ({"value_range": tuple(ours["value_range"])} if "value_range" in ours else {})
