"""Names all images that an evaluation cannot use as soon as it meets the first one, so that they can be repaired
together."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch.utils.data import Dataset

from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.problems import list_bad
from repre.data.loading.workers import in_workers, load_tracked
from repre.errors import BadImage, UserError
from repre.utils.progress import track


class Images(Protocol):
    """Images with labels of any kind."""

    def __len__(self) -> int: ...
    def load(self, index: int) -> Any:
        """Loads an image; raises UnreadableImage or UserError if something is wrong with it or its label."""

    def describe(self, index: int) -> str:
        """Name of image `index`."""


@contextmanager
def naming_bad_images(*sources: Images, workers: int) -> Iterator[None]:
    """If an image or its label cannot be used within the context, reads all of them and names all that are bad.

    Args:
        sources: the images of the evaluation.
        workers: processes that read them.

    Raises:
        UserError: instead of `BadImage`; names the images, each with the reason.
    """
    first = ""
    try:
        yield
    except BadImage as error:
        first = str(error)  # the traceback must not keep the workers of the evaluation alive
    if not first:
        return
    print("an image cannot be used; reading all images to list every such one", flush=True)
    reasons, count = [], 0
    for source in sources:
        count += len(source)
        found = in_workers(_Reasons(source), range(len(source)), workers=min(workers, len(source)))
        reasons += [reason for reason in track(found, "images", total=len(source)) if reason]
    reasons = list(dict.fromkeys(reasons))
    raise UserError(list_bad(reasons or [first], count, "images"))


class _Reasons(Dataset[str]):
    """Item i is why image i cannot be used; empty if it can."""

    def __init__(self, source: Images) -> None:
        self.source = source

    def __getitem__(self, index: int) -> str:
        try:
            load_tracked(self.source, index)
        except UnreadableImage as error:
            return unreadable(self.source.describe(index), error)
        except UserError as error:
            return str(error)
        return ""


def unreadable(name: str, error: UnreadableImage | str) -> str:
    """The message about an image that cannot be read."""
    return f"{name} cannot be read: {error}; repair or remove it"
