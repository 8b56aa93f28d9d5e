"""The images of a run, in the order of the list of files that it began with, and the loader of their batches."""

from collections.abc import Callable
from functools import partial

import torch

from repre.config import RunConfig
from repre.data.io.cache_folders import with_cache
from repre.data.io.image_files import FileSource
from repre.data.io.sources import Source, describe_source
from repre.data.io.value_ranges import check_values
from repre.data.loading.loader import Loader
from repre.data.loading.manifest import apply_manifest, write_manifest
from repre.data.loading.order import check_batch
from repre.data.loading.resident import is_wanted, keep_resident
from repre.data.views.render import draw_views
from repre.data.views.view_recipes import ViewsConfig
from repre.training.prospects import check_prospects
from repre.training.rank_check import check_files_agree
from repre.training.run_folder import RunFolder
from repre.training.start_from import Start
from repre.types import Batch, Views
from repre.utils.device import pick_workers
from repre.utils.dist import barrier, is_main_process, rank, world_size
from repre.utils.io import keep_copy


def open_run_source(config: RunConfig, folder: RunFolder, start: Start | None) -> tuple[Source, str | None]:
    """Opens the images; a new run checks them, and what it can learn, and writes down the list of its files first. A
    collective call.

    Args:
        start: of a run that starts from another. One that goes on with its plan has its list of files.

    Returns:
        The images, and what to say about them: what a new run takes and leaves, whether they differ from the list, and
        whether little can be learned.

    Raises:
        UserError: there are too few images, nothing can be learned, or the values of a new run's images do not fit their
            range.
    """
    source = _with_patience(config.open_source(), config)
    check_files_agree(config, source)
    check_batch(config.batch_size, images=len(source), spec=source.spec, processes=world_size())
    is_new = not (folder.last.is_file() or folder.previous.is_file())
    notes: list[str] = []
    if is_new:
        warnings = check_prospects(config, images=len(source), first_step=0 if start is None else start.first_step)
        check_values(source, config.views.value_range)
        notes = [*describe_source(source), *warnings]
    files = None if start is None else start.files
    if is_main_process() and is_new:
        if files is not None and files.is_file():
            keep_copy(files, folder.files)
        else:
            write_manifest(source, folder.files)
    barrier()
    source, warning = apply_manifest(source, folder.files)
    source = _with_patience(source, config)
    notes += [warning] if warning else []
    if is_main_process():
        note = folder.begin(config)
        notes += [note] if note and not is_new else []
    return source, "\n".join(notes) or None


def _with_patience(source: Source, config: RunConfig) -> Source:
    if isinstance(source, FileSource):
        source.patience = 60 * config.runtime.storage_minutes
    return source


def build_loader(
    config: RunConfig,
    source: Source,
    views: ViewsConfig,
    *,
    start: int,
    render: Callable[[Batch], Views],
    device: torch.device,
    log: Callable[[str], object],
) -> Loader:
    """The loader of a run's batches.

    Args:
        views: of the run, with masks that fit the encoder.
        start: the first step.
        render: makes the views of a batch; on the CPU the loader's workers do.
        device: of the training.
        log: prints a message for the user.
    """
    settings, on_cpu = config.loader, device.type == "cpu"
    workers = pick_workers(config.runtime.workers)
    keep = partial(
        keep_resident,
        memory=settings.memory,
        device=device,
        canvas=config.decode_size,
        workers=workers,
        in_flight_gib=settings.in_flight_gib,
        log=log,
    )
    return Loader(
        with_cache(source, mode=settings.cache, gib=settings.cache_gib, epochs=config.epochs, log=log),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        canvas=config.decode_size,
        workers=workers,
        start=start,
        rank=rank(),
        world_size=world_size(),
        draw=None if on_cpu else partial(draw_views, views, seed=config.seed),
        render=render if on_cpu else None,
        in_flight_gib=settings.in_flight_gib,
        keep=keep if is_wanted(settings.memory, device=device, epochs=config.epochs) else None,
        log=log,
    )
