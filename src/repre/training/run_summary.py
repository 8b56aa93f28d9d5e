"""What a run reports: its costs before it starts, its summary when it has finished."""

from dataclasses import asdict, dataclass
from typing import Any

from repre.config import RunConfig
from repre.models.decoder import BranchCost, DecoderConfig
from repre.models.repre import RePre
from repre.models.timm_folder import save_encoder
from repre.training.failures import FailureTracker
from repre.training.monitoring.gradient_balance import describe_balance
from repre.training.monitoring.validator import Validator
from repre.training.prospects import check_decoder
from repre.training.run_folder import RunFolder
from repre.utils.io import write_json


@dataclass(frozen=True)
class Summary:
    """The content of summary.json; `images` and rates count every image as often as it was shown."""

    steps: int
    epochs: int
    images: int
    seconds: float
    images_per_s: float
    data_wait: float
    final: dict[str, Any]
    best: dict[str, Any]
    validations: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    balance: str | None
    monitor_seconds: float
    probe_seconds: float
    unreadable: int
    changed: int
    several_frames: int
    skipped: int
    costs: BranchCost
    start: dict[str, Any] | None


def write_summary(
    folder: RunFolder,
    config: RunConfig,
    validator: Validator,
    failures: FailureTracker,
    *,
    steps: int,
    seconds: float,
    data_wait: float,
    cost: BranchCost,
    start: dict[str, Any] | None,
) -> None:
    """Writes summary.json; its presence marks the run as finished.

    Args:
        start: the checkpoint of another run that this one started with; None without one.
    """
    validations, rows = validator.validations, folder.read_metrics()
    images = steps * config.batch_size
    summary = Summary(
        steps=steps,
        epochs=config.epochs,
        images=images,
        seconds=seconds,
        images_per_s=images / max(seconds, 1e-9),
        data_wait=data_wait,
        final=rows[-1] if rows else {},
        best=validator.best,
        validations=validations,
        alarms=validator.alarms.as_dicts(),
        balance=describe_balance(validations[-1]),
        monitor_seconds=sum(validation.get("validation_seconds", 0.0) for validation in validations),
        probe_seconds=sum(validation.get("probe_seconds", 0.0) for validation in validations),
        unreadable=len(failures.unreadable),
        changed=len(failures.changed),
        several_frames=int(failures.several.sum()),
        skipped=failures.skipped,
        costs=cost,
        start=start,
    )
    write_json(folder.summary, asdict(summary))


def save_for_use(config: RunConfig, model: RePre, folder: RunFolder) -> None:
    """Exports the trained encoder to the run's folder, and writes the metrics as a table."""
    mean, std = (s.flatten().tolist() for s in config.views.statistics(config.encoder.channels))
    save_encoder(model.export_encoder, folder.encoder, mean=mean, std=std, value_range=config.views.value_range)
    folder.write_csv()


def describe_cost(cost: BranchCost, decoder_config: DecoderConfig) -> str:
    """Size of the encoder and cost of the branch beside it, with a warning if that is larger."""
    encoder, decoder = cost.encoder_parameters, cost.decoder_parameters
    if not decoder:
        return f"encoder {encoder / 1e6:.2f} M parameters; no reconstruction branch"
    text = (
        f"encoder {encoder / 1e6:.2f} M parameters; decoder {decoder / 1e6:.2f} M ({100 * decoder / encoder:.1f} %), "
        f"{100 * cost.decoder_flops / cost.encoder_flops:.1f} % of the encoder's forward FLOPs"
    )
    return "\n".join([text, *([] if (warning := check_decoder(cost, decoder_config)) is None else [warning])])
