"""Start weights of an encoder: reads files of any origin, converts their names and shapes, and fits them to a model."""

import contextlib
import inspect
import math
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repre.errors import UserError
from repre.models.load_report import LoadReport, by_first_name, shorten
from repre.models.position_tables import Windows, fit_tables, table_windows
from repre.models.timm_model import create_timm_model
from repre.models.weight_files import DescribedModel, FoundWeights, read_weights
from repre.models.weight_names import convert, is_block, rename
from repre.models.weight_parts import find_encoder, flatten
from repre.utils.safe_load import UNREADABLE

OTHER_PARTS = re.compile(
    r"(?:(?:\w+_)?head\w*|fc|(?:\w+_)?classifier|pooler|(?:\w+_)?decoder\w*|\w*mask_token|projectors?|predictor|prototypes)"
    r"(?:\.|$)"
)
"""Names of what lies beside an encoder under the same prefix. All else that the model lacks belongs to another model."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types of numbers that weights may have."""


class WeightsMismatch(UserError):
    """Start weights do not fit the model.

    Attributes:
        reason: what differs, in words.
        fix: what to change, but for loading a part.
        in_part: whether some of the parameters would fit.
    """

    def __init__(self, reason: str, fix: str, *, in_part: bool) -> None:
        advice = ", or set --encoder.allow-partial to load the parameters that fit" if in_part else ""
        super().__init__(f"encoder.weights {reason}; {fix}{advice}")
        self.reason, self.fix, self.in_part = reason, fix, in_part


def load_start_weights(model: Any, source: str, *, name: str, allow_partial: bool = False) -> LoadReport:
    """Loads start weights into a timm model.

    Parameters may have timm's, transformers' or Meta's names (docs/start.md has the list). timm renames old keys, resamples
    position embeddings and patch kernels, and the input channels are adapted as timm does. Heads, decoders and optimizers in
    the file are ignored.

    Args:
        model: the timm model. With `hub` it has loaded its published weights already, and they are only checked.
        source: a name, see `weights_file`, or `hub`.
        name: of the model, for messages.
        allow_partial: load what fits, with a warning, when names or shapes differ.

    Raises:
        UserError: the file cannot be read, its values are no weights, or it does not match the model.
    """
    own, found = model.state_dict(), None
    if source == "hub":
        state: dict[str, Tensor] = {}
        report = _check_published(model, name)
    else:
        found = read_weights(source)
        state, report = _fit_file(model, found, source)
    if report.is_partial:
        if not allow_partial or not report.loaded:
            raise _mismatch(report, found, own, name=name)
        warnings.warn(str(report), stacklevel=3)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    _check_values(fitting, own, source)
    model.load_state_dict(fitting, strict=False)
    return report


def _mismatch(
    report: LoadReport, found: FoundWeights | None, own: Mapping[str, Tensor], *, name: str
) -> WeightsMismatch:
    """What differs between weights and the model, and how to have a model like theirs."""
    if found is None:
        reason, fix = f"hub does not match {name}: {report.differences()}", "use the published architecture"
    elif not report.loaded and not report.misshapen:
        reason = f"{report.source} holds no parameter of {name}, but {by_first_name(found.tensors)}"
        fix = "give the state_dict of an encoder"
    else:
        theirs, mine = _geometry(found.tensors), _geometry(own)
        differ = f"the file has {theirs}, the encoder {mine}: " if theirs and mine and theirs != mine else ""
        reason = f"{report.source} does not match {name}: {differ}{report.differences()}"
        fix = "set encoder.name to the model of the file, and encoder.model_args to its sizes"
    if found is not None and (options := found.model.as_options()):
        fix = f"give the encoder of these weights: {options}"
    return WeightsMismatch(reason, fix, in_part=bool(report.loaded))


def _geometry(tensors: Mapping[str, Tensor]) -> str:
    """Number and width of the blocks of a flat transformer and the side of its patches, in words; empty for others."""
    blocks = {int(match[1]) for name in tensors if (match := re.search(r"(?:^|\.)(?:blocks|layer)\.(\d+)\.", name))}
    kernel = next(
        (v for n, v in tensors.items() if re.search(r"patch_embed\w*\.proj\w*\.weight$", n) and v.ndim == 4), None
    )
    if not blocks or kernel is None:
        return ""
    return f"{max(blocks) + 1} blocks of width {kernel.shape[0]} and patches of {kernel.shape[-1]}"


def _check_values(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Refuses values that are no weights.

    Raises:
        UserError: quantized ones, or numbers that are not finite.
    """
    wrong = [n for n, v in state.items() if own[n].is_floating_point() and v.dtype not in FLOATS]
    if wrong:
        kind = str(state[wrong[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"encoder.weights {source} holds quantized or whole numbers ({kind}: {shorten(wrong)}), which are not "
            "weights without their scales; give the weights as float32, float16 or bfloat16"
        )
    wrong = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if wrong:
        raise UserError(
            f"encoder.weights {source} holds numbers that are NaN or infinite ({shorten(wrong)}): its training diverged, or "
            "float16 was too small for them; give an earlier checkpoint"
        )


def resample_state(
    model: Any, state: dict[str, Tensor], *, name: str, arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors of a timm model of another image size as `model` holds them: position embeddings and tables resampled.

    Args:
        state: the tensors, by the model's own names.
        name, arguments: that the model of the tensors was created with.
    """
    model.pretrained_model_args = {key: arguments[key] for key in ("img_size",) if key in arguments}
    with torch.device("meta"):
        source = create_timm_model(name, arguments)
    return _fit_shapes(model, state, table_windows(source))[0]


def _fit_file(model: Any, found: FoundWeights, source: str) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors of a file as the model holds them, and what became of them; loads nothing."""
    tensors, own, path = found.tensors, model.state_dict(), found.path
    layout, names = rename(tensors, own)
    if len(set(names.values())) < len(names):
        raise _mixed_layouts(path, [old for old, new in names.items() if old != new])
    part = find_encoder(names.values(), own)
    inside = {old: new.removeprefix(part.prefix) for old, new in names.items() if new.startswith(part.prefix)}
    plain = [old for old, new in inside.items() if is_block(new) and names[old] == old]
    if layout and plain:
        raise _mixed_layouts(path, plain)
    state = convert({new: tensors[old] for old, new in inside.items()}, own)
    if found.model.arguments:
        model.pretrained_model_args = found.model.arguments  # tells timm a position grid that is not square
    described = _described_model(found.model)
    if (theirs := _heads(found.model, described, own=heads(model))) is not None:
        check_heads(theirs, heads(model), source=source, options=found.model.as_options())
    state, adapted = _fit_shapes(model, state, {} if described is None else table_windows(described))
    others = [key for key in state if key not in own and OTHER_PARTS.match(key)]
    if not layout:  # timm's own conversion may have renamed more
        known = sum(new in own for new in inside.values())
        layout = "timm's names" if known == sum(key in own for key in state) else "other names, converted by timm"
    report = LoadReport(
        source=source,
        which=found.which,
        layout=layout,
        part=part.prefix.rstrip("."),
        left_out=tuple(prefix.rstrip(".") or "the top" for prefix in part.left_out),
        adapted=adapted,
        unused=(*(old for old in names if old not in inside), *others),
        **_compare(own, {key: value for key, value in state.items() if key not in others}),
    )
    return state, report


def heads(model: Any) -> list[int]:
    """Numbers of attention heads of all blocks. They do not show in the shapes of weights, so those of a model with other
    heads load in silence."""
    return [module.num_heads for module in model.modules() if hasattr(module, "num_heads")]


def check_heads(theirs: list[int], own: list[int], *, source: str, options: str = "") -> None:
    """Checks that a model has the attention heads that weights were trained with.

    Args:
        options: that give a model like that of the weights, where it is known.

    Raises:
        UserError: it has others.
    """
    for block, (number, other) in enumerate(zip(theirs, own)):  # of models with more blocks, the shared ones
        if number != other:
            fix = "set encoder.model_args.num_heads to that of the weights"
            raise UserError(
                f"encoder.weights {source}: these weights were trained with {number} attention heads in block {block}, but "
                f"the encoder has {other}; {f'give the encoder of these weights: {options}' if options else fix}"
            )


def _described_model(described: DescribedModel) -> Any:
    """The timm model that is written down beside weights, on the meta device; None if none is."""
    if described.name:
        with torch.device("meta"), contextlib.suppress(UserError):
            return create_timm_model(described.name, described.arguments)
    return None


def _heads(described: DescribedModel, source: Any, *, own: list[int]) -> list[int] | None:
    """Attention heads of the blocks of the model that is described; None if nothing says."""
    if described.heads is not None:
        return [described.heads] * len(own)
    return None if source is None else heads(source)


def _check_published(model: Any, name: str) -> LoadReport:
    """Compares a model with the published weights that timm loaded into it, since timm leaves silently what does not fit."""
    from timm.models import load_pretrained

    published: dict[str, Tensor] = {}

    def keep(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        published.update(flatten(state))
        return {}

    with contextlib.suppress(*UNREADABLE):  # formats that timm reads with functions of their own
        load_pretrained(model, num_classes=0, in_chans=3, filter_fn=keep, strict=False)
    cfg = model.pretrained_cfg
    source = ".".join(str(cfg[key]) for key in ("architecture", "tag") if cfg.get(key)) or name
    own = model.state_dict()
    if not published:
        return LoadReport(source=f"hub, {source}", layout="timm's published weights, not compared", loaded=len(own))
    state, adapted = _fit_shapes(model, convert(published, own), {})
    differences = _compare(own, state)
    unused = differences.pop("unexpected")  # such as the attention pooling of a model that is built without it
    return LoadReport(
        source=f"hub, {source}", layout="timm's published weights", adapted=adapted, unused=unused, **differences
    )


def _compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a `LoadReport` that compare a model's tensors with those that fit it."""
    misshapen = tuple(key for key in own if key in state and own[key].shape != state[key].shape)
    return {
        "loaded": sum(key in state for key in own) - len(misshapen),
        "missing": tuple(key for key in own if key not in state),
        "unexpected": tuple(key for key in state if key not in own),
        "misshapen": misshapen,
    }


def _fit_shapes(model: Any, state: dict[str, Tensor], windows: Windows) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Converts names and shapes with timm's own functions, and tells the adaptations; what timm does not know stays.

    Args:
        windows: of those tables of the state whose windows are known.
    """
    from timm.models import adapt_input_conv

    own, given, tables = model.state_dict(), state, fit_tables(model, state, windows)
    state = state | tables
    if own.keys() == state.keys() and all(own[key].shape == value.shape for key, value in state.items()):
        return state, _describe_positions(model, given, state)
    biases = {key: value for key, value in state.items() if key.endswith("qkv.bias") and key not in own}
    rest = {key: value for key, value in state.items() if key not in biases | tables}  # timm would leave out the biases
    filter_fn = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if filter_fn is not None:  # the errors are those of weights of another model, and of tables of unknown windows
        with contextlib.suppress(KeyError, RuntimeError, AssertionError, IndexError, AttributeError, ValueError):
            state = filter_fn(rest, model) | biases | tables
    state, adapted = dict(state), []
    for layer in _as_tuple(model.pretrained_cfg.get("first_conv")):
        key = f"{layer}.weight"
        kernel, wanted = state.get(key), own[key].shape
        if kernel is None or kernel.ndim != 4 or len(wanted) != 4:
            continue
        if given.get(key, kernel).shape[2:] != kernel.shape[2:]:
            adapted.append(f"patch kernel resampled from {_cross(given[key].shape[2:])} to {_cross(kernel.shape[2:])}")
        if kernel.shape[1] != wanted[1]:
            adapted.append(f"channels adapted from {kernel.shape[1]} to {wanted[1]}")
            state[key] = adapt_input_conv(wanted[1], kernel, base_chans=kernel.shape[1])
    return state, (*_describe_positions(model, given, state), *adapted)


def _describe_positions(model: Any, given: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Which position tables were resampled, in words."""
    words, old, new = [], given.get("pos_embed"), state.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if old is not None and new is not None and grid is not None and old.ndim == 3 and not _same_patches(old, new):
        words.append(f"position embedding resampled from {_source_grid(model, given)} to {_cross(grid)}")
    tables = sum(
        key in given and (given[key].shape != value.shape or not torch.equal(given[key], value))
        for key, value in state.items()
        if key.endswith("relative_position_bias_table")
    )
    return (*words, f"{tables} relative position tables resampled") if tables else tuple(words)


def _same_patches(old: Tensor, new: Tensor) -> bool:
    """Whether two position embeddings [1, N, D] have the same patches; timm may have taken the class token's away."""
    count = min(old.shape[1], new.shape[1])
    return abs(old.shape[1] - new.shape[1]) <= 2 and bool((old[:, -count:] == new[:, -count:]).all())


def _source_grid(model: Any, given: Mapping[str, Tensor]) -> str:
    """Rows and columns of a file's position embedding, by its config or else square; its tokens where neither fits them."""
    tokens, kernel = given["pos_embed"].shape[1], given.get("patch_embed.proj.weight")
    size = getattr(model, "pretrained_model_args", {}).get("img_size")
    for extra in range(3):  # class and distillation tokens
        side = math.isqrt(max(tokens - extra, 0))
        grids = [(side, side)]
        if size is not None and kernel is not None:
            height, width = (size, size) if isinstance(size, int) else size
            grids.insert(0, (height // kernel.shape[-2], width // kernel.shape[-1]))
        for rows, columns in grids:
            if rows * columns == tokens - extra > 0:
                return _cross((rows, columns))
    return f"{tokens} tokens"


def _cross(sizes: Collection[int]) -> str:
    return " x ".join(map(str, sizes))


def _mixed_layouts(path: Path, names: list[str]) -> UserError:
    return UserError(
        f"encoder.weights {path} mixes the names of two layouts ({shorten(names)} and others); save the "
        "state_dict of one model"
    )


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """timm's configs give one name, several or none."""
    return (names,) if isinstance(names, str) else tuple(names or ())
