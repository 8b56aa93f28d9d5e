"""Evenly spaced samples of long lists."""

import numpy as np


def evenly_spaced(count: int, most: int) -> list[int]:
    """Numbers from 0 to `count` - 1, evenly spaced with both ends: all of them, or as many as `most`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)).tolist()
