"""A folder with one encoder that timm loads too: ``model.safetensors`` and ``config.json``.

Without this project, timm loads it in one line::

    timm.create_model("local-dir:FOLDER", pretrained=True)
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from repre.errors import RunError, UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_model import ENCODER_ARGUMENTS, accepts_any_size
from repre.models.transform import INTERPOLATION, usual_crop
from repre.utils.io import new_folder, write_atomically, write_json


def save_encoder(
    encoder: Encoder,
    folder: str | Path,
    *,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Writes an encoder to a folder: a new one as a whole, the files of an old one atomically.

    Args:
        encoder: the encoder.
        folder: created where it does not exist.
        mean, std: normalization of the channels that the encoder was trained with; None: that of `encoder.pixels`.
        value_range: pixel values that stood for 0 and 1 where the training declared a range; timm does not read it. None:
            that of `encoder.pixels`.

    Raises:
        RunError: the folder cannot be written; the old files are intact.
    """
    if mean is None and std is None and encoder.pixels.mean and encoder.pixels.std:
        mean, std = list(encoder.pixels.mean), list(encoder.pixels.std)
    value_range = value_range or encoder.pixels.value_range
    arguments = {key: value for key, value in encoder.timm_arguments.items() if key != "drop_path_rate"}
    original_cfg = encoder.model.pretrained_cfg
    pretrained_cfg = {
        "input_size": [encoder.config.channels, *encoder.image_size],
        "fixed_input_size": not accepts_any_size(arguments),
        "num_classes": 0,
        "interpolation": INTERPOLATION,
        "crop_pct": usual_crop(encoder.image_size),
        "crop_mode": "center",
        # timm has to know the two layers that it may replace: num_classes=10, in_chans=1
        **{key: original_cfg[key] for key in ("first_conv", "classifier", "global_pool") if original_cfg.get(key)},
    }
    if mean is not None and std is not None:
        pretrained_cfg |= {"mean": list(mean), "std": list(std)}
    config = {
        "architecture": encoder.config.name.split(".")[0],  # without the tag of timm's weights
        "num_classes": 0,
        "num_features": encoder.embedding_dim,
        "pretrained_cfg": pretrained_cfg,
        "model_args": arguments,
        "repre": {"out_indices": encoder.out_indices} | ({"value_range": list(value_range)} if value_range else {}),
    }
    weights = save({key: value.detach().cpu().contiguous() for key, value in encoder.model.state_dict().items()})

    def write(into: Path) -> None:
        write_atomically(into / "model.safetensors", lambda file: file.write(weights))
        write_json(into / "config.json", config)

    folder = Path(folder)
    try:
        if folder.is_dir():
            write(folder)
        else:
            with new_folder(folder) as partial:
                write(partial)
    except OSError as error:
        raise RunError(f"could not write {folder}: {error}; what was saved before is intact", kind="disk") from error


def saved_preprocessing(folder: Path) -> dict[str, Any]:
    """How images become the input of a saved encoder, as `ImageTransform.describe` gives it, from its config.json."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cfg, own = content["pretrained_cfg"], content["repre"]
    return {
        "size": cfg["input_size"][1:],
        "mean": cfg["mean"],
        "std": cfg["std"],
        "crop_pct": cfg["crop_pct"],
        "interpolation": cfg["interpolation"],
        "value_range": own.get("value_range"),
    }


def load_saved_encoder(folder: str | Path) -> Encoder:
    """Loads the encoder that `save_encoder` wrote.

    Raises:
        UserError: the folder holds no encoder, or its weights do not fit.
    """
    return Encoder(saved_encoder_config(folder))


def saved_encoder_config(folder: str | Path) -> EncoderConfig:
    """The config of the encoder that `save_encoder` or timm wrote, with the folder as its `weights`.

    Raises:
        UserError: the folder holds no encoder.
    """
    folder = Path(folder)
    try:
        content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        arguments, out_indices = dict(content.get("model_args") or {}), content.get("repre", {}).get("out_indices")
        name, (channels, height, width) = content["architecture"], map(int, content["pretrained_cfg"]["input_size"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder} holds no encoder of repre or timm ({type(error).__name__}: {error}); give a folder that repre "
            f"pretrain, repre export or timm wrote, or name timm's model of the weights: NAME={folder}"
        ) from error
    return EncoderConfig(
        name=name,
        image_size=(height, width),
        channels=channels,
        patch_size=arguments.pop("patch_size", None),
        out_indices=None if out_indices is None else tuple(out_indices),
        model_args={
            key: tuple(value) if isinstance(value, list) else value
            for key, value in arguments.items()
            if key not in ENCODER_ARGUMENTS
        },
        weights=str(folder),
    )


def load_in_timm(folder: str | Path) -> nn.Module:
    """Loads a folder of `save_encoder` as timm does without this project; the model is in evaluation mode."""
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()
