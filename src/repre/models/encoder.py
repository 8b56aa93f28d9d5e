"""Any timm vision transformer or pyramid as an encoder: pooled embedding and feature maps in one pass.

The only file that imports timm. What a model can do is asked of the model (its methods, its feature table, its
constructor's arguments, a forward pass without memory), never of its name.

Shapes:

    B  images    C  channels    H, W  height and width    D  embedding width    C_l, H_l, W_l  map of level l
"""

import contextlib
import inspect
import json
import math
import os
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv, group_parameters
from torch import Tensor, nn

from repre.errors import RunError, UserError, near_names
from repre.models.drop_path import BatchSlice, DropPath
from repre.types import Features
from repre.utils.config_checks import check_fields
from repre.utils.onednn_linear import use_onednn_linear
from repre.utils.safe_load import UNREADABLE, load_tensors

WRAPPERS = ("state_dict", "model", "encoder", "teacher", "student", "module")
"""Keys under which training scripts keep the weights of a model."""
PREFIXES = ("module.", "_orig_mod.", "backbone.", "base_encoder.", "encoder.", "model.")
"""Prefixes that wrappers put before the names of a model's parameters; what lies beside the prefix is no encoder."""
OURS = {"num_classes", "in_chans", "img_size", "dynamic_img_size", "strict_img_size", "features_only", "out_indices"}
TIMMS = set(inspect.signature(timm.create_model).parameters)
"""Arguments of timm's builder, not of a model: paths to weights among them, so that no config names one there."""
Argument = int | float | bool | str | tuple[int, ...]
"""What an argument of a timm model may be, so that YAML, JSON and the command line can write it."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which model, in which shape, from which weights."""

    name: str = "vit_small_patch16_224"
    """Any timm model that gives intermediate features: ViT, DINOv2, EVA, XCiT, Swin, PVT, MViT, Hiera and more."""
    image_size: int | tuple[int, int] | None = None
    """Side of the square images, or height and width; None: that of the global views, in a run, or the model's own."""
    channels: int = 3
    """Channels of the images."""
    patch_size: int | None = None
    """Side of a patch; None keeps the model's own."""
    drop_path: float = 0.0
    """Stochastic depth of the student; the teacher has none."""
    weights: str | None = None
    """Start weights: a .safetensors or .pth file, a run folder, `hub` for timm's; None starts at random."""
    allow_partial: bool = False
    """Accept start weights that lack some of the model's parameters or have others."""
    grad_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    freeze_patch_embed: bool = False
    """Keep the patch embedding at its random start, as MoCo v3 does for stability (arXiv 2104.02057, section 4)."""
    out_indices: tuple[int, ...] | None = None
    """Blocks or stages that give the maps, from 0 and rising; None: a flat model's blocks at 1/4, 2/4, 3/4, 4/4 of its
    depth, a pyramid's stages of 4 and more pixels per cell."""
    model_args: dict[str, Argument] = field(default_factory=dict)
    """Further arguments of the timm model, such as embed_dim, depth or num_heads."""

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        if self.channels < 1:
            raise UserError(f"encoder.channels must be at least 1, not {self.channels}")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"encoder.drop_path must lie in [0, 1), not {self.drop_path}")
        if self.image_size is not None and min(_pair(self.image_size)) < 1:
            raise UserError(f"encoder.image_size must be at least 1, not {self.image_size}")
        if self.patch_size is not None and self.patch_size < 1:
            raise UserError(f"encoder.patch_size must be at least 1, not {self.patch_size}")
        if taken := sorted((OURS | TIMMS) & self.model_args.keys()):
            raise UserError(
                f"encoder.model_args.{taken[0]} is not an argument of a model; the encoder's own settings say it"
            )
        for key, value in self.model_args.items():
            if not isinstance(value, int | float | bool | str | tuple):
                raise UserError(
                    f"encoder.model_args.{key} must be a number, a truth value, a name or a list of numbers"
                )
        if self.out_indices is not None and (
            not self.out_indices or list(self.out_indices) != sorted(set(self.out_indices))
        ):
            raise UserError(f"encoder.out_indices must name each level once, in rising order, not {self.out_indices}")


class Encoder(nn.Module):
    """A timm model that gives `Features`.

    Args:
        config: a config, or the name of a timm model.

    Attributes:
        model: the timm model.
        embedding_dim: width D of the pooled embedding.
        depth: number of blocks (flat models) or stages (pyramids) that could give a map.
        out_indices: those that do.
        widths, strides: channels, and pixels per cell, of every level's map. A size that the stride does not divide
            gives a grid that is rounded up or down, as the model does.
        image_size: height and width that the model was built for; others work where the model allows.
        rows: which images of the whole batch the next passes show, for drop path.

    Raises:
        UserError: there is no such model, it has no intermediate features, or it refuses the size, the channels or the
            arguments; in `forward`, that it refuses the size of the images.
    """

    def __init__(self, config: EncoderConfig | str) -> None:
        super().__init__()
        config = EncoderConfig(name=config) if isinstance(config, str) else config
        self.config = config
        outline = _outline(config.name)
        self.image_size = _pair(config.image_size or outline.pretrained_cfg["input_size"][1:])
        self._args = _constructor_args(config, outline, self.image_size)
        self._sizes: set[tuple[int, int]] = set()
        self.embedding_dim, self.depth, self.out_indices, self.widths, self.strides = self.check_size(*self.image_size)

        self.model: Any = _create(config.name, self._args, pretrained=config.weights == "hub")
        self.batch_slice = BatchSlice()
        self._own_drop_paths()
        use_onednn_linear(self.model)
        if config.grad_checkpointing:
            self._checkpoint_blocks()
        if config.weights not in (None, "hub"):
            _load_start_weights(self.model, config)
        if config.freeze_patch_embed:
            self._freeze_patch_embed()

    def forward(self, x: Tensor, *, maps: bool = True) -> Features:
        """Features of images [B, C, H, W]: embedding [B, D] and, with `maps`, one [B, C_l, H_l, W_l] per level."""
        if not torch.compiler.is_compiling() and tuple(x.shape[-2:]) not in self._sizes:
            self.check_size(x.shape[-2], x.shape[-1])
        if not maps:
            return Features(self.model.forward_head(self.model.forward_features(x), pre_logits=True))
        final, levels = self.model.forward_intermediates(
            x, indices=self.out_indices, stop_early=False, output_fmt="NCHW"
        )
        return Features(self.model.forward_head(final, pre_logits=True), list(levels))

    def check_size(self, height: int, width: int) -> "Layout":
        """What the model makes of images of this size; UserError where it refuses them. Draws and allocates nothing."""
        layout = _measure(self.config, self._args, (height, width), built_for=self.image_size)
        self._sizes.add((height, width))
        return layout

    @property
    def no_weight_decay(self) -> list[str]:
        """Ends of the names of matrices that must not be decayed: position embeddings, tokens, what timm lists."""
        listed = set(self.model.no_weight_decay()) if hasattr(self.model, "no_weight_decay") else set()
        listed |= {name for name, _ in self.model.named_parameters(recurse=False)}  # timm leaves out register tokens
        return [f"model.{name}" for name in sorted(listed)]

    def layers(self) -> dict[str, int]:
        """Depth of every parameter for layer-wise learning rates: 0 is the stem, then the blocks, last what follows."""
        found = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        return {f"model.{name}": layer for name, layer in found.items()}

    def save(
        self,
        folder: str | Path,
        *,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        """Writes ``model.safetensors`` and ``config.json``, which timm loads in one line::

            timm.create_model("local-dir:FOLDER", pretrained=True)

        Args:
            mean, std: normalization of the channels that the encoder was trained with, for the config.
            value_range: pixel values that stood for 0 and 1 where a range was declared, likewise; timm does not read it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        origin, args = self.model.pretrained_cfg, {k: v for k, v in self._args.items() if k != "drop_path_rate"}
        cfg = {"input_size": [self.config.channels, *self.image_size], "fixed_input_size": not _any_size(args)}
        cfg |= {"num_classes": 0, "interpolation": origin.get("interpolation", "bicubic")}
        # timm needs to know the two ends that it may exchange: num_classes=10, in_chans=1
        cfg |= {key: origin[key] for key in ("first_conv", "classifier", "global_pool") if origin.get(key)}
        if mean is not None and std is not None:
            cfg |= {"mean": list(mean), "std": list(std)}
        content = {
            "architecture": self.config.name.split(".")[0],  # without the tag of timm's weights
            "num_classes": 0,
            "num_features": self.embedding_dim,
            "pretrained_cfg": cfg,
            "model_args": args,
            "repre": {"out_indices": self.out_indices} | ({"value_range": list(value_range)} if value_range else {}),
        }
        state = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        try:
            save_file(state, folder / "model.safetensors.tmp")  # a folder that is read meanwhile holds whole files
        except SafetensorError as error:
            raise RunError(f"could not write {folder / 'model.safetensors'}: {error}") from error
        (folder / "config.json.tmp").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for name in ("model.safetensors", "config.json"):
            os.replace(folder / f"{name}.tmp", folder / name)

    @staticmethod
    def load(folder: str | Path) -> "Encoder":
        """The encoder that `save` wrote; UserError where the folder holds none or its weights do not fit."""
        return Encoder(Encoder.describe(folder))

    @staticmethod
    def describe(folder: str | Path) -> EncoderConfig:
        """The config of the encoder that `save` wrote, its weights among it; UserError where the folder holds none."""
        folder = Path(folder)
        try:
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            args, levels = dict(content["model_args"]), tuple(content["repre"]["out_indices"])
            name, (channels, *size) = content["architecture"], content["pretrained_cfg"]["input_size"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder} holds no encoder of repre ({type(error).__name__}: {error})") from error
        patch_size = args.pop("patch_size", None)
        for own in ("num_classes", "in_chans", "img_size", "dynamic_img_size", "strict_img_size"):
            args.pop(own, None)  # set by the config's other fields
        return EncoderConfig(
            name=name,
            image_size=_pair(size),
            channels=channels,
            patch_size=patch_size,
            out_indices=levels,
            model_args={k: tuple(v) if isinstance(v, list) else v for k, v in args.items()},
            weights=str(folder),
        )

    @staticmethod
    def load_in_timm(folder: str | Path) -> nn.Module:
        """What timm, without this project, makes of a folder that `save` wrote; in evaluation mode."""
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return model.eval()

    @staticmethod
    def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the channels that timm's weights of this name were trained with."""
        cfg = _outline(name).pretrained_cfg
        return tuple(cfg["mean"]), tuple(cfg["std"])

    def _own_drop_paths(self) -> None:
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, timm.layers.DropPath):
                    setattr(parent, name, DropPath(child.drop_prob or 0.0, self.batch_slice, scale=child.scale_by_keep))

    def _checkpoint_blocks(self) -> None:
        try:
            self.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(f"encoder.grad_checkpointing: {self.config.name} cannot; leave it False") from error

    def _freeze_patch_embed(self) -> None:
        stem = getattr(self.model, "patch_embed", None)
        if stem is None:
            raise UserError(f"encoder.freeze_patch_embed: {self.config.name} has no patch embedding; leave it False")
        stem.requires_grad_(False)


# ------------------------------------------------------------------------------------------------- building


def _outline(name: str) -> Any:
    """The model without memory for its weights, to ask what it can do; refuses names and models that do not serve."""
    known = timm.list_models()
    bare, _, tag = name.partition(".")
    if bare not in known:
        raise UserError(f"encoder.name: timm has no model {name!r}{near_names(bare, known)}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{bare}.*")] if tag else []
    if tag and tag not in tags:
        near = near_names(tag, tags) or f"; it has {', '.join(tags) or 'none'}"
        raise UserError(f"encoder.name: timm has no weights {tag!r} for {bare}{near}")
    with torch.device("meta"):
        model = _create(name, {})
    missing = [part for part in ("forward_intermediates", "forward_head", "feature_info") if not hasattr(model, part)]
    if missing:
        raise UserError(
            f"encoder.name: {name} gives no intermediate features (it lacks {', '.join(missing)}); "
            "take a ViT, DeiT, EVA, XCiT, Swin, PVTv2, MViTv2, Hiera or ConvNeXt"
        )
    return model


def _constructor_args(config: EncoderConfig, outline: Any, size: tuple[int, int]) -> dict[str, Any]:
    """What the timm constructor is given: only arguments that it knows."""
    known = inspect.signature(type(outline).__init__).parameters
    args: dict[str, Any] = {"in_chans": config.channels, **config.model_args}
    if "drop_path_rate" in known:  # always said: some models drop paths by default
        args["drop_path_rate"] = config.drop_path
    elif config.drop_path:
        raise UserError(f"encoder.drop_path: {config.name} has no stochastic depth; set it to 0")
    if config.patch_size is not None:
        if "patch_size" not in known:
            raise UserError(f"encoder.patch_size: {config.name} has a patch size of its own; leave it None")
        args["patch_size"] = config.patch_size
    if "img_size" in known:
        args["img_size"] = size
    if "strict_img_size" in known:
        args["strict_img_size"] = False  # pyramids with windows: any grid, padded to whole windows
    elif "dynamic_img_size" in known:
        args["dynamic_img_size"] = True  # flat transformers: positions are resampled to the grid of each view
    return args


def _create(name: str, args: dict[str, Any], *, pretrained: bool = False) -> Any:
    shown = ", ".join(f"{k}={v}" for k, v in args.items())
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
    except OSError as error:  # only where weights are fetched
        raise UserError(f"encoder.weights hub: {name} could not be fetched: {_first_line(error)}") from error
    except (AssertionError, ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError) as error:
        hub = " with the hub's weights" if pretrained else ""
        raise UserError(f"encoder: timm refuses {name}({shown}){hub}: {_first_line(error)}") from error


class Layout(NamedTuple):
    """What a model makes of images of one size."""

    embedding_dim: int
    depth: int
    out_indices: list[int]
    widths: list[int]
    strides: list[int]


@torch.no_grad()
def _measure(
    config: EncoderConfig, args: dict[str, Any], size: tuple[int, int], *, built_for: tuple[int, int]
) -> Layout:
    """The layout at a size, by a forward pass without memory or arithmetic; refuses what the model refuses."""
    with torch.device("meta"):
        model = _create(config.name, args).eval()
        images = torch.empty(2, config.channels, *size)
        if size != built_for and not _any_size(args):
            # Some models read tables of positions past their end, or shifted, and a pass does not tell: shapes do.
            other = _create(config.name, args | {"img_size": size})
            if [t.shape for t in other.state_dict().values()] != [t.shape for t in model.state_dict().values()]:
                raise UserError(
                    f"encoder: {config.name} cannot take images of {size[0]} x {size[1]}: its parameters have the "
                    f"shapes of the size that it was built for, {built_for[0]} x {built_for[1]}"
                )
    info = model.feature_info
    reductions = [int(row["reduction"]) for row in getattr(info, "info", info)]
    levels = _levels(config, reductions)
    try:
        final, maps = model.forward_intermediates(images, indices=levels, stop_early=False, output_fmt="NCHW")
        embedding = model.forward_head(final, pre_logits=True)
    except (AssertionError, RuntimeError, ValueError) as error:
        fix = f"; use a multiple of {max(reductions)}" if any(side % max(reductions) for side in size) else ""
        raise UserError(
            f"encoder: {config.name} cannot take images of {size[0]} x {size[1]} ({_first_line(error)}){fix}"
        ) from error
    return Layout(
        embedding_dim=embedding.shape[-1],
        depth=len(reductions),
        out_indices=levels,
        widths=[found.shape[1] for found in maps],
        strides=[reductions[level] for level in levels],
    )


def _any_size(args: dict[str, Any]) -> bool:
    return "img_size" not in args or args.get("dynamic_img_size", False) or not args.get("strict_img_size", True)


def _levels(config: EncoderConfig, reductions: list[int]) -> list[int]:
    """Indices of the blocks or stages whose maps are given."""
    count = len(reductions)
    if config.out_indices is not None:
        if config.out_indices[0] < 0 or config.out_indices[-1] >= count:
            raise UserError(f"encoder.out_indices {config.out_indices}: {config.name} has levels 0 to {count - 1}")
        return list(config.out_indices)
    if len(set(reductions)) == 1:
        return sorted({math.ceil(count * quarter / 4) - 1 for quarter in (1, 2, 3, 4)})
    return [level for level, reduction in enumerate(reductions) if reduction >= 4]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


# -------------------------------------------------------------------------------------------------- weights


def _load_start_weights(model: Any, config: EncoderConfig) -> None:
    """Fills a model with start weights; refuses anything below a full match unless the config allows it."""
    own = model.state_dict()
    state = _fit_to_model(model, read_weights(Path(str(config.weights)), own=own), Path(str(config.weights)))
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = ("head", "fc", "head_dist", *((classifier,) if isinstance(classifier, str) else classifier))
    state = {k: v for k, v in state.items() if k in own or not k.startswith(tuple(f"{head}." for head in heads))}
    missing = sorted(own.keys() - state.keys())
    foreign = sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or foreign or shapes:
        words = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("not in the model", foreign), ("of another shape", shapes))
            if names
        )
        if not config.allow_partial or len(missing) + len(shapes) == len(own):
            raise UserError(
                f"encoder.weights {config.weights} does not match {config.name}: {words}; "
                "give the file's own model, or --encoder.allow-partial to load what fits"
            )
        warnings.warn(f"encoder.weights {config.weights}: loaded in part; {words}", stacklevel=4)
    model.load_state_dict({k: v for k, v in state.items() if k in own and k not in shapes}, strict=False)


def read_weights(path: Path, *, own: Iterable[str] = ()) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, or of a run folder's encoder, without wrappers and their prefixes.

    Args:
        path: a file, a folder written by `Encoder.save`, or a run folder that has one.
        own: names of the model's parameters, whose own prefixes are no wrappers.
    """
    path = weights_file(path)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = load_tensors(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"encoder.weights: {path} cannot be read as weights: it is damaged or holds more than tensors, and "
            "objects are never unpickled, since that runs their code: save the state_dict alone, as .safetensors"
        ) from error
    except UserError:
        raise
    except (SafetensorError, *UNREADABLE) as error:
        raise UserError(f"encoder.weights: {path} cannot be read as weights: {_first_line(error)}") from error
    while isinstance(state, dict) and (inner := [state[k] for k in WRAPPERS if isinstance(state.get(k), dict)]):
        state = inner[0]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"encoder.weights: {path} holds no tensors, neither by itself nor under {', '.join(WRAPPERS)}")
    while prefix := next((p for p in PREFIXES if _starts(tensors, p) and not _starts(own, p)), None):
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors


def weights_file(path: Path) -> Path:
    """The file of weights that a path names: itself, or that of a run's or a saved encoder's folder."""
    if path.is_dir():
        inside = [path / "encoder" / "model.safetensors", path / "model.safetensors"]
        path = next((file for file in inside if file.is_file()), inside[0])
    if not path.is_file():
        raise UserError(f"encoder.weights: there is no file {path}")
    return path


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _fit_to_model(model: Any, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Lets timm rename old keys, resample positions and patch kernels, and adapt the input channels.

    What it does not know is left as it is, for the comparison of names and shapes that follows.
    """
    own = model.state_dict()
    if own.keys() == state.keys() and all(own[k].shape == v.shape for k, v in state.items()):
        return state
    state = dict(state)
    described = weights_file(path).with_name("config.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there, timm finds a grid that is not square
        model.pretrained_model_args = dict(json.loads(described.read_text(encoding="utf-8"))["model_args"])
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is not None:
        with contextlib.suppress(KeyError, RuntimeError, AssertionError, IndexError, AttributeError):  # foreign weights
            state = convert(dict(state), model)
    first = model.pretrained_cfg.get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        weight, wanted = state.get(f"{name}.weight"), own[f"{name}.weight"]
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 and wanted.shape[1] != 3:
            state[f"{name}.weight"] = adapt_input_conv(wanted.shape[1], weight)
    return state
