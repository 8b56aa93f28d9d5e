"""Whether all ranks see the images that rank 0 sees: an image that is missing on one of them is no damaged image."""

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.errors import UserError
from repre.utils.together import my_share, waiting_ranks

TRIED = 16
"""Images of which one is looked for that can be read."""


def readable_image(source: Source) -> int | None:
    """An image of a source that rank 0 can read, for `check_image_is_shared`; None if there is none among the first ones, or
    there are no other ranks."""
    for index in range(min(TRIED, len(source)) if waiting_ranks() else 0):
        try:
            source.load(index)
            return index
        except UnreadableImage:
            continue
    return None


def check_image_is_shared(source: Source, index: int | None) -> None:
    """Reads an image on a rank other than 0; None does nothing.

    Raises:
        UserError: it cannot be read.
    """
    rank = my_share()[0]
    if not rank or index is None:
        return
    try:
        source.load(index)
    except UnreadableImage as error:
        raise UserError(
            f"rank {rank} cannot read {source.describe(index)}, but rank 0 can ({error}); all ranks must see the "
            "images at the same path"
        ) from error
