"""What to do about an alarm: for every monitor the change of the settings that its rule advises, as a command.

The command starts again with the settings of the run and the change, in a folder beside it.
"""

from collections.abc import Callable
from fnmatch import fnmatch

from repre.reporting.measurements import EVALUATION_OF, probe_labels
from repre.reporting.run_data import Row, RunData, finite_number
from repre.training import next_commands as commands
from repre.training.failure_record import NextStep
from repre.training.next_commands import setting, short

Advice = Callable[[RunData, float], NextStep]
"""From a run and the value that raised the alarm to what to do."""


def lower_lr(run: RunData, value: float = 0.0) -> NextStep:
    """Start again with a lower learning rate."""
    lr = short(commands.lower_lr(run.config))
    return NextStep(do=f"start again with --optim.lr {lr}", command=commands.with_lower_lr(run.path, run.config))


def raise_lr(run: RunData, value: float = 0.0) -> NextStep:
    """Start again with three times the learning rate, at most the highest of the papers; train longer if it is as high."""
    lr, highest = setting(run.config, "optim.lr") or 1.5e-4, commands.highest_lr(run.config)
    if lr >= highest:
        return longer(run)
    return _start_again(run, "lr", "--optim.lr", short(min(3 * lr, highest)))


def longer(run: RunData, value: float = 0.0) -> NextStep:
    """Train for four times the epochs."""
    command = commands.longer(run.path, run.config)
    return NextStep(do=f"train longer (--epochs {command.rpartition(' ')[2]})", command=command)


def check_data(run: RunData, value: float = 0.0) -> NextStep:
    """List what is wrong with the images."""
    return NextStep(do="list unreadable files and duplicates", command=commands.check_data(run.config))


def measure(run: RunData, *, probe: str = "") -> NextStep:
    """Evaluate with labels, several seeds and random init beside it.

    Args:
        probe: a probe on labels; the advice is the same measurement on the same labels. Empty: the labels of any probe that
            the run has.
    """
    do = "compare it with random init over several seeds"
    for name in (probe, "probe/miou", "probe/linear", "probe/knn"):
        labels = probe_labels(run, name) if name.startswith("probe/") else ""
        if labels:
            evaluation = EVALUATION_OF[name.removeprefix("probe/")]
            return NextStep(do=do, command=commands.compare(run.path, evaluation=evaluation, data=labels))
    return NextStep(do=f"{do} (add --data with your labels)", command=commands.compare(run.path))


def heavier_branch(run: RunData, value: float = 0.0) -> NextStep:
    """Start again with more weight on the reconstruction; train longer if its gradient is the larger one already."""
    _, ratios = run.series("gradient_ratio", validations=True)
    if ratios and ratios[-1] > 1:
        return longer(run)
    weight = setting(run.config, "reconstruction.weight")
    return _start_again(run, "weight", "--reconstruction.weight", short(2 * weight) if weight else "1")


def _start_again(run: RunData, name: str, *options: str) -> NextStep:
    command = commands.start_again(run.path, *options, name=f"{name}{options[-1]}")
    return NextStep(do=f"start again with {' '.join(options)}", command=command)


def _balance(run: RunData, value: float) -> NextStep:
    """Divide the weight of the branch by the ratio of the gradients, which makes them equal at the next start. Multiply it
    by 10 at most, as the alarm of an inert branch says."""
    weight = setting(run.config, "reconstruction.weight") or 1.0
    return _start_again(run, "weight", "--reconstruction.weight", short(weight / max(value, 0.1)))


def _lighter_branch(run: RunData, value: float) -> NextStep:
    weight = setting(run.config, "reconstruction.weight") or 1.0
    return _start_again(run, "weight", "--reconstruction.weight", short(weight / 2))


def _temperature(run: RunData, value: float) -> NextStep:
    """0.2 is the temperature of MoCo v3 and lies within those of all papers with negatives, 0.1 to 0.5."""
    return _start_again(run, "temperature", "--framework.temperature", "0.2")


def _teacher_temperature(run: RunData, value: float) -> NextStep:
    """DINO's: from 0.04 to 0.07."""
    start, end = "--framework.teacher-temperature-start", "--framework.teacher-temperature"
    return _start_again(run, "temperature", start, "0.04", end, "0.07")


def _momentum(run: RunData, value: float) -> NextStep:
    momentum = setting(run.config, "framework.momentum") or 1.0
    return _start_again(run, "momentum", "--framework.momentum", "0.99" if momentum > 0.99 else "0.96")


def _larger_crops(run: RunData, value: float) -> NextStep:
    step = _start_again(run, "views", "--views.first.scale", "0.4", "1", "--views.second.scale", "0.4", "1")
    return NextStep(do="start again with larger crops (--views.first.scale and .second.scale)", command=step.command)


ADVICE: dict[str, Advice] = {
    "distinct_images": check_data,
    "update_size": lower_lr,
    "weight_size": lower_lr,
    "embedding_std": lower_lr,
    "rankme": lower_lr,
    "batch_std": lower_lr,
    "uniformity": lower_lr,
    "alignment": _larger_crops,
    "teacher_follows": _momentum,
    "teacher_agreement": _momentum,
    "negative_share": _temperature,
    "effective_negatives": _temperature,
    "prototype_information": _teacher_temperature,
    "teacher_entropy": _teacher_temperature,
    "correspondence": lower_lr,
    "patch_rank": lower_lr,
    "level_similarity_*": raise_lr,
    "psnr": lower_lr,
    "ssim": lower_lr,
    "level_share_*": lower_lr,
    "gradient_ratio": _balance,
    "gradient_cosine_*": _lighter_branch,
}
"""By the monitor of an alarm, as in `repre.training.monitoring.alarm_rules`."""


def after_alarm(run: RunData, alarm: Row) -> NextStep | None:
    """What to do about an alarm; None for a monitor that is not known here."""
    monitor, value = str(alarm.get("monitor")), finite_number(alarm.get("value")) or 0.0
    advice = next((advice for pattern, advice in ADVICE.items() if fnmatch(monitor, pattern)), None)
    return advice(run, value) if advice is not None else None
