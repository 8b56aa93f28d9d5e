"""Checks before the first step whether a run can learn anything: refuses what cannot, names what is unlikely to help."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from repre.config import RunConfig
from repre.data.views.augmentations import ViewConfig
from repre.errors import UserError, counted
from repre.models.decoder import GROUPS, BranchCost, DecoderConfig
from repre.models.needs import framework_needs
from repre.utils.schedule import cosine

STEPS = 4096
"""Steps at which schedules are evaluated; of a longer run as many, evenly spread."""
LITTLE_MOVEMENT = 1e-4
"""Sum of all learning rates below which a run is all but still: AdamW moves a weight by about the learning rate in a step,
and weights start near 0.02."""
STILL_TEACHER = 0.9
"""Share of the first teacher that is left in the last one, above which the teacher hardly moved."""


def check_prospects(config: RunConfig, *, images: int, first_step: int = 0) -> list[str]:
    """Refuses a run in which no weight of the encoder would change; returns a warning for each setting that leaves little.

    Args:
        images: number of images.
        first_step: where the run starts, if it goes on with the plan of another.

    Raises:
        UserError: the learning rate is 0 at every step, with what raises it.
    """
    per_epoch = images // config.batch_size
    total = config.epochs * per_epoch
    spread = max(1, (total - first_step) // STEPS)
    progress = [config.progress_at(step, total=total) for step in range(first_step, total, spread)]
    rates = [_rate(config, at) for at in progress]
    if not any(rates):
        raise UserError(_cannot_learn(config, total=total, images=images))
    warnings = list(_of_schedules(config, rates, spread=spread, total=total, images=images))
    if (momentum := getattr(config.framework, "momentum", None)) is not None:
        warnings += _of_the_teacher([cosine(at, momentum, 1.0) for at in progress], spread=spread)
    warnings += _of_the_settings(config, total=total)
    return [f"warning: {text}" for text in warnings]


def _rate(config: RunConfig, progress: float) -> float:
    """The encoder's learning rate."""
    return config.optim.lr_at(progress, batch_size=config.batch_size, start=config.framework.head_warmup)


def _cannot_learn(config: RunConfig, *, total: int, images: int) -> str:
    optim = config.optim
    if optim.lr == 0:
        return "optim.lr is 0, so nothing would be learned; give --optim.lr above 0, such as 1.5e-4"
    numbers = f"{images} images, batch {config.batch_size}, {counted(config.epochs, 'epoch')}"
    where = f"the run has {counted(total, 'step')} in all ({numbers})"
    more = f"give more --epochs{', a smaller --batch-size' if config.batch_size > 2 else ''}"
    if config.framework.head_warmup:
        return (
            f"the encoder would never learn: {where}, and framework.head_warmup is {config.framework.head_warmup:g}; "
            f"{more} or --framework.head-warmup 0"
        )
    return (
        f"the learning rate would be 0 at every step: {where}, and the warm-up begins at 0; {more} or "
        "--optim.warmup-fraction 0"
    )


def _of_schedules(config: RunConfig, rates: Sequence[float], *, spread: int, total: int, images: int) -> Iterator[str]:
    optim, per_epoch = config.optim, images // config.batch_size
    peak = optim.lr * config.batch_size / optim.base_batch_size
    if total == 1:
        yield "the run has one step in all; give more --epochs or a smaller --batch-size"
    elif per_epoch == 1 and images > config.batch_size:
        yield (
            f"an epoch is one step, which shows {config.batch_size} of the {images} images; --batch-size "
            f"{max(2, images // 4)} or less gives more steps"
        )
    if (moved := spread * sum(rates)) < LITTLE_MOVEMENT:
        yield (
            f"all learning rates of the run add up to {moved:.1g}, so its weights hardly change: the peak is {peak:.2g} "
            f"(optim.lr {optim.lr:g} x batch {config.batch_size} / optim.base_batch_size {optim.base_batch_size}); give "
            "more --epochs or a higher --optim.lr"
        )
    warmup = optim.warmup_fraction * (optim.base_epochs or config.epochs)
    if warmup >= config.epochs and optim.warmup_lr < peak:
        yield (
            f"the warm-up of {warmup:g} epochs lasts as long as the run: the learning rate only rises, to {max(rates):.2g}; "
            "give a smaller --optim.warmup-fraction"
        )
    for name, value in (("min_lr", optim.min_lr), ("warmup_lr", optim.warmup_lr)):
        if value > peak:
            yield (
                f"optim.{name} {value:g} is above the peak learning rate {peak:.2g} of this batch; lower "
                f"--optim.{name.replace('_', '-')} or raise --optim.lr"
            )
    if (removed := max(rates) * max(optim.weight_decay, optim.weight_decay_end or 0.0)) > 0.1:
        yield (
            f"a step removes up to {removed:.0%} of every weight (learning rate x weight decay); lower --optim.lr or "
            "--optim.weight-decay"
        )


def _of_the_teacher(momenta: Sequence[float], *, spread: int) -> Iterator[str]:
    left = math.exp(spread * np.log(np.maximum(momenta, 1e-12)).sum())
    if left > STILL_TEACHER:
        yield (
            f"the teacher hardly moves: after the last step {left:.0%} of it is unchanged; give a "
            "lower --framework.momentum, or more --epochs"
        )


def _of_the_settings(config: RunConfig, *, total: int) -> Iterator[str]:
    framework, views, needs = config.framework, config.views, framework_needs(config.framework)
    queue = getattr(framework, "queue", 0)
    if queue > (shown := total * config.batch_size):
        yield (
            f"the queue of {queue} keys is longer than all {shown} images that the run shows, so random keys stay in it; "
            "give a smaller --framework.queue"
        )
    if getattr(framework, "freeze_last_layer", 0.0) >= 1:
        yield "the last layer of the heads is frozen for the whole run; give a smaller --framework.freeze-last-layer"
    same = views.first == views.second and _draws_nothing(views.first)
    if needs.global_views == 2 and not views.n_local and not needs.masks and same:
        yield (
            "both views of an image are always the same pixels, so there is nothing to compare; give a wider "
            "--views.first.scale and --views.second.scale, such as 0.2 1"
        )


def _draws_nothing(view: ViewConfig) -> bool:
    """Whether every view of an image is the same."""
    colors = view.jitter and (view.brightness or view.contrast or view.saturation or view.hue)
    certain = all(share in (0, 1) for share in (view.flip, view.grayscale, view.solarize))
    return view.scale == (1, 1) and certain and not colors and not view.blur


def check_decoder(cost: BranchCost, decoder: DecoderConfig) -> str | None:
    """A warning if the decoder is larger than the encoder, with a size that is about half of it."""
    share = max(cost.decoder_parameters / cost.encoder_parameters, cost.decoder_flops / cost.encoder_flops)
    if share <= 1:
        return None
    dim = int(decoder.dim * math.sqrt(0.5 / share)) // GROUPS * GROUPS
    smaller = f"--decoder.dim {dim}" if dim >= GROUPS else "--decoder.kind linear"
    return (
        f"warning: the decoder is {share:.0%} of the encoder, so it can rebuild pixels while the encoder learns little; use "
        f"{smaller}, or a larger encoder"
    )
