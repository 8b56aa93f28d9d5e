"""Starts processes on systems without fork, also from scripts without a main guard, notebooks and standard input."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from repre.utils.shared_memory import FORK


@contextmanager
def hidden_main() -> Iterator[None]:
    """Inside, processes that Python spawns do not run the main script again.

    They would otherwise repeat everything in it that is not below ``if __name__ == "__main__":``, such as the training that
    starts them. Workers need nothing of the script: what they execute lies in modules of this package.
    """
    main = sys.modules.get("__main__")
    if FORK or main is None:
        yield
        return
    names = ("__spec__", "__file__")
    before = {name: getattr(main, name) for name in names if hasattr(main, name)}
    try:
        for name in before:
            setattr(main, name, None)
        yield
    finally:
        for name, value in before.items():
            setattr(main, name, value)
