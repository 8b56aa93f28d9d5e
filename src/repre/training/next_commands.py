"""The commands that a run advises: to resume, or to start again with other settings. Imports no torch.

The settings of a run come as plain values, as its config.yaml holds them, because the report reads runs of any version.
"""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PUBLISHED_LR = 5e-4
"""The highest peak learning rate per 256 images among the papers of the frameworks (DINO; MoCo v3 has 1.5e-4)."""
SUFFIX = re.compile(r"-(lr|batch|epochs|more|weight|temperature|momentum|views|next)[0-9.e-]*$")
"""What an advised command added to the name of a run's folder before."""


def resume(run: Path, *options: str) -> str:
    """The command that resumes a run, with options that may change on resume."""
    return shlex.join(["repre", "pretrain", "--resume", str(run), *options])


def start_again(run: Path, *options: str, name: str = "next") -> str:
    """The command that starts a run with the settings of another one and these options, in a folder beside it.

    Args:
        name: what is added to the name of the folder, such as lr2e-4.
    """
    return shlex.join(
        ["repre", "pretrain", "--config", str(run / "config.yaml"), "--out", _beside(run, name), *options]
    )


def evaluate(run: Path, name: str = "knn", *options: str) -> str:
    """The command that evaluates the encoder of a run."""
    return shlex.join(["repre", "eval", name, "--encoder", str(run), *options])


def compare(*runs: Path, evaluation: str = "knn", data: str | None = None, seeds: int = 3) -> str:
    """The command that evaluates runs in the same way, with random init beside them.

    Args:
        data: labeled data; None leaves it to the user.
    """
    labels = [] if data is None else ["--data", data]
    return shlex.join(["repre", "compare", *map(str, runs), "--eval", evaluation, *labels, "--seeds", str(seeds)])


def check_data(config: Mapping[str, Any]) -> str:
    """The command that reads every image of a run and lists those that cannot be read."""
    data = config.get("data")
    places = [str(place) for place in data] if isinstance(data, list | tuple) else [str(data or "photos/")]
    return shlex.join(["repre", "data", "check", *places])


def plan(run: Path) -> str:
    """The command that measures what limits the speed of a run."""
    return shlex.join(["repre", "plan", "--config", str(run / "config.yaml")])


def with_lower_lr(run: Path, config: Mapping[str, Any], *more: str) -> str:
    """The command that starts again with `lower_lr`."""
    lr = short(lower_lr(config))
    return start_again(run, "--optim.lr", lr, *more, name=f"lr{lr}")


def with_half_the_batch(run: Path, config: Mapping[str, Any]) -> str:
    """The command that starts again with half the batch, for a run that ran out of memory."""
    half = max(2, int(setting(config, "batch_size") or 256) // 2)
    return start_again(run, "--batch-size", str(half), name=f"batch{half}")


def longer(run: Path, config: Mapping[str, Any], factor: int = 4) -> str:
    """The command that trains `factor` times as long: on from the run, or anew where it has no checkpoint."""
    done = int(setting(config, "epochs") or 100)
    if not (run / "checkpoints" / "last.pt").is_file():
        return start_again(run, "--epochs", str(factor * done), name=f"epochs{factor * done}")
    more = (factor - 1) * done
    out = _beside(run, f"more{more}")
    return shlex.join(["repre", "pretrain", "--from", str(run), "--out", out, "--epochs", str(more)])


def _beside(run: Path, name: str) -> str:
    """A folder beside that of a run, named after it without what an advised command added before."""
    return str(run.with_name(f"{SUFFIX.sub('', run.name)}-{name}"))


def lower_lr(config: Mapping[str, Any]) -> float:
    """The learning rate to try after a run diverged or collapsed: a third of its own, at most `PUBLISHED_LR`.

    A factor of three is one step of the usual search over learning rates. A rate far above every published one is most
    often a slip (1e-1 for 1e-4), where thirds would take many tries. `optim.lr` holds for `optim.base_batch_size` images.
    """
    return min((setting(config, "optim.lr") or 1.5e-4) / 3, highest_lr(config))


def highest_lr(config: Mapping[str, Any]) -> float:
    """`PUBLISHED_LR` for the base batch size of a run: in proportion above 256 images, as in the papers, and by the square
    root below, as in the recipe small-data."""
    ratio = (setting(config, "optim.base_batch_size") or 256) / 256
    return PUBLISHED_LR * (ratio if ratio > 1 else ratio**0.5)


def setting(config: Mapping[str, Any], name: str) -> float | None:
    """The positive number of a setting such as optim.lr; None if there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def short(value: float) -> str:
    """A number with one significant digit, as an option takes it: 2e-4, 0.03, 5."""
    if 0.01 <= value < 10_000:
        return f"{float(f'{value:.0e}'):g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
