"""Windowed attention: a window of the grid's size is global attention, a smaller one does not see its neighbors."""

from dataclasses import replace

import pytest
import torch

from repre.errors import UserError
from repre.evaluation.detection.window_attention import use_windows
from repre.models.encoder import Encoder, EncoderConfig
from tests.tiny import ENCODERS


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(replace(ENCODERS["vit"], image_size=64)).eval()  # a grid of 8 x 8


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_window_of_the_grids_size_is_global_attention() -> None:
    plain, windowed = encoder(), encoder()
    assert use_windows(windowed, window=8, global_blocks=1) == [0, 1, 2]
    expected, features = plain(IMAGES), windowed(IMAGES)
    assert torch.equal(features.embedding, expected.embedding)
    for level, expected_level in zip(features.maps, expected.maps):
        assert torch.equal(level, expected_level)


@torch.no_grad()
def test_a_window_does_not_see_its_neighbors_and_a_global_block_does() -> None:
    model = encoder()
    assert use_windows(model, window=4, global_blocks=1) == [0, 1, 2]
    changed = IMAGES.clone()
    changed[:, :, :32, :32] = 0  # the first of four windows
    before, after = model(IMAGES).maps, model(changed).maps
    # after the first block: the class token has not carried anything across yet
    assert torch.equal(before[0][:, :, 4:, 4:], after[0][:, :, 4:, 4:])
    assert not torch.equal(before[0][:, :, :4, :4], after[0][:, :, :4, :4])
    assert not torch.equal(before[3][:, :, 4:, 4:], after[3][:, :, 4:, 4:])


@torch.no_grad()
def test_grids_that_windows_do_not_divide_and_other_aspects() -> None:
    model = encoder()
    use_windows(model, window=3, global_blocks=2)
    images = torch.rand(2, 3, 64, 40)
    maps = model(images).maps
    assert [tuple(level.shape[-2:]) for level in maps] == [(8, 5)] * 4
    assert torch.isfinite(maps[-1]).all()
    halves = model(images[:1]).maps[-1]
    assert torch.allclose(maps[-1][:1], halves, atol=1e-5), "images do not mix"


def test_cut_and_join_are_inverse() -> None:
    from repre.evaluation.detection.window_attention import _WindowHooks

    hooks = _WindowHooks(3, prefix=2)
    hooks.images, hooks.grid = 2, (7, 5)
    tokens = torch.rand(2, 2 + 35, 6)
    (cut,) = hooks.cut(torch.nn.Identity(), (tokens,))
    assert cut.shape == (2 * 3 * 2, 2 + 9, 6)
    assert torch.equal(cut[0, 2:5], tokens[0, 2:5])  # first row of the first window
    assert torch.equal(cut[1, 2], tokens[0, 2 + 3])  # the second window begins three patches to the right
    assert torch.allclose(hooks.join(torch.nn.Identity(), (), cut), tokens)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ENCODERS["swin"], "not a plain transformer"),
        (EncoderConfig(name="eva02_tiny_patch14_224", image_size=56), "use attention global"),
        (EncoderConfig(name="convnext_atto", image_size=64), "not a plain transformer"),
    ],
)
def test_models_without_such_blocks_are_refused(config: EncoderConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        use_windows(Encoder(config))
