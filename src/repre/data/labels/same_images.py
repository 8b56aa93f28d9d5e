"""Notes when the test images of an evaluation are its training images. Loads no torch, for the report."""

from typing import Protocol

SAME_IMAGES = "the test images are the training images: the metrics say nothing about other images"
"""A note among those of a result."""


class Fingerprinted(Protocol):
    """Labeled data that know which files they are."""

    notes: list[str]

    def fingerprint(self) -> str: ...


def same_images(train: str, test: str) -> list[str]:
    """The note where the identities of training and test images are equal; nothing otherwise."""
    return [SAME_IMAGES] if train == test else []


def notes_on_pair(train: Fingerprinted, test: Fingerprinted) -> list[str]:
    """What a user should know of training and test images, each note once."""
    return list(dict.fromkeys([*train.notes, *test.notes, *same_images(train.fingerprint(), test.fingerprint())]))
