"""Any timm vision transformer or pyramid as an encoder: pooled embedding and feature maps in one pass.

The only file that imports timm. What a model can do is asked of the model (its methods, its feature table, the arguments
of its constructor), never of its name.
"""

import inspect
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import load_pretrained
from torch import Tensor, nn

from repre.errors import UserError, near_names
from repre.types import Features

WRAPPERS = ("state_dict", "model", "encoder", "teacher", "student", "module")
"""Keys under which training scripts keep the weights of a model."""
PREFIXES = ("module.", "backbone.", "encoder.", "model.", "_orig_mod.")
"""Prefixes that wrappers put before the names of a model's parameters."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which model, in which shape, from which weights."""

    name: str = "vit_small_patch16_224"
    """Any timm model that gives intermediate features: ViT, DeiT, DINOv2, EVA, XCiT, Swin, PVT, MViT, Hiera, ConvNeXt."""
    image_size: int | tuple[int, int] | None = None
    """Side of the square images, or height and width; None: that of the global views."""
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
    levels: tuple[int, ...] | None = None
    """Blocks or stages that give the maps, from 0; None: a flat model's blocks at 1/4, 2/4, 3/4, 4/4 of its depth, a
    pyramid's stages."""
    model_args: dict[str, int | float | bool | str | tuple[int, ...]] = field(default_factory=dict)
    """Further arguments of the timm model, such as embed_dim, depth or num_heads."""

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError(f"encoder.channels must be at least 1, not {self.channels}")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"encoder.drop_path must lie in [0, 1), not {self.drop_path}")


class Encoder(nn.Module):
    """A timm model that gives `Features`.

    Args:
        config: a config, or the name of a timm model.

    Attributes:
        embedding_dim: width D of the pooled embedding.
        widths, strides: channels, and pixels per cell, of every level's map.
        image_size: height and width that the model was built for; others work where the model allows.

    Raises:
        UserError: there is no such model, it has no intermediate features, or it refuses the size, the channels or the
            arguments.
    """

    def __init__(self, config: EncoderConfig | str) -> None:
        super().__init__()
        config = EncoderConfig(name=config) if isinstance(config, str) else config
        self.config = config
        outline = _outline(config.name)
        self._args = _constructor_args(config, outline)
        self.model: nn.Module = _create(config.name, self._args)
        self.image_size = _pair(config.image_size or outline.pretrained_cfg["input_size"][1:])
        if config.grad_checkpointing:
            self.model.set_grad_checkpointing(True)

        self._levels = _levels(config, self.model)
        self.embedding_dim, self.widths, self.strides = _measure(config, self._args, self._levels, self.image_size)
        if config.weights is not None:
            _load_start_weights(self.model, config)
        if config.freeze_patch_embed:
            self._freeze_patch_embed()

    def forward(self, x: Tensor, *, maps: bool = True) -> Features:
        """Features of images [B, C, H, W]: embedding [B, D] and, with `maps`, one [B, C_l, H_l, W_l] per level."""
        if not maps:
            return Features(self.model.forward_head(self.model.forward_features(x), pre_logits=True))
        final, levels = self.model.forward_intermediates(x, indices=self._levels, output_fmt="NCHW")
        return Features(self.model.forward_head(final, pre_logits=True), list(levels))

    @property
    def no_weight_decay(self) -> list[str]:
        """Ends of the names of matrices that must not be decayed: position embeddings, tokens, what timm lists."""
        listed = set(self.model.no_weight_decay()) if hasattr(self.model, "no_weight_decay") else set()
        return [f"model.{name}" for name in sorted(listed)]

    def save(self, folder: str | Path, *, mean: list[float] | None = None, std: list[float] | None = None) -> None:
        """Writes ``model.safetensors`` and ``config.json``, which timm loads in one line::

            timm.create_model("local-dir:FOLDER", pretrained=True)

        Args:
            mean, std: normalisation of the channels that the encoder was trained with, for the config.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        c, (h, w) = self.config.channels, self.image_size
        cfg = {"input_size": [c, h, w], "fixed_input_size": False, "num_classes": 0, "interpolation": "bicubic"}
        if mean is not None and std is not None:
            cfg |= {"mean": list(mean), "std": list(std)}
        content = {
            "architecture": self.config.name,
            "num_classes": 0,
            "num_features": self.embedding_dim,
            "pretrained_cfg": cfg,
            "model_args": {k: v for k, v in self._args.items() if k != "drop_path_rate"} | {"num_classes": 0},
            "repre": {"levels": self._levels},
        }
        save_file({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: str | Path) -> "Encoder":
        """The encoder that `save` wrote; UserError where the folder holds none or its weights do not fit."""
        folder = Path(folder)
        try:
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            args = dict(content["model_args"])
            name, levels, cfg = content["architecture"], content["repre"]["levels"], content["pretrained_cfg"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(f"{folder} holds no encoder of repre ({type(error).__name__}: {error})") from error
        for known in ("num_classes", "in_chans", "img_size", "patch_size", "dynamic_img_size", "strict_img_size"):
            if known != "patch_size":
                args.pop(known, None)
        return Encoder(
            EncoderConfig(
                name=name,
                image_size=tuple(cfg["input_size"][1:]),
                channels=cfg["input_size"][0],
                patch_size=args.pop("patch_size", None),
                levels=tuple(levels),
                model_args={k: tuple(v) if isinstance(v, list) else v for k, v in args.items()},
                weights=str(folder / "model.safetensors"),
            )
        )

    def _freeze_patch_embed(self) -> None:
        stem = getattr(self.model, "patch_embed", None)
        if stem is None:
            raise UserError(f"encoder.freeze_patch_embed: {self.config.name} has no patch embedding; leave it False")
        stem.requires_grad_(False)


# ------------------------------------------------------------------------------------------------- building


def _outline(name: str) -> Any:
    """The model without memory for its weights, to ask what it can do; refuses names and models that do not serve."""
    if name not in timm.list_models() and not (name.split(".")[0] in timm.list_models() and "." in name):
        raise UserError(f"encoder.name: timm has no model {name!r}{near_names(name, timm.list_models())}")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    missing = [part for part in ("forward_intermediates", "forward_head", "feature_info") if not hasattr(model, part)]
    if missing:
        raise UserError(
            f"encoder.name: {name} gives no intermediate features (it lacks {', '.join(missing)}); "
            "take a ViT, DeiT, EVA, XCiT, Swin, PVTv2, MViTv2, Hiera or ConvNeXt"
        )
    return model


def _constructor_args(config: EncoderConfig, outline: nn.Module) -> dict[str, Any]:
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
    if config.image_size is not None and "img_size" in known:
        args["img_size"] = _pair(config.image_size)
    if "dynamic_img_size" in known and "always_partition" not in known:
        args["dynamic_img_size"] = True  # flat transformers: positions are resampled to the grid of each view
    if "strict_img_size" in known:
        args["strict_img_size"] = False  # pyramids with windows: any grid, padded to whole windows
    return args


def _create(name: str, args: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, num_classes=0, **args)
    except (AssertionError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        shown = ", ".join(f"{k}={v}" for k, v in args.items())
        raise UserError(f"encoder: timm refuses {name} with {shown}: {str(error) or type(error).__name__}") from error


def _levels(config: EncoderConfig, model: Any) -> list[int]:
    """Indices of the blocks or stages whose maps are given."""
    table = _feature_table(model)
    count = len(table)
    if config.levels is not None:
        wrong = [level for level in config.levels if not 0 <= level < count]
        if wrong or not config.levels:
            raise UserError(f"encoder.levels {config.levels}: {config.name} has levels 0 to {count - 1}")
        return list(config.levels)
    flat = len({row["reduction"] for row in table}) == 1
    return sorted({math.ceil(count * quarter / 4) - 1 for quarter in (1, 2, 3, 4)}) if flat else list(range(count))


def _measure(
    config: EncoderConfig, args: dict[str, Any], levels: list[int], size: tuple[int, int]
) -> tuple[int, list[int], list[int]]:
    """Embedding width, and width and stride of every level, by a forward pass without memory or arithmetic."""
    with torch.device("meta"):
        model = _create(config.name, args)
        images = torch.zeros(2, config.channels, *size)
    try:
        with torch.no_grad():
            final, maps = model.eval().forward_intermediates(images, indices=levels, output_fmt="NCHW")
            width = model.forward_head(final, pre_logits=True).shape[-1]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"encoder: {config.name} cannot take images of {size[0]} x {size[1]} ({str(error).splitlines()[0]}); "
            f"use a multiple of {_divisor(model)}"
        ) from error
    strides = [round(size[0] / found.shape[2]) for found in maps]
    finest = min(strides)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and len(set(strides)) == 1 and (size[0] % _pair(patch)[0] or size[1] % _pair(patch)[1]):
        raise UserError(
            f"encoder: images of {size[0]} x {size[1]} do not divide into {config.name}'s patches of "
            f"{_pair(patch)[0]} x {_pair(patch)[1]}; use a multiple of {finest}"
        )
    return width, [found.shape[1] for found in maps], strides


def _divisor(model: Any) -> int:
    return max(row["reduction"] for row in _feature_table(model))


def _feature_table(model: Any) -> list[dict[str, Any]]:
    info = model.feature_info
    return list(getattr(info, "info", info))


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


# -------------------------------------------------------------------------------------------------- weights


def _load_start_weights(model: Any, config: EncoderConfig) -> None:
    """Fills a model with start weights; refuses anything below a full match unless the config allows it."""
    if config.weights == "hub":
        try:
            load_pretrained(model, num_classes=0, in_chans=config.channels)
        except Exception as error:  # the hub's client raises many kinds
            raise UserError(f"encoder.weights hub: {config.name} could not be loaded: {error}") from error
        return
    state = read_weights(Path(str(config.weights)))
    head = {k for k in state if k.startswith(("head.", "fc.", "head_dist.")) and k not in model.state_dict()}
    state = {k: v for k, v in state.items() if k not in head}
    state = _fit_to_model(model, state)
    own = model.state_dict()
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
        print(f"encoder.weights {config.weights}: loaded in part; {words}")
    model.load_state_dict({k: v for k, v in state.items() if k in own and k not in shapes}, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, or of a run folder's encoder, without wrappers and their prefixes."""
    if path.is_dir():
        inside = [path / "encoder" / "model.safetensors", path / "model.safetensors"]
        path = next((file for file in inside if file.is_file()), inside[0])
    if not path.is_file():
        raise UserError(f"encoder.weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError, _unpickling_error()) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"encoder.weights: {path} cannot be read as weights: {reason}") from error
    while isinstance(state, dict) and not any(isinstance(v, Tensor) for v in state.values()):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            raise UserError(f"encoder.weights: {path} holds no tensors under {', '.join(WRAPPERS)}")
        state = inner
    if not isinstance(state, dict):
        raise UserError(f"encoder.weights: {path} holds no table of tensors")
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    while prefix := next((p for p in PREFIXES if state and all(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _unpickling_error() -> type[Exception]:
    import pickle

    return pickle.UnpicklingError


def _fit_to_model(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lets timm rename old keys and resample positions and patch kernels to the model's size, where it knows how."""
    module = inspect.getmodule(type(model))
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(dict(state), model)
    except (KeyError, RuntimeError, AssertionError, IndexError, AttributeError):
        return state  # foreign weights: the comparison of names that follows says what is wrong
