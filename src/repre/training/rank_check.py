"""Refuses a run whose ranks do not see the same settings, files and checkpoint, as machines without a shared disk may."""

from typing import Any

from repre.config import RunConfig, identity
from repre.config_values import differences
from repre.data.io.sources import Source
from repre.data.loading.manifest import manifest_hash
from repre.errors import UserError
from repre.utils.dist import gather_objects


def check_ranks_agree(config: RunConfig, source: Source, *, step: int) -> None:
    """Compares config, list of files and step with those of rank 0; a collective call, before the first step.

    Args:
        source: the images, in the order of the run.
        step: where this rank begins or resumes.

    Raises:
        UserError: on all ranks, if any of them differs.
    """
    mine = {"config": identity(config), "count": len(source), "files": manifest_hash(source), "step": step}
    first, *others = gather_objects([mine])
    for number, other in enumerate(others, start=1):
        reason = _difference(config, first, other)
        if reason:
            raise UserError(f"rank {number} would train another run than rank 0: {reason}")


def _difference(config: RunConfig, first: dict[str, Any], other: dict[str, Any]) -> str | None:
    if lines := differences(other["config"], first["config"]):
        return f"its settings differ ({'; '.join(lines[:8])}). Start all ranks with the same settings"
    if first["files"] != other["files"]:
        return (
            f"it has {other['count']} images of {config.data_name}, rank 0 has {first['count']}, and the lists differ. Give "
            f"all machines the same files, and an --out that they share ({config.out} may be on a local disk)"
        )
    if first["step"] != other["step"]:
        return (
            f"it begins at step {other['step']}, rank 0 at step {first['step']}. The machines must share the folder --out "
            f"{config.out}; if it is on a local disk, move it to a shared one"
        )
    return None
