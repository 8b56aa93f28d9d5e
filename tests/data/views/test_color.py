"""Color changes, each against torchvision given the same parameters, and whole views against the loop over images."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageFilter
from torch import Tensor

from repre.data.views import color as color
from repre.data.views.augmentations import Filter, ViewConfig, ViewParameters, draw
from repre.data.views.color import apply_color
from repre.data.views.geometry import crop_resize, separable
from repre.data.views.random_streams import RandomStreams
from repre.utils.image_size import Size, height_and_width
from tests.oracles.views import BYTES, canvas, make_view


def parameters(batch: int, size: int = 48, **changes: Tensor) -> ViewParameters:
    """Parameters that change nothing, but for those given."""
    plain = {
        "boxes": torch.tensor([[0, 0, size, size]]).repeat(batch, 1),
        "flip": torch.zeros(batch, dtype=torch.bool),
        "order": torch.arange(4).repeat(batch, 1),
        "factors": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(batch, 1),
        "grayscale": torch.zeros(batch, dtype=torch.bool),
        "sigma": torch.zeros(batch),
        "solarize": torch.zeros(batch, dtype=torch.bool),
    }
    return ViewParameters(**(plain | changes))


@pytest.mark.parametrize("change", range(4))
def test_each_color_change_equals_torchvision(change: int) -> None:
    images = canvas([(48, 48)] * 6, 48).float() / 255
    images[0] = images[0].mean(dim=0)  # no color: hue is undefined
    values = (
        torch.tensor([0.3, 0.8, 1.0, 1.4, 1.9, 0.0]) if change != 3 else torch.tensor([-0.5, -0.1, 0, 0.1, 0.3, 0.5])
    )
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(6, 1)
    factors[:, change] = values
    out = apply_color(images.clone(), parameters(6, factors=factors), ViewConfig())
    adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue][change]
    for i in range(6):
        torch.testing.assert_close(out[i], adjust(images[i], values[i].item()), rtol=0, atol=1e-5)
    assert torch.equal(out[2], images[2]), "a neutral factor changed the bits"


def test_gray_and_solarize_equal_torchvision() -> None:
    images = canvas([(48, 48)] * 4, 48).float() / 255
    chosen = torch.tensor([True, False, True, False])
    out = apply_color(images.clone(), parameters(4, grayscale=chosen), ViewConfig())
    torch.testing.assert_close(out[0], TF.rgb_to_grayscale(images[0], num_output_channels=3), rtol=0, atol=1e-6)
    assert torch.equal(out[~chosen], images[~chosen])
    out = apply_color(images.clone(), parameters(4, solarize=chosen), ViewConfig(threshold=0.4))
    torch.testing.assert_close(out[2], TF.solarize(images[2], 0.4), rtol=0, atol=0)
    assert torch.equal(out[~chosen], images[~chosen])


def blurred(images: Tensor, sigma: Tensor, *, dense: bool) -> Tensor:
    """By shifts, as on the CPU, or by matrices, as on other devices."""
    if not dense:
        return color.blur(images, sigma)
    rows, columns = (color._blur_bands(sigma, side) for side in images.shape[-2:])
    return separable(rows, images, columns)


@pytest.mark.parametrize("size", [8, 48, 96, 224, (9, 40), (64, 12)])
@pytest.mark.parametrize("dense", [False, True])
def test_blur_equals_torchvision(size: Size, dense: bool) -> None:
    height, width = height_and_width(size)
    images = canvas([(height, width)] * 4, max(height, width))[..., :height, :width].float() / 255
    sigma = torch.tensor([0.7, 2.0, 0.1, 6.0])
    out = blurred(images, sigma, dense=dense)
    for i, value in enumerate(sigma.tolist()):
        tall, wide = (2 * min(math.ceil(4 * value), side - 1) + 1 for side in (height, width))
        expected = TF.gaussian_blur(images[i].double(), [wide, tall], [value] * 2)
        torch.testing.assert_close(out[i].double(), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("size", [48, 96, 224])
@pytest.mark.parametrize("dense", [False, True])
def test_the_blur_has_its_sigma_at_every_size(size: int, dense: bool) -> None:
    """A point of light spreads by sigma, and cutting the kernel off changes no pixel by more than the share cut off."""
    sigma = torch.tensor([0.8, 1.0, 2.0, 3.0])
    point = torch.zeros(4, 1, size, size)
    point[..., size // 2, size // 2] = 1
    rows = blurred(point, sigma, dense=dense).sum(dim=3)[:, 0].double()
    away = torch.arange(size).double() - size // 2
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close((rows * away**2).sum(dim=1).sqrt(), sigma.double(), rtol=2e-3, atol=0)
    images = canvas([(size, size)] * 4, size).float() / 255
    out, cut = blurred(images, sigma, dense=dense), math.erfc(4 / math.sqrt(2))
    for i, value in enumerate(sigma.tolist()):
        taps = 2 * min(math.ceil(10 * value), size - 1) + 1
        tall = TF.gaussian_blur(images[i].double(), [1, taps], [value] * 2)  # both at once take a hundred times as long
        whole = TF.gaussian_blur(tall, [taps, 1], [value] * 2)
        assert (out[i] - whole).abs().max() < 2 * cut  # along two axes


@pytest.mark.parametrize("size", [48, 96, 224])
def test_the_blur_is_that_of_pillow(size: int) -> None:
    """DINO's and MoCo v3's. Pillow adds boxes up, and rounds to bytes."""
    smooth = F.avg_pool2d(canvas([(size, size)], size).float(), 3, stride=1, padding=1, count_include_pad=False)
    image = smooth[0].round().to(torch.uint8)
    for sigma in (1.0, 2.0):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
        out = 255 * color.blur(image[None].float() / 255, torch.tensor([sigma]))[0]
        difference = (out - torch.from_numpy(np.array(picture)).permute(2, 0, 1)).abs()
        assert difference.mean() < 1.0, sigma


def test_the_blur_of_an_image_does_not_depend_on_the_others() -> None:
    """To the bit, though the widest blur of a batch decides how many weights are computed."""
    count = 64
    images, sigma = canvas([(32, 32)] * count, 32).float() / 255, torch.linspace(0.1, 6.0, count)
    together = color.blur(images, sigma)
    for part in (1, 7, 16):
        rows = [slice(start, start + part) for start in range(0, count, part)]
        assert torch.equal(torch.cat([color.blur(images[row], sigma[row]) for row in rows]), together), part


@pytest.mark.parametrize("size", [48, (40, 56)])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_whole_views_equal_the_loop_over_images(filter: Filter, size: Size) -> None:
    config = ViewConfig(filter=filter, jitter=0.8, hue=0.3, grayscale=0.3, blur=0.7, solarize=0.3)
    sizes = [(80, 96), (96, 64), (30, 40), (96, 96)] * 8
    pixels = canvas(sizes, 96).float()
    drawn = draw(config, torch.tensor(sizes), RandomStreams(seed=5, epoch=0, positions=torch.arange(len(sizes))))
    crops = crop_resize(pixels, drawn.boxes, drawn.flip, size=size, value_range=BYTES, filter=filter)
    views = apply_color(crops.clone(), drawn, config)
    for i, (height, width) in enumerate(sizes):
        view, crop = make_view(pixels[i, :, :height, :width].float() / 255, drawn, i, config, size)
        torch.testing.assert_close(crops[i], crop, rtol=0, atol=1e-5)
        if drawn.solarize[i]:  # a pixel at the threshold may fall on either side of it
            near = (views[i] - view).abs() > 1e-4
            assert near.float().mean() < 1e-3
        else:
            torch.testing.assert_close(views[i], view, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_any_number_of_channels(channels: int) -> None:
    """Saturation and gray blend with the mean of the channels; the hue stays."""
    sizes = [(64, 64)] * 8
    pixels = canvas(sizes, 64, channels)
    config = ViewConfig(jitter=1.0, hue=0.5, grayscale=0.5, blur=0.5, solarize=0.5)
    drawn = draw(config, torch.tensor(sizes), RandomStreams(seed=0, epoch=0, positions=torch.arange(8)))
    crops = crop_resize(pixels, drawn.boxes, drawn.flip, size=48, value_range=BYTES)
    views = apply_color(crops.clone(), drawn, config)
    assert views.shape == (8, channels, 48, 48)
    assert views.min() >= 0
    assert views.max() <= 1
    factors = torch.tensor([[1.0, 1.0, 0.3, 0.5]]).repeat(8, 1)
    out = apply_color(crops.clone(), parameters(8, factors=factors), config)
    torch.testing.assert_close(out, 0.3 * crops + 0.7 * crops.mean(dim=1, keepdim=True))
    out = apply_color(crops.clone(), parameters(8, grayscale=torch.ones(8, dtype=torch.bool)), config)
    torch.testing.assert_close(out, crops.mean(dim=1, keepdim=True).expand_as(crops))


def test_without_color_operations_no_bit_changes() -> None:
    images = canvas([(48, 48)] * 4, 48).float() / 255
    config = ViewConfig()
    drawn = draw(config, torch.full((4, 2), 48), RandomStreams(seed=0, epoch=0, positions=torch.arange(4)))
    assert torch.equal(apply_color(images.clone(), drawn, config), images)


def test_images_that_are_not_chosen_keep_their_bits() -> None:
    images = canvas([(48, 48)] * 32, 48).float() / 255
    config = ViewConfig(jitter=0.5, grayscale=0.1, blur=0.2, solarize=0.1)
    drawn = draw(config, torch.full((32, 2), 48), RandomStreams(seed=0, epoch=0, positions=torch.arange(32)))
    out = apply_color(images.clone(), drawn, config)
    idle = (drawn.factors[:, 3] == 0) & ~drawn.grayscale & (drawn.sigma == 0) & ~drawn.solarize
    assert 0 < idle.sum() < 32
    same = (out == images).flatten(1).all(dim=1)
    assert same[idle].all()
    assert not same[~idle & ((drawn.sigma == 0) | (drawn.sigma > 0.3))].any(), "a narrower blur may change no bit"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu() -> None:
    config = ViewConfig(filter="bicubic", jitter=0.8, grayscale=0.3, blur=0.7)
    sizes = [(80, 96), (96, 64), (30, 40), (96, 96)] * 8
    pixels = canvas(sizes, 96).float()
    drawn = draw(config, torch.tensor(sizes), RandomStreams(seed=5, epoch=0, positions=torch.arange(32)))
    views = []
    for device in ("cpu", "cuda"):
        crops = crop_resize(
            pixels.to(device), drawn.boxes, drawn.flip, size=48, value_range=BYTES, filter=config.filter
        )
        views.append(apply_color(crops, drawn, config).cpu())
    assert (views[0] - views[1]).abs().max() < 2 / 255
    assert (views[0] - views[1]).abs().mean() < 0.1 / 255
