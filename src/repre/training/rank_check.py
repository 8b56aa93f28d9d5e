"""Refuses a run whose ranks do not see the same settings, files and checkpoint, as machines without a shared disk may."""

import hashlib
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import torch

import repre
from repre.config import RunConfig, identity
from repre.config_values import differences
from repre.data.io.sources import Source
from repre.data.loading.manifest import manifest_hash
from repre.errors import UserError
from repre.utils.dist import barrier, gather_objects, is_main_process, world_size

SEEN_SECONDS = 4.0
"""How long a network disk may take to show a new file to other machines."""


def check_files_agree(config: RunConfig, source: Source) -> None:
    """Compares the files that each rank finds with those of rank 0; a collective call.

    The list of a run, which all ranks read from its folder, would hide that some lack files.

    Raises:
        UserError: on all ranks, if any of them differs.
    """
    first, *others = gather_objects([(len(source), manifest_hash(source))])
    for number, other in enumerate(others, start=1):
        if other != first:
            raise UserError(
                f"rank {number} has {other[0]} images of {config.data_name}, rank 0 has {first[0]}, and the lists differ. "
                "Give all machines the same files"
            )


def check_ranks_agree(config: RunConfig, *, step: int) -> None:
    """Compares config, code, step and folder with those of rank 0; a collective call, before the first step.

    Args:
        step: where this rank begins or resumes.

    Raises:
        UserError: on all ranks, if any of them differs.
    """
    versions = f"repre {repre.__version__}, torch {torch.__version__}"
    mine = {"config": identity(config), "step": step, "code": code_digest(), "versions": versions}
    first, *others = gather_objects([mine])
    for number, other in enumerate(others, start=1):
        reason = _difference(config, first, other)
        if reason:
            raise UserError(f"rank {number} would train a different run than rank 0: {reason}")
    if world_size() > 1:
        _check_folder_is_shared(Path(config.out))


def _check_folder_is_shared(folder: Path) -> None:
    """Refuses a folder that other ranks do not see: a resumed run would begin anew there. A collective call."""
    token = gather_objects([f".seen-by-all-{uuid.uuid4().hex}"])[0]
    if is_main_process():
        (folder / token).touch()
    barrier()
    seen = gather_objects([_is_seen(folder / token)])
    if is_main_process():
        (folder / token).unlink()
    if not all(seen):
        raise UserError(
            f"rank {seen.index(False)} does not see rank 0's folder --out {folder}. The machines must share it, because "
            "all of them resume from its checkpoints; name a folder on a disk that they share"
        )


def _is_seen(path: Path) -> bool:
    end = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@cache
def code_digest() -> str:
    """SHA-256 of the package's files."""
    digest, root = hashlib.sha256(), Path(repre.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _difference(config: RunConfig, first: dict[str, Any], other: dict[str, Any]) -> str | None:
    if lines := differences(other["config"], first["config"]):
        return f"its settings differ ({'; '.join(lines[:8])}). Start all ranks with the same settings"
    if (first["versions"], first["code"]) != (other["versions"], other["code"]):
        return (
            f"it runs {other['versions']}, rank 0 runs {first['versions']}"
            f"{'' if first['versions'] != other['versions'] else ' with other code'}. Install the same on all machines"
        )
    if first["step"] != other["step"]:
        return (
            f"it begins at step {other['step']}, rank 0 at step {first['step']}. The machines must share the folder --out "
            f"{config.out}; if it is on a local disk, move it to a shared one"
        )
    return None
