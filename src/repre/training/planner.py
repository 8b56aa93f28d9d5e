"""A probe of half a minute before a run: what fits, how fast it is, what limits it, and how long it will take.

decode   images per second of one process, times the processes; on the CPU their views too, which are made there
step     views, forward, backward, optimizer and teacher on real images, at falling micro-batches
"""

import gc
import os
import resource
import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from repre.config import ComputeConfig, RunConfig
from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source, open_source
from repre.data.loading.loader import epoch_order, stack
from repre.data.views.render import make_views
from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.models.repre import RePre, build_model
from repre.training.loop import clip_gradients, gradient_norm
from repre.training.optim import build_optimizer, set_schedule
from repre.training.step import forward_backward, split_views, validate_micro_batch
from repre.types import Batch, Features, Views
from repre.utils.device import pick_device, pick_precision, pick_workers

MARGIN = 0.9
"""Share of the memory that a run may take."""
SMALLEST = 8
"""Images of the smallest micro-batch that is tried."""


@dataclass(frozen=True)
class Trial:
    """One way to compute the step of the whole batch, as measured.

    Attributes:
        images_per_s: of the step alone; None where it did not fit.
        memory_gib: peak, of the device, or of the process on the CPU; None where it did not fit.
        heads_gib: what heads and contrastive loss keep of the whole batch for the backward pass, however small its pieces.
    """

    micro_batch: int
    precision: str
    compile: bool
    grad_checkpointing: bool
    images_per_s: float | None
    memory_gib: float | None
    heads_gib: float | None = None


@dataclass(frozen=True)
class Plan:
    """What was measured, and what it means for the run.

    Attributes:
        chosen: the fastest probe that fits.
        decode_per_s: images that one process decodes per second.
        workers: processes that keep up with the step, at most the processor's cores less one.
        images_per_s: what the whole run will reach: the slower of step and decoding.
        limit: the step, or the decoding of images.
        hours: of the config's epochs.
        epochs: of the config, or as many as `max_hours` allow.
    """

    config: RunConfig
    device: str
    probes: tuple[Trial, ...]
    chosen: Trial
    decode_per_s: float
    workers: int
    images_per_s: float
    limit: str
    images: int
    hours: float
    hours_per_100_epochs: float
    epochs: int

    @property
    def options(self) -> list[str]:
        """The options to add to `repre pretrain`."""
        chosen = self.chosen
        words = [f"--runtime.workers {self.workers}", f"--compute.precision {chosen.precision}"]
        if chosen.micro_batch < self.config.batch_size:
            words.append(f"--compute.micro-batch {chosen.micro_batch}")
        if chosen.compile:
            words.append("--compute.compile")
        if chosen.grad_checkpointing:
            words.append("--encoder.grad-checkpointing")
        if self.epochs != self.config.epochs:
            words.append(f"--epochs {self.epochs}")
        return words


def plan(config: RunConfig, *, seconds: float = 30.0, max_hours: float | None = None) -> Plan:
    """Measures about `seconds` on this machine; writes nothing.

    Raises:
        UserError: nothing fits into the memory, the data does not serve, or `max_hours` does not suffice for one epoch.
    """
    device = pick_device(config.runtime.device)
    source = open_source(config.data, channels=config.encoder.channels, canvas=config.decode_size)
    if config.batch_size > len(source):
        raise UserError(f"batch_size is {config.batch_size}, but {source.spec} has only {len(source)} images")
    batch, decode_per_s = _decode(source, config, limit=seconds / 4)
    if device.type == "cpu":  # the views are made where the images are decoded
        begun = time.monotonic()
        make_views(batch, config.rendered_views, seed=config.seed, device=device)
        decode_per_s = 1 / (1 / decode_per_s + (time.monotonic() - begun) / config.batch_size)
    probes: list[Trial] = []
    fits: list[Trial] = []
    end = time.monotonic() + seconds * 3 / 4
    for wanted in _candidates(config, device):
        if fits and time.monotonic() > end:
            break
        found = _probe(wanted, batch, device, config)
        probes.append(found)
        if found.images_per_s is not None:
            fits.append(found)
            if found.micro_batch < config.batch_size and len(fits) > 1:
                break  # smaller pieces only cost time once one fits
    if not fits:
        raise UserError(
            f"not even {probes[-1].micro_batch} images at once fit on {device}; use a smaller encoder, --views.size or "
            "--encoder.grad-checkpointing"
        )
    chosen = max(fits, key=lambda probe: probe.images_per_s or 0.0)
    step_per_s = chosen.images_per_s or 0.0
    workers = max(1, min(pick_workers(None), -(-int(1.25 * step_per_s) // max(1, int(decode_per_s)))))
    rate = min(step_per_s, workers * decode_per_s)
    images = len(source) // config.batch_size * config.batch_size
    epoch_hours = images / rate / 3600
    epochs = config.epochs
    if max_hours is not None:
        epochs = min(epochs, int(max_hours / epoch_hours))
        if epochs < 1:
            raise UserError(f"--max-hours {max_hours}: one epoch takes {epoch_hours:.2g} hours on this machine")
    limit = (
        "the step" if step_per_s <= workers * decode_per_s else "decoding the images: more processor cores would help"
    )
    return Plan(
        config=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        probes=tuple(probes),
        chosen=chosen,
        decode_per_s=decode_per_s,
        workers=workers,
        images_per_s=rate,
        limit=limit,
        images=len(source),
        hours=epochs * epoch_hours,
        hours_per_100_epochs=100 * epoch_hours,
        epochs=epochs,
    )


def _decode(source: Source, config: RunConfig, *, limit: float) -> tuple[Batch, float]:
    """One batch of real images, repeated where time runs out, and the images that one process decodes per second."""
    order, images, begun = epoch_order(len(source), seed=config.seed, epoch=0), [], time.monotonic()
    spent = 0.0
    for index in order[: config.batch_size]:
        try:
            images.append(source.load(int(index)))
        except UnreadableImage:
            continue  # the run counts and lists it
        spent = time.monotonic() - begun
        if spent > limit and len(images) >= 2:
            break
    if not images:
        raise UserError(f"none of {config.batch_size} images of {source.spec} can be read")
    rate = len(images) / max(spent, 1e-6)
    images = [images[i % len(images)] for i in range(config.batch_size)]
    pixels, sizes = stack(images, canvas=config.decode_size, keep_values=config.views.value_range is not None)
    positions = torch.arange(config.batch_size)
    return Batch(pixels, sizes, positions, positions, epoch=0), rate


def _may_be_cut(config: RunConfig) -> bool:
    """Whether the encoder allows a batch in pieces."""
    try:
        encoder = Encoder(replace(config.encoder_at_size, weights=None))
        validate_micro_batch(encoder, config.reconstruction, micro_batch=SMALLEST)
    except UserError:
        return False
    return True


def _candidates(config: RunConfig, device: torch.device) -> list[Trial]:
    """What is tried, the most promising first: the whole batch, then ever smaller pieces; then, for the last, recomputed
    activations; on CUDA also the compiled encoder."""
    precision = config.compute.precision
    if precision == "auto":
        precision = "bf16" if pick_precision("auto", device) is torch.bfloat16 else "fp32"
    sizes = [config.batch_size]
    cut = _may_be_cut(config)
    while cut and sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    again = config.encoder.grad_checkpointing
    found = [Trial(size, precision, config.compute.compile, again, None, None) for size in sizes]
    if not again:
        found.append(replace(found[-1], grad_checkpointing=True))
    if device.type == "cuda" and not config.compute.compile:
        found.insert(0, replace(found[0], compile=True))
    return found


def _probe(wanted: Trial, batch: Batch, device: torch.device, config: RunConfig) -> Trial:
    """Times whole steps; gives the probe with its figures, or without them where the memory did not suffice."""
    compute = ComputeConfig(precision=wanted.precision, compile=wanted.compile)  # type: ignore[arg-type]
    encoder = replace(config.encoder_at_size, grad_checkpointing=wanted.grad_checkpointing, weights=None)
    limit = _memory_limit(device)
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        model = build_model(
            encoder=encoder,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=replace(config.reconstruction, end_fraction=1.0),  # at its dearest
            seed=config.seed,
        ).to(device)
        model.train()
        if compute.compile:
            model.encoder.compile()
        optimizer = build_optimizer(config.optim, model, keep=model.encoder.no_weight_decay)
        views = make_views(batch, config.rendered_views, seed=config.seed, device=device)

        def step() -> None:
            set_schedule(optimizer, config.optim, progress=0.5, batch=config.batch_size)
            made_here = device.type != "cpu"  # otherwise where the images are decoded
            losses = forward_backward(
                model,
                make_views(batch, config.rendered_views, seed=config.seed, device=device) if made_here else views,
                progress=0.5,
                seed=0,
                micro_batch=wanted.micro_batch if wanted.micro_batch < config.batch_size else 0,
                precision=pick_precision(compute.precision, device),
            )
            clip_gradients(model, gradient_norm(model), config.optim.clip_grad_norm)
            model.framework.before_step(0.5)
            optimizer.step()
            model.framework.after_step(model.encoder, losses.diagnostics, 0.5)
            optimizer.zero_grad(set_to_none=True)

        step()  # allocates, compiles, chooses kernels
        _wait(device)
        begun, steps = time.monotonic(), 0
        while steps < 2 or (time.monotonic() - begun < 2 and steps < 20):
            step()
            _wait(device)
            steps += 1
        rate = steps * config.batch_size / (time.monotonic() - begun)
        memory = _peak(device)
        heads = _kept_by_heads(model, views)
    except (torch.OutOfMemoryError, MemoryError):
        return wanted
    finally:
        gc.collect()
    if memory > MARGIN * limit:
        return replace(wanted, memory_gib=memory / 2**30)
    return replace(wanted, images_per_s=rate, memory_gib=memory / 2**30, heads_gib=heads / 2**30)


def _kept_by_heads(model: RePre, views: Views) -> int:
    """Bytes that heads and contrastive loss of these views keep for the backward pass, weights not counted."""
    count = len(views.images[0])
    few = next(split_views(views, 2))
    with torch.no_grad():
        seen = model.student_features(few, maps=False), model.teacher_features(few)
    student, teacher = (
        [Features(view.embedding.repeat(-(-count // len(view.embedding)), 1)[:count]) for view in features]
        for features in seen
    )
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for view in student:
        view.embedding.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = model.contrastive(student, teacher, 0.5)
    del graph
    return sum(kept.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> float:
    """Bytes: the device's peak since it was reset; on the CPU the peak of the process so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _memory_limit(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def words(found: Plan) -> str:
    """The plan for people."""
    lines = [f"{found.images} images, batch {found.config.batch_size}, on {found.device}"]
    for probe in found.probes:
        kind = [f"pieces of {probe.micro_batch}" if probe.micro_batch < found.config.batch_size else "whole batch"]
        kind += [probe.precision] + ["compiled"] * probe.compile + ["activations recomputed"] * probe.grad_checkpointing
        if probe.images_per_s is None:
            figures = "does not fit" if probe.memory_gib is None else f"takes {probe.memory_gib:.1f} GiB: too much"
        else:
            figures = f"{probe.images_per_s:.0f} images/s, peak {probe.memory_gib:.1f} GiB"
        mark = "  <- chosen" if probe is found.chosen else ""
        lines.append(f"  {', '.join(kind):44} {figures}{mark}")
    if found.chosen.heads_gib is not None:
        lines.append(f"  heads and loss keep {found.chosen.heads_gib:.2f} GiB of the whole batch, also when it is cut")
    lines += [
        f"  decoding {found.decode_per_s:.0f} images/s per process, {found.workers} of them",
        f"expected: {found.images_per_s:.0f} images/s, limited by {found.limit}",
        f"{found.hours_per_100_epochs:.2f} hours per 100 epochs; {found.epochs} epochs take {found.hours:.2f} hours",
        "add: " + " ".join(found.options),
    ]
    return "\n".join(lines)
