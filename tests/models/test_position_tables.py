"""Relative position tables of windows of any shape."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.models.position_tables import fit_tables, table_windows
from repre.models.timm_folder import load_in_timm, save_encoder
from tests.models.timm_models import PYRAMID, build, draw_images, perturb

NAME = "swin_tiny_patch4_window7_224"


def swin(size: tuple[int, int], **changes: object) -> Encoder:
    return build(NAME, image_size=size, model_args=PYRAMID | {"window_size": 7}, **changes)


def as_grids(encoder: Encoder, tables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each table as [heads, 2 rows - 1, 2 columns - 1]."""
    return {
        key: tables[key].T.unflatten(1, (2 * rows - 1, 2 * columns - 1))
        for key, (rows, columns) in table_windows(encoder.model).items()
    }


def test_tables_of_turned_images_are_turned() -> None:
    """Fitting 3 x 7 to 7 x 3 is fitting 7 x 3 to 3 x 7 with rows and columns swapped, though the lengths are the same."""
    wide, tall = perturb(swin((48, 128))), swin((128, 48))
    windows, state = table_windows(wide.model), wide.model.state_dict()
    assert any(rows != columns for rows, columns in windows.values())
    grids = as_grids(wide, state)
    turned_state = {key: grid.mT.flatten(1).T for key, grid in grids.items()}
    turned_windows = {key: window[::-1] for key, window in windows.items()}
    fitted = as_grids(tall, fit_tables(tall.model, state, windows))
    turned = as_grids(wide, fit_tables(wide.model, turned_state, turned_windows))
    for key, grid in fitted.items():
        torch.testing.assert_close(grid, turned[key].mT, rtol=0, atol=1e-5)
    narrow = [key for key, (rows, columns) in windows.items() if rows != columns]
    assert all(not torch.equal(fitted[key].flatten(), grids[key].flatten()) for key in narrow)


def test_tables_of_the_same_windows_keep_their_bits() -> None:
    encoder = perturb(swin((48, 128)))
    state = encoder.model.state_dict()
    for key, table in fit_tables(encoder.model, state, table_windows(encoder.model)).items():
        assert torch.equal(table, state[key])


def test_a_saved_swin_of_oblong_windows_loads_at_any_size(tmp_path: Path) -> None:
    """At its own size also in timm, with the same features; at others its tables are resampled, also where timm alone
    could not know from what."""
    source = perturb(swin((32, 96)))
    save_encoder(source, tmp_path)
    images = draw_images((32, 96))
    assert torch.equal(load_in_timm(tmp_path)(images), source(images).embedding)
    for size in [(64, 64), (96, 32), (96, 128)]:
        other = swin(size, weights=str(tmp_path))
        assert other.load_report is not None
        assert "relative position tables resampled" in str(other.load_report)
        assert other(draw_images(size)).embedding.isfinite().all()


def test_windows_that_timm_would_mistake_are_refused() -> None:
    """A table of 1 x 5 windows has 9 rows, as one of 2 x 2; at the advised sizes no table is like that."""
    deep = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    with pytest.raises(UserError, match=r"windows of 1 x 5 patches.*such as 160 x 160 or 64 x 320"):
        build(NAME, image_size=(32, 160), model_args=deep)
    for size in [(160, 160), (64, 320)]:
        build(NAME, image_size=size, model_args=deep)
