"""A run that starts with the state of another: its settings, the checkpoint, and whether the plan of that run goes on.

Two things can happen:

- A new schedule. All tensors are taken over, and the run begins at step 0 of a plan of its own.
- A longer plan. If both runs have `optim.schedule wsd`, the checkpoint was saved before the decay, and the settings are the
  same but for the number of epochs, the run goes on from the step of the checkpoint. Its weights are those that the longer
  plan would have had from the start, bit for bit where a resumed run's are.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repre.config import RunConfig, identity, load_yaml
from repre.config_values import from_dict
from repre.errors import UserError, counted
from repre.training.checkpoint import checkpoint_file, load_checkpoint, load_latest
from repre.training.run_folder import RunFolder
from repre.training.start_weights import with_statistics
from repre.utils.safe_load import content_hash

MAX_WARMUP = 0.05
"""Share of a new schedule over which the learning rate rises, unless the user sets another. The averages of the optimizer
are kept, so the warm-up only bridges the step from the old learning rate to the new one (Ibrahim et al. 2024, arXiv
2403.08763, section 6.1: its length hardly matters)."""


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        config: of the new run, completed.
        source: config of the other run.
        checkpoint: file of the other run.
        source_step: steps that are done in it.
        first_step: where the new run starts: 0 in a new schedule, `source_step` in a longer plan.
        sha256: of the checkpoint's content.
        state: content of the checkpoint.
    """

    config: RunConfig
    source: RunConfig
    checkpoint: Path
    source_step: int
    first_step: int
    sha256: str
    state: dict[str, Any]

    @property
    def files(self) -> Path | None:
        """The list of files that a longer plan goes on with; None for a new schedule."""
        return self.checkpoint.parent.parent / "files.gz" if self.first_step else None

    @property
    def record(self) -> dict[str, Any]:
        """What checkpoints and the summary of the new run say about its start."""
        return {
            "checkpoint": str(self.checkpoint),
            "step": self.source_step,
            "first_step": self.first_step,
            "sha256": self.sha256,
        }

    def describe(self, resampled: list[str]) -> str:
        """The start in words.

        Args:
            resampled: names of parameters that were resampled to another image size.
        """
        if resampled:
            return (
                f"{self}; {counted(len(resampled), 'position table')} resampled to the size of the views: the optimizer's "
                "averages for them start anew"
            )
        return str(self)

    def __str__(self) -> str:
        where = f"{self.checkpoint}, step {self.source_step}"
        if self.first_step:
            return f"the run continues from {where}, before the decay, with {self.config.epochs} epochs in all"
        return f"the run starts with the state of {where}, and a new schedule of {counted(self.config.epochs, 'epoch')}"


def continued_config(spec: str, *, out: str | Path | None) -> RunConfig:
    """The settings of a run that starts from another without a config of its own: those of the other.

    If the run in `out` began there already, they are its settings, so that it can be resumed when the other run is gone.

    Args:
        spec: folder of a run, one of its checkpoints, or RUN@NAME.
        out: folder of the new run; None where it is not known.

    Returns:
        The config. Without a run in `out` it has an empty `out`, a short warm-up, and no `head_warmup`.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    recorded = None if out is None else Path(out) / "config.yaml"
    if recorded is not None and recorded.is_file():
        config = load_yaml(recorded)
        if config.start_from is not None and _same_place(config.start_from, spec):
            return replace(config, out=str(out), start_from=spec)
    file = _file(spec)
    settings = file.parent.parent / "config.yaml"
    config = load_yaml(settings) if settings.is_file() else _saved_config(load_checkpoint(file), file)
    return replace(
        started_config(config, spec),
        out="",
        framework=replace(config.framework, head_warmup=0.0),
        optim=replace(config.optim, base_epochs=None, warmup_fraction=min(config.optim.warmup_fraction, MAX_WARMUP)),
    )


def started_config(config: RunConfig, spec: str) -> RunConfig:
    """A config with its start; the encoder's weights come from there, at the size of the views."""
    return replace(config, start_from=spec, encoder=replace(config.encoder, weights=None, image_size=None))


def open_start(config: RunConfig, folder: RunFolder) -> tuple[RunConfig, Start | None]:
    """Reads the checkpoint that a run starts from, unless the run has a checkpoint of its own already.

    Returns:
        The config as the run records it, and the start.

    Raises:
        UserError: the checkpoint is missing, damaged or holds an encoder only; the settings belong to another model; or the
            plan is too short to go on with.
    """
    config = with_statistics(config)
    if config.start_from is None:
        return config, None
    if not config.out:
        raise UserError(f"--from {config.start_from} starts a new run: name its folder with --out")
    if folder.last.is_file() or folder.previous.is_file():
        if Path(config.out).resolve() == _run(config.start_from):
            raise UserError(
                f"--from {config.start_from} starts a new run, but --out names the same folder; name another one"
            )
        return _as_recorded(config, folder), None
    file = _file(config.start_from)
    loaded = load_latest(file, file.with_name("previous.pt") if file.name == "last.pt" else file)
    if loaded is None:
        raise UserError(f"--from {config.start_from}: there is no checkpoint {file}")
    state, _ = loaded
    if "model" not in state or "optimizer" not in state:
        last = file.with_name("last.pt")
        raise UserError(
            f"--from {config.start_from}: {file} holds an encoder only, without heads, teacher and optimizer. Start from a "
            f"whole checkpoint such as --from {last}, or start a new run with these weights: --encoder.weights {file}"
        )
    source, step = _saved_config(state, file), state["step"]
    sha256 = content_hash({key: value for key, value in state.items() if key != "format"})
    config, first_step = _settle(config, source, state)
    return config, Start(config, source, file, step, first_step, sha256, state)


def _settle(config: RunConfig, source: RunConfig, state: dict[str, Any]) -> tuple[RunConfig, int]:
    """The config as the run records it, and its first step: that of the checkpoint if the plan of its run goes on."""
    step, steps_per_epoch = state["step"], state.get("steps_per_epoch", 0)
    if not step or config.optim.schedule != "wsd" or source.optim.schedule != "wsd" or not steps_per_epoch:
        return config, 0
    longer = _with_start_of(config, source)
    if step > source.optim.decay_start(source.epochs * steps_per_epoch) or _plan(longer) != _plan(source):
        return config, 0

    def fits(epochs: int) -> bool:
        return config.optim.decay_start(epochs * steps_per_epoch) >= step

    if not fits(config.epochs):
        needed = config.epochs + 1
        while not fits(needed) and needed * steps_per_epoch < 1000 * step:
            needed += 1
        raise UserError(
            f"--from {config.start_from} continues from step {step}, but with {config.epochs} epochs the decay begins "
            f"earlier, at step {config.optim.decay_start(config.epochs * steps_per_epoch)}; give --epochs "
            f"{needed} or more, or a smaller --optim.decay-fraction"
        )
    return longer, step


def _plan(config: RunConfig) -> dict[str, Any]:
    """What must be the same before the decay of two runs, for one to go on with the plan of the other."""
    encoder = replace(config.encoder, weights=None, image_size=config.views.size, allow_partial=False)
    optim = replace(config.optim, base_epochs=config.optim.base_epochs or config.epochs, decay_fraction=0.0)
    plain = identity(replace(config, encoder=encoder, optim=optim, start_from=None))
    return {name: value for name, value in plain.items() if name != "epochs"}


def _as_recorded(config: RunConfig, folder: RunFolder) -> RunConfig:
    """The config of a run that goes on with the plan of another, with what was completed when it started."""
    if config.optim.base_epochs is not None or not folder.config.is_file():
        return config
    recorded = load_yaml(folder.config)
    if recorded.optim.base_epochs is None:
        return config
    return _with_start_of(config, recorded)


def _with_start_of(config: RunConfig, other: RunConfig) -> RunConfig:
    """A config with the warm-ups of another run, and the epochs that they are shares of."""
    optim = replace(
        config.optim,
        base_epochs=other.optim.base_epochs or other.epochs,
        warmup_fraction=other.optim.warmup_fraction,
    )
    return replace(config, optim=optim, framework=replace(config.framework, head_warmup=other.framework.head_warmup))


def _file(spec: str) -> Path:
    """The checkpoint that `spec` names; of a run its last one.

    Raises:
        UserError: there is none.
    """
    path = checkpoint_file(spec)
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise UserError(f"--from {spec}: there is no run in that folder (no config.yaml)")
        path = path / "checkpoints" / "last.pt"
        if not path.is_file() and not path.with_name("previous.pt").is_file():
            raise UserError(f"--from {spec}: the run has no checkpoint yet; run its own command again first")
    elif not path.is_file():
        raise UserError(f"--from {spec}: there is no run or checkpoint {path}")
    return path


def _run(spec: str) -> Path:
    """The folder of the run that `spec` names, which need not exist."""
    path = checkpoint_file(spec)
    return (path.parent.parent if path.suffix == ".pt" else path).resolve()


def _same_place(one: str, other: str) -> bool:
    return checkpoint_file(one).resolve() == checkpoint_file(other).resolve()


def _saved_config(state: dict[str, Any], file: Path) -> RunConfig:
    """The config in a checkpoint."""
    if "config" not in state:
        raise UserError(
            f"{file} is outside its run's folder, or holds no settings; give a checkpoint in its run's folder"
        )
    config: RunConfig = from_dict(RunConfig, state["config"], source=file.name)
    return config
