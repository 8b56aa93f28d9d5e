"""Moves the whole state of a run into another: model and optimizer, at another image size too.

- Position embeddings and relative position tables of encoder and teacher are resampled to the new size. Their averages in
  the optimizer start anew: those of squared gradients could become negative when they are resampled, and gradients of other
  positions are on another scale. AdamW corrects new averages for their start, so it takes no large steps.
- A decoder or a mask token that only one of the runs has starts at random init, or is left out.
- Everything else must fit, and is copied.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from repre.config import RunConfig
from repre.config_values import differences, to_dict
from repre.errors import UserError
from repre.frameworks import framework_name
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.repre import RePre
from repre.models.timm_model import constructor_arguments, create_meta_model
from repre.models.weights import resample_state
from repre.utils.fsdp import distribute_like, is_dtensor
from repre.utils.image_size import height_and_width

OPTIONAL = re.compile(r"decoder\.|(?:.*\.)?mask_token\.")
"""Names of tensors that one of the runs may lack."""
ARCHITECTURE = ("name", "patch_size", "channels", "model_args")
"""Settings of the encoder that decide what its tensors mean."""
PLACES = ("in the new run", "in the run that it starts from")
CHANGES_SIZE = ("img_size", "drop_path_rate")
"""Arguments of timm models that change neither the meaning of tensors nor, but for positions, their shapes."""


def transfer_model(model: RePre, saved: Mapping[str, Tensor], *, config: RunConfig, source: RunConfig) -> list[str]:
    """Loads the tensors of another run's model.

    Args:
        model: of the new run; it may be split over processes.
        saved: the other run's tensors.
        config, source: settings of the new and of the other run.

    Returns:
        The names of resampled parameters.

    Raises:
        UserError: the models differ in more than the image size; the message names the settings.
    """
    _check_architecture(config, source)
    own, state = model.state_dict(), dict(saved)
    arguments = timm_arguments(source.encoder_at_size)
    for prefix, encoder in [(name, module) for name, module in model.named_modules() if isinstance(module, Encoder)]:
        start = f"{prefix}.model."
        part = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
        if encoder.image_size != height_and_width(source.views.size):
            fitted = resample_state(encoder.model, part, name=source.encoder.name, arguments=arguments)
            state |= {start + name: value for name, value in fitted.items()}
    shared = {name: value for name, value in state.items() if name in own or not OPTIONAL.match(name)}
    wrong = [name for name in own if name not in shared and not OPTIONAL.match(name)]
    wrong += [name for name, value in shared.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise _refusal(config, source, f"{len(wrong)} tensors of the model differ, such as {wrong[0]}")
    model.load_state_dict({name: distribute_like(value, own[name]) for name, value in shared.items()}, strict=False)
    return [name for name, value in shared.items() if name in saved and value is not saved[name]]


def timm_arguments(config: EncoderConfig) -> dict[str, Any]:
    """The arguments that the encoder of a config creates its timm model with."""
    model = create_meta_model(config.name)
    return constructor_arguments(
        model,
        config.name,
        size=height_and_width(config.image_size or model.pretrained_cfg["input_size"][1:]),
        channels=config.channels,
        drop_path=config.drop_path,
        patch_size=config.patch_size,
        model_args=config.model_args,
    )


def parameter_names(model: RePre, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def transfer_optimizer(
    model: RePre,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[str, Any],
    names: list[str] | None,
    *,
    new: Iterable[str],
) -> None:
    """Loads the averages of another run's optimizer, parameter by parameter, whatever groups they are in.

    Args:
        saved: the state of the other optimizer.
        names: of its parameters, in its order; None where the checkpoint does not say (those of earlier versions).
        new: names of parameters whose averages start anew.

    Raises:
        UserError: the checkpoint does not say which averages belong to which parameter.
    """
    own, count = parameter_names(model, optimizer), sum(len(group["params"]) for group in saved["param_groups"])
    names = names or (own if len(own) == count else None)
    if names is None:
        raise UserError(
            "--from: an earlier version saved the checkpoint without the names of the optimizer's parameters, and the new "
            "run trains others; keep the settings of branch and masks for one run, and change them in the next"
        )
    new = set(new)
    averages = {name: saved["state"][number] for number, name in enumerate(names) if number in saved["state"]}
    state = {number: averages[name] for number, name in enumerate(own) if name in averages and name not in new}
    load_optimizer(optimizer, {"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state of full tensors, also where the parameters are split over processes.

    The averages get the parameter's order in memory, by which fused kernels pair them: another device may have saved others.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def own_value(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        if is_dtensor(parameter):
            return distribute_like(value, parameter)
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    own = {
        index: {name: own_value(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    kernels = [{name: group[name] for name in ("fused", "foreach")} for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "state": own})
    for group, kernel in zip(optimizer.param_groups, kernels):
        group.update(kernel)  # a run that was split, or is now, needs others than the one that saved


def _check_architecture(config: RunConfig, source: RunConfig) -> None:
    """Refuses what the shapes of tensors do not show, such as other attention heads or another framework."""
    mine, theirs = ({"framework": {"name": framework_name(each.framework)}} for each in (config, source))
    if lines := differences(mine, theirs, places=PLACES):
        raise _refused(lines, "the framework's heads cannot be taken over")
    one, other = (
        {key: value for key, value in timm_arguments(each.encoder_at_size).items() if key not in CHANGES_SIZE}
        for each in (config, source)
    )
    if one != other or config.encoder.name.split(".")[0] != source.encoder.name.split(".")[0]:
        mine, theirs = (
            {"encoder": {name: to_dict(each.encoder)[name] for name in ARCHITECTURE}} for each in (config, source)
        )
        raise _refused(differences(mine, theirs, places=PLACES), "the encoder is another one")


def _refusal(config: RunConfig, source: RunConfig, reason: str) -> UserError:
    """The refusal of tensors that do not fit, with the settings of the model's parts that differ."""
    mine, theirs = (
        {name: to_dict(getattr(each, name)) for name in ("encoder", "framework", "decoder")}
        for each in (config, source)
    )
    return _refused(differences(mine, theirs, places=PLACES), reason)


def _refused(lines: list[str], reason: str) -> UserError:
    return UserError(
        "\n  ".join(
            [f"--from: {reason}. These settings must be those of the run that the new one starts from:", *lines]
        )
        + "\nleave out the options, the recipe or the --config that set them; or start from the encoder's weights alone, "
        "with --encoder.weights instead of --from"
    )
