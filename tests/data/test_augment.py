"""Drawing parameters and applying them, each against torchvision given the same parameters."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from repre.data import augment
from repre.data.augment import DRAWS, ViewConfig, ViewParameters, crop_resize, draw, draw_masks, recolour, uniforms
from repre.errors import UserError
from tests.oracles.views import draw_box, make_view, photo

BYTES = (0.0, 255.0)
FULL = ViewConfig(jitter=0.8, grey=0.3, blur=0.7, solarise=0.3)


def canvas(sizes: list[tuple[int, int]], side: int, channels: int = 3) -> Tensor:
    """Images of the given sizes in the top left corner of their canvases, uint8 [B, C, K, K]."""
    out = torch.zeros(len(sizes), channels, side, side, dtype=torch.uint8)
    for i, (height, width) in enumerate(sizes):
        out[i, :, :height, :width] = photo(height, width, i, channels)
    return out


def parameters(batch: int, size: int = 48, **changes: Tensor) -> ViewParameters:
    """Parameters that change nothing, but for those given."""
    plain = {
        "boxes": torch.tensor([[0, 0, size, size]]).repeat(batch, 1),
        "flip": torch.zeros(batch, dtype=torch.bool),
        "order": torch.arange(4).repeat(batch, 1),
        "factors": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(batch, 1),
        "grey": torch.zeros(batch, dtype=torch.bool),
        "sigma": torch.zeros(batch),
        "solarise": torch.zeros(batch, dtype=torch.bool),
    }
    return ViewParameters(**(plain | changes))


# ---------------------------------------------------------------------------------------------------------- draw


def test_uniforms_are_a_function_of_the_position() -> None:
    run = uniforms(seed=3, epoch=1, stream=0, positions=torch.arange(100))
    assert run.shape == (100, DRAWS)
    assert run.dtype == torch.float64
    scattered = torch.tensor([7, 8, 9, 50, 3, 99, 98, 0])
    torch.testing.assert_close(uniforms(seed=3, epoch=1, stream=0, positions=scattered), run[scattered], rtol=0, atol=0)
    far = torch.tensor([2**40, 2**40 + 1])
    both = uniforms(seed=3, epoch=1, stream=0, positions=far)
    assert torch.equal(both[1:], uniforms(seed=3, epoch=1, stream=0, positions=far[1:]))
    assert uniforms(seed=3, epoch=1, stream=0, positions=torch.arange(0)).shape == (0, DRAWS)
    assert len(run.unique()) == run.numel(), "samples share random numbers"


def test_uniforms_are_pinned() -> None:
    """A run resumed with another version of the code or of numpy has to see the same views."""
    first = uniforms(seed=0, epoch=0, stream=0, positions=torch.tensor([0]))[0, :2]
    reference = np.random.Generator(np.random.Philox(key=np.array([0, 0], dtype=np.uint64))).random(2)
    assert first.tolist() == reference.tolist()
    assert first.tolist() == pytest.approx(PINNED, abs=0)


PINNED = [0.011546754286331562, 0.24154919656271812]


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}, {"stream": 1}])
def test_uniforms_differ_between_seeds_epochs_and_streams(change: dict[str, int]) -> None:
    key = {"seed": 3, "epoch": 1, "stream": 0}
    base = uniforms(**key, positions=torch.arange(64))
    other = uniforms(**(key | change), positions=torch.arange(64))
    assert not (base == other).any()
    assert abs(torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]) < 0.07


def test_uniforms_are_uniform() -> None:
    numbers = uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(4000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (numbers.mean(dim=0) - 0.5).abs().max() < 0.02
    assert (numbers.var(dim=0) - 1 / 12).abs().max() < 0.005


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        uniforms(seed=-1, epoch=0, stream=0, positions=torch.arange(2))


@pytest.mark.parametrize("config", [ViewConfig(), ViewConfig(scale=(0.9, 1.0), ratio=(0.5, 2.0))])
def test_boxes_equal_torchvisions_rule_image_by_image(config: ViewConfig) -> None:
    sizes = torch.tensor([(375, 500), (500, 375), (40, 300), (300, 20), (96, 96), (1, 9), (9, 1), (2, 2)]).repeat(40, 1)
    numbers = uniforms(seed=1, epoch=0, stream=0, positions=torch.arange(len(sizes)))
    boxes = draw(config, numbers, sizes).boxes
    for box, row, (height, width) in zip(boxes.tolist(), numbers.tolist(), sizes.tolist()):
        assert tuple(box) == draw_box(config, row, height, width)
        top, left, h, w = box
        assert top >= 0
        assert left >= 0
        assert min(h, w) >= 1
        assert top + h <= height
        assert left + w <= width


def test_draws_have_the_asked_distribution() -> None:
    config = ViewConfig(scale=(0.2, 0.8), jitter=0.8, grey=0.2, blur=0.1, solarise=0.2)
    sizes = torch.tensor([[400, 400]]).expand(5000, 2)
    drawn = draw(config, uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(5000)), sizes)
    share = drawn.boxes[:, 2] * drawn.boxes[:, 3] / 400**2
    assert share.min() > 0.19
    assert share.max() < 0.81
    assert abs(share.mean() - 0.5) < 0.02
    aspect = (drawn.boxes[:, 3] / drawn.boxes[:, 2]).log()
    assert abs(aspect.mean()) < 0.01
    for chosen, p in [
        (drawn.flip, 0.5),
        (drawn.grey, 0.2),
        (drawn.sigma > 0, 0.1),
        (drawn.solarise, 0.2),
        (drawn.factors[:, 0] != 1, 0.8),
    ]:
        assert abs(chosen.float().mean() - p) < 0.025
    assert torch.equal(drawn.factors[:, 0] != 1, drawn.factors[:, 3] != 0), "one decision for all four changes"
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = drawn.factors[:, column]
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high + 1e-6
    sigma = drawn.sigma[drawn.sigma > 0]
    assert sigma.min() >= 0.1
    assert sigma.max() <= 2
    _, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 5000 / 24 * 0.7


def test_masks_hide_an_exact_share_in_patches() -> None:
    numbers = uniforms(seed=0, epoch=0, stream=9, positions=torch.arange(6), count=49)
    masks = draw_masks(numbers, size=224, patch=32, ratio=0.3)
    assert masks.shape == (6, 1, 224, 224)
    assert masks.dtype == torch.bool
    assert (masks.sum(dim=(1, 2, 3)) == round(0.3 * 49) * 32**2).all()
    patches = masks.view(6, 7, 32, 7, 32).float().mean(dim=(2, 4))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert len(patches.unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": (0.5, 0.2)}, "lowest <= highest"),
        ({"scale": (0.5, 1.2)}, "<= 1"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"sigma": (2.0, 0.1)}, "sigma"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"grey": -0.1}, "grey=-0.1"),
        ({"contrast": -1.0}, "contrast"),
        ({"hue": 0.6}, "0.5"),
        ({"filter": "nearest"}, "bicubic"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_fix(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ViewConfig(**change)


# --------------------------------------------------------------------------------------------------------- apply

BOXES = torch.tensor([[0, 0, 375, 500], [30, 41, 200, 150], [100, 0, 275, 90], [10, 300, 40, 40], [374, 499, 1, 1]])


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dense", [False, True])
def test_crop_equals_torchvision(
    size: int, filter: augment.Filter, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shrinking, growing (40 -> 96) and a single pixel; both implementations, float and 8-bit references."""
    if dense:
        monkeypatch.setattr(augment, "_resample_loop", augment._resample_dense)
    image = photo(375, 500, 0)
    pixels = canvas([(375, 500)], 512).expand(len(BOXES), -1, -1, -1)
    flip = torch.arange(len(BOXES)) % 2 == 1
    views = crop_resize(pixels, BOXES, flip, size=size, value_range=BYTES, filter=filter)
    assert views.dtype == torch.float32
    for view, box, mirrored in zip(views, BOXES.tolist(), flip):
        mode = InterpolationMode(filter)
        exact = TF.resized_crop(image.float() / 255, *box, [size, size], mode, antialias=True).clamp(0, 1)
        pil = TF.resized_crop(Image.fromarray(image.permute(1, 2, 0).numpy()), *box, [size, size], mode)
        rounded = torch.from_numpy(np.array(pil)).permute(2, 0, 1).float() / 255
        view = view.flip(-1) if mirrored else view
        assert (view - exact).abs().max() < 2e-5
        assert (view - rounded).abs().max() < 1.6 / 255
        assert (view - rounded).abs().mean() < 0.4 / 255


def test_the_crop_sees_nothing_outside_its_box() -> None:
    pixels = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    pixels[:, :, 10:30, 20:50] = 7
    box = torch.tensor([[10, 20, 20, 30]] * 2)
    for way in (augment._resample_loop, augment._resample_dense):
        grid = torch.full((2, 2), 16)
        view = way(pixels, box, grid, torch.zeros_like(grid), torch.tensor([False, True]), 16, "bicubic")
        torch.testing.assert_close(view, torch.full_like(view, 7.0))


def test_autocast_does_not_coarsen_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_resample_loop", augment._resample_dense)
    pixels, boxes, flip = canvas([(48, 48)] * 2, 48), torch.tensor([[3, 4, 40, 40]] * 2), torch.tensor([True, False])
    plain = crop_resize(pixels, boxes, flip, size=24, value_range=BYTES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_resize(pixels, boxes, flip, size=24, value_range=BYTES), plain)


@pytest.mark.parametrize("change", range(4))
def test_each_colour_change_equals_torchvision(change: int) -> None:
    images = canvas([(48, 48)] * 6, 48).float() / 255
    images[0] = images[0].mean(dim=0)  # no colour: hue is undefined
    values = (
        torch.tensor([0.3, 0.8, 1.0, 1.4, 1.9, 0.0]) if change != 3 else torch.tensor([-0.5, -0.1, 0, 0.1, 0.3, 0.5])
    )
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(6, 1)
    factors[:, change] = values
    out = recolour(images.clone(), parameters(6, factors=factors), ViewConfig())
    adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue][change]
    for i in range(6):
        torch.testing.assert_close(out[i], adjust(images[i], values[i].item()), rtol=0, atol=1e-5)
    assert torch.equal(out[2], images[2]), "a neutral factor changed the bits"


def test_grey_and_solarise_equal_torchvision() -> None:
    images = canvas([(48, 48)] * 4, 48).float() / 255
    chosen = torch.tensor([True, False, True, False])
    out = recolour(images.clone(), parameters(4, grey=chosen), ViewConfig())
    torch.testing.assert_close(out[0], TF.rgb_to_grayscale(images[0], num_output_channels=3), rtol=0, atol=1e-6)
    assert torch.equal(out[~chosen], images[~chosen])
    out = recolour(images.clone(), parameters(4, solarise=chosen), ViewConfig(threshold=0.4))
    torch.testing.assert_close(out[2], TF.solarize(images[2], 0.4), rtol=0, atol=0)
    assert torch.equal(out[~chosen], images[~chosen])


@pytest.mark.parametrize("size", [48, 96, 224])
@pytest.mark.parametrize("dense", [False, True])
def test_blur_equals_torchvision(size: int, dense: bool) -> None:
    images = canvas([(size, size)] * 4, size).float() / 255
    sigma = torch.tensor([0.1, 0.7, 2.0, 6.0])
    taps = augment.blur_taps(size)
    if dense:
        bands = augment._blur_bands(sigma, taps, size)
        out = augment._separable(bands, images, bands)
    else:
        out = augment.blur(images, sigma, taps)
    for i, value in enumerate(sigma.tolist()):
        torch.testing.assert_close(out[i], TF.gaussian_blur(images[i], [taps] * 2, [value] * 2), rtol=0, atol=3e-6)


def test_the_blur_covers_a_tenth_of_the_view() -> None:
    assert [augment.blur_taps(s) for s in (8, 32, 64, 96, 224)] == [3, 3, 7, 9, 23]


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_whole_views_equal_the_loop_over_images(filter: augment.Filter) -> None:
    config = ViewConfig(filter=filter, jitter=0.8, hue=0.3, grey=0.3, blur=0.7, solarise=0.3)
    sizes = [(80, 96), (96, 64), (30, 40), (96, 96)] * 8
    pixels = canvas(sizes, 96)
    numbers = uniforms(seed=5, epoch=0, stream=0, positions=torch.arange(len(sizes)))
    drawn = draw(config, numbers, torch.tensor(sizes))
    crops = crop_resize(pixels, drawn.boxes, drawn.flip, size=48, value_range=BYTES, filter=filter)
    views = recolour(crops.clone(), drawn, config)
    for i, (height, width) in enumerate(sizes):
        view, crop = make_view(pixels[i, :, :height, :width].float() / 255, drawn, i, config, 48)
        torch.testing.assert_close(crops[i], crop, rtol=0, atol=1e-5)
        if drawn.solarise[i]:  # a pixel at the threshold may fall on either side of it
            near = (views[i] - view).abs() > 1e-4
            assert near.float().mean() < 1e-3
        else:
            torch.testing.assert_close(views[i], view, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_any_number_of_channels(channels: int) -> None:
    """Saturation and grey blend with the mean of the channels; the hue stays."""
    sizes = [(64, 64)] * 8
    pixels = canvas(sizes, 64, channels)
    config = ViewConfig(jitter=1.0, hue=0.5, grey=0.5, blur=0.5, solarise=0.5)
    drawn = draw(config, uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(8)), torch.tensor(sizes))
    crops = crop_resize(pixels, drawn.boxes, drawn.flip, size=48, value_range=BYTES)
    views = recolour(crops.clone(), drawn, config)
    assert views.shape == (8, channels, 48, 48)
    assert views.min() >= 0
    assert views.max() <= 1
    factors = torch.tensor([[1.0, 1.0, 0.3, 0.5]]).repeat(8, 1)
    out = recolour(crops.clone(), parameters(8, factors=factors), config)
    torch.testing.assert_close(out, 0.3 * crops + 0.7 * crops.mean(dim=1, keepdim=True))
    out = recolour(crops.clone(), parameters(8, grey=torch.ones(8, dtype=torch.bool)), config)
    torch.testing.assert_close(out, crops.mean(dim=1, keepdim=True).expand_as(crops))


def test_without_colour_operations_no_bit_changes() -> None:
    images = canvas([(48, 48)] * 4, 48).float() / 255
    config = ViewConfig()
    drawn = draw(config, uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(4)), torch.full((4, 2), 48))
    assert torch.equal(recolour(images.clone(), drawn, config), images)


def test_images_that_are_not_chosen_keep_their_bits() -> None:
    images = canvas([(48, 48)] * 32, 48).float() / 255
    config = ViewConfig(jitter=0.5, grey=0.1, blur=0.2, solarise=0.1)
    drawn = draw(config, uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(32)), torch.full((32, 2), 48))
    out = recolour(images.clone(), drawn, config)
    idle = (drawn.factors[:, 3] == 0) & ~drawn.grey & (drawn.sigma == 0) & ~drawn.solarise
    assert 0 < idle.sum() < 32
    same = (out == images).flatten(1).all(dim=1)
    assert same[idle].all()
    assert not same[~idle & ((drawn.sigma == 0) | (drawn.sigma > 0.3))].any(), "a narrower blur may change no bit"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu() -> None:
    config = ViewConfig(filter="bicubic", jitter=0.8, grey=0.3, blur=0.7)
    sizes = [(80, 96), (96, 64), (30, 40), (96, 96)] * 8
    pixels = canvas(sizes, 96)
    drawn = draw(config, uniforms(seed=5, epoch=0, stream=0, positions=torch.arange(32)), torch.tensor(sizes))
    views = []
    for device in ("cpu", "cuda"):
        crops = crop_resize(
            pixels.to(device), drawn.boxes, drawn.flip, size=48, value_range=BYTES, filter=config.filter
        )
        views.append(recolour(crops, drawn, config).cpu())
    assert (views[0] - views[1]).abs().max() < 2 / 255
    assert (views[0] - views[1]).abs().mean() < 0.1 / 255
