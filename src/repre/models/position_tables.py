"""Relative position tables (Swin, BEiT): resamples them from the windows that they were made for to those of a model.

A table has (2 h - 1) (2 w - 1) rows for windows of h x w patches, and more for class tokens. Its length does not tell h and
w, and timm takes tables of unknown windows for those of squares.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repre.errors import UserError

Windows = dict[str, tuple[int, int]]
"""Rows and columns of the window of each table, by the table's name."""
TABLE = "relative_position_bias_table"


def table_windows(model: Any) -> Windows:
    """The windows of all tables of a timm model."""
    return {
        f"{name}.{TABLE}": tuple(module.window_size)
        for name, module in model.named_modules()
        if hasattr(module, TABLE) and isinstance(getattr(module, "window_size", None), tuple)
    }


def fit_tables(model: Any, state: Mapping[str, Tensor], source: Windows) -> dict[str, Tensor]:
    """The tables of a state whose windows are known, resampled to those of a model.

    Args:
        source: windows that the tables of the state were made for.
    """
    from timm.layers import resize_rel_pos_bias_table

    own, tables = model.state_dict(), {}
    for key, window in table_windows(model).items():
        if key in state and key in source and state[key].ndim == own[key].ndim:
            same = window == source[key]
            tables[key] = (
                state[key] if same else resize_rel_pos_bias_table(state[key], window, own[key].shape, source[key])
            )
    return tables


def check_windows(model: Any, *, name: str, size: tuple[int, int]) -> None:
    """Checks that timm will load saved tables of a model as they are.

    Raises:
        UserError: a table of oblong windows is as long as one of square windows, for which timm would take it.
    """
    for rows, columns in table_windows(model).values():
        length = (2 * rows - 1) * (2 * columns - 1)
        if rows != columns and math.isqrt(length) ** 2 == length:
            height, width = size
            raise UserError(
                f"encoder: {name} has windows of {rows} x {columns} patches for images of {height} x {width}, which timm "
                f"cannot tell from square ones when it loads the weights; use another size, such as "
                f"{max(size)} x {max(size)} or {2 * height} x {2 * width}"
            )
