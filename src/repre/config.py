"""The config of a run: a frozen dataclass of the configs of its parts, to YAML and back."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from repre.config_values import from_dict, read_yaml, to_dict
from repre.data.io.file_choice import FileChoice
from repre.data.io.sources import Source, check_data, describe_data, open_source
from repre.data.labels.probe_config import ProbeConfig
from repre.data.loading.loader import LoaderConfig, sufficient_size
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.frameworks import FrameworkConfig, MoCoV3Config
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.needs import check_needs, needs_mask_token, used_masks
from repre.models.repre import ReconstructionConfig
from repre.training.optim import OptimConfig
from repre.utils.config_checks import check_fields, check_out, check_workers
from repre.utils.image_size import as_option, as_text, height_and_width

SAME_UPDATE = {
    "compute": ("micro_batch",),
    "encoder": ("grad_checkpointing",),
    "loader": ("in_flight_gib", "cache", "cache_gib", "memory", "remote_cache_gib"),
}
"""Settings by section that change neither the images nor the update of a step; all of them may change on resume."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a step is computed. These settings change the weights at most by rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of encoder and decoder; heads and losses run in fp32. `auto`: bf16 on CUDA devices that
    support it, else fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile encoder, teacher, decoder and the larger losses with torch.compile. `auto`: on CUDA, without `runtime.shard`,
    if the run is long enough to repay the minute of compiling."""
    micro_batch: int | Literal["auto"] = "auto"
    """Images encoded at once per process; 0: the whole batch. The loss still sees the whole batch (gradient cache), so
    the update equals that of the full batch, with less memory and about a third more time. `auto`: on CUDA the most
    that fit, measured before the first step; elsewhere the whole batch. Halved when a step runs out of memory."""

    def __post_init__(self) -> None:
        check_fields(self, "compute")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where a run runs and what it writes. Nothing here changes the weights as long as every step is finite, so all of it
    may change on resume."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; `auto` takes the fastest available."""
    shard: bool = False
    """With several processes, split the encoder's weights, gradients and optimizer state over them (FSDP2) instead of
    keeping everything on each: for encoders that do not fit otherwise."""
    workers: int | None = None
    """Processes per rank that decode images; None: one less than the number of cores, at most 16. 0 decodes in the
    training process."""
    not_finite: Literal["stop", "skip"] = "stop"
    """At a step whose loss or gradient is NaN or infinite: stop, or leave the weights as they are and continue with the next
    batch. Either way not_finite.jsonl names the layer and the files. It may change on resume."""
    storage_minutes: float = 5.0
    """How long to retry reading a file while its disk, network folder or server fails, or all files on it are
    missing. Then the run ends; a run of one process is saved first."""
    stuck_minutes: float = 30.0
    """With several processes: how long one may be silent, or all may make no progress, before the others exit and
    print where they are."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    checkpoint_minutes: float = 15.0
    """Minutes between two checkpoints; one is also written after every validation and at the end."""
    eval_every_epochs: int = 10
    """Epochs between two validations: metrics of the monitors, reconstruction panel, `best` checkpoint."""
    monitors: bool = True
    """Monitor the run without labels and raise alarms (docs/monitors.md). Without monitors, a validation measures
    only rankme, embedding_std, the panel and the probe."""
    monitor_samples: int = 1024
    """Largest size of the fixed sample that the monitors use; it is smaller if a validation would take too much time."""
    best_metric: str = "rankme"
    """Metric of a validation, or of a probe such as probe/miou, that chooses the `best` checkpoint."""
    keep_best: int = 1
    """Number of best encoders to keep, by `best_metric`. From 2 on, each is also saved as
    `checkpoints/best-STEP.pt`."""
    keep_every: int = 0
    """Epochs between two full checkpoints to keep, such as `checkpoints/epoch-0010.pt`; 0 keeps none."""
    probe_seconds: float = 60.0
    """If all probes on labels together took longer than this, they are skipped until the last validation."""
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    """Services that also receive the metrics; each needs its package, e.g. `pip install wandb`."""

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        for name in ("log_every", "eval_every_epochs", "monitor_samples", "keep_best"):
            if getattr(self, name) < 1:
                raise UserError(f"runtime.{name} must be at least 1, not {getattr(self, name)}")
        if not self.stuck_minutes > 0:
            raise UserError(f"runtime.stuck_minutes must be above 0, not {self.stuck_minutes}")
        check_workers(self.workers, "runtime.workers")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a pre-training run."""

    data: str | tuple[str, ...] = "scenes"
    """Images, one or several of: folders, text lists, quoted patterns, tar shards (shards/{0000..0099}.tar), zip archives,
    hf:NAME[:SPLIT], .parquet files, s3:// gs:// https:// addresses; or cifar10:ROOT, cifar100:ROOT, stl10:ROOT,
    fashion-mnist:ROOT, imagenet:ROOT, `scenes`. If they moved, a run resumes with their new path."""
    include: tuple[str, ...] = ()
    """Use only files whose name in the folder or archive matches one of these patterns; * also matches slashes."""
    exclude: tuple[str, ...] = ()
    """Leave out files that match one of these patterns, such as '*_mask.png'."""
    any_ending: bool = False
    """Also use files in folders that have another ending, or none, but contain an image."""
    masks: Literal["leave", "take"] = "leave"
    """`leave` out masks and other label images that are stored with images and named after them, or `take` them as
    images."""
    out: str = "runs/repre"
    """The run's folder. Run the same command again to resume an unfinished run."""
    start_from: str | None = None
    """A run, or a checkpoint of one, whose whole state this run starts with; `repre pretrain --from` sets it."""
    epochs: int = 100
    """Passes over the data."""
    batch_size: int = 256
    """Images per step, over all processes."""
    seed: int = 0
    """Random seed for weights, data order, views and drop path."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The vision transformer."""
    framework: FrameworkConfig = field(default_factory=MoCoV3Config)
    """The self-supervised framework."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The reconstruction branch's decoder."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    """The reconstruction branch's loss."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """The augmented views of an image."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its schedules."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """From files to batches."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Precision, compilation, memory."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Device, workers, logging, validation."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Measurements on labels while the run trains."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_data(self.data)
        check_out(self.out)
        if self.epochs < 1:
            raise UserError(f"epochs must be at least 1, not {self.epochs}")
        if self.batch_size < 2:
            raise UserError("batch_size must be at least 2: the frameworks compare images of a batch")
        if self.start_from is not None and self.encoder.weights is not None:
            raise UserError(
                f"a run that starts from {self.start_from} takes its weights from there; leave out encoder.weights"
            )
        check_needs(self.framework, self.views, self.reconstruction)
        runtime = self.runtime
        self.probe.check_run(
            eval_every_epochs=runtime.eval_every_epochs, best_metric=runtime.best_metric, shape=self.views.shape
        )
        size = self.encoder.image_size
        if size is not None and height_and_width(size) != self.views.shape:
            raise UserError(
                f"encoder.image_size is {as_text(size)}, but the global views have {as_text(self.views.size)} pixels, the "
                f"only size that the encoder is trained at; leave it out and set --views.size {as_option(size)}"
            )

    @property
    def data_name(self) -> str:
        """`data` as one text for messages."""
        return describe_data(self.data)

    @property
    def embedded_scenes(self) -> bool:
        """Whether the images are the embedded scenes."""
        return isinstance(self.data, str) and self.data.partition(":")[0] == "scenes"

    def open_source(self) -> Source:
        """Opens the images, decoded as the run needs them; UserError if there are none."""
        return open_source(
            self.data,
            channels=self.encoder.channels,
            canvas=self.decode_size,
            raw_values=self.views.value_range is not None,
            choice=FileChoice(self.include, self.exclude, self.any_ending, self.masks),
            labels=False,
            remote_gib=self.loader.remote_cache_gib,
        )

    def progress_at(self, step: int, *, total: int) -> float:
        """The progress of the run after `step` of its `total` steps; see `OptimConfig.progress_at`."""
        base = (self.optim.base_epochs or self.epochs) * (total // self.epochs)
        return self.optim.progress_at(step, total=total, base=base)

    @property
    def encoder_at_size(self) -> EncoderConfig:
        """The encoder's config, with the size of the global views."""
        return dataclasses.replace(self.encoder, image_size=self.views.size)

    @property
    def rendered_views(self) -> ViewsConfig:
        """The views to render: without clean targets and masks if nothing uses them."""
        mask = used_masks(self.framework, self.views, self.reconstruction)
        return dataclasses.replace(
            self.views, target=self.views.target if self.reconstruction.weight else "view", mask=mask
        )

    @property
    def mask_token(self) -> bool:
        """Whether the encoder needs a mask token."""
        return needs_mask_token(self.framework, self.views, self.reconstruction)

    @property
    def decode_size(self) -> int:
        """Side of the square that images are shrunk to fit where they are larger."""
        views = self.views
        shapes = [views.shape] * views.n_global + [views.local_shape] * views.n_local
        crops = ((shape, view.scale) for shape, view in zip(shapes, views.views))
        return self.loader.decode_size or sufficient_size(crops)


def identity(config: RunConfig | dict[str, Any]) -> dict[str, Any]:
    """What two configs, also as plain values, must share to be the same run: all but `out`, `runtime`, `probe` and what
    changes only the memory and the time that a step takes."""
    plain = dict(config) if isinstance(config, dict) else to_dict(config)
    for section, settings in SAME_UPDATE.items():
        if isinstance(plain.get(section), dict):
            plain[section] = {name: value for name, value in plain[section].items() if name not in settings}
    if plain.get("start_from"):
        plain["start_from"] = str(Path(plain["start_from"]).expanduser().resolve())
    return {name: value for name, value in plain.items() if name not in ("runtime", "out", "probe")}


def dump_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def load_yaml(path: Path) -> RunConfig:
    """Reads a `config.yaml`.

    Raises:
        UserError: it has a fault, which the message names; or it is empty, which may mean that it was cut short.
    """
    found = read_yaml(path)
    if not found:
        raise UserError(f"{path} is empty; use a recipe, or write the settings into the file")
    return from_dict(RunConfig, found, source=path.name)
