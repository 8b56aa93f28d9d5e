"""The slow, obvious way to draw and make one view: one image after the other, with torchvision's functions."""

import math

import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from repre.data.views.augmentations import ATTEMPTS, ViewConfig, ViewParameters
from repre.utils.image_size import Size, height_and_width

BYTES = (0.0, 255.0)


def draw_box(config: ViewConfig, numbers: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params, reading its random numbers from a list: areas, ratios, top, left."""
    low, high = (math.log(r) for r in config.ratio)
    for k in range(ATTEMPTS):
        area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * numbers[k])
        aspect = math.exp(low + (high - low) * numbers[ATTEMPTS + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = numbers[2 * ATTEMPTS] * (height - h + 1), numbers[2 * ATTEMPTS + 1] * (width - w + 1)
            return int(top), int(left), h, w
    w, h = width, height
    if width / height < config.ratio[0]:
        h = max(1, round(width / config.ratio[0]))
    elif width / height > config.ratio[1]:
        w = max(1, round(height * config.ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def make_view(
    image: Tensor, parameters: ViewParameters, row: int, config: ViewConfig, size: Size
) -> tuple[Tensor, Tensor]:
    """One RGB image in [0, 1], [3, H, W] -> (view, crop before color changes), each [3, h, w], not normalized."""
    top, left, height, width = parameters.boxes[row].tolist()
    shape = list(height_and_width(size))
    mode = InterpolationMode(config.filter)
    image = TF.resized_crop(image, top, left, height, width, shape, mode, antialias=True).clamp(0, 1)
    image = image.flip(-1) if parameters.flip[row] else image
    crop = image
    brightness, contrast, saturation, hue = parameters.factors[row].tolist()
    for change in parameters.order[row].tolist():
        if change == 0:
            image = TF.adjust_brightness(image, brightness)
        elif change == 1:
            image = TF.adjust_contrast(image, contrast)
        elif change == 2:
            image = TF.adjust_saturation(image, saturation)
        else:
            image = TF.adjust_hue(image, hue)
    if parameters.grayscale[row]:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.sigma[row] > 0:
        sigma = float(parameters.sigma[row])
        tall, wide = (2 * min(math.ceil(4 * sigma), side - 1) + 1 for side in shape)
        image = TF.gaussian_blur(image, [wide, tall], [sigma] * 2)
    if parameters.solarize[row]:
        image = TF.solarize(image, config.threshold)
    return image, crop


def photo(height: int, width: int, seed: int, channels: int = 3) -> Tensor:
    """A picture with smooth areas, edges and texture, uint8 [C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    blocks = torch.nn.functional.interpolate(torch.rand(1, channels, 9, 7, generator=generator), (height, width))[0]
    texture = torch.rand(channels, height, width, generator=generator)
    return ((0.6 * smooth + 0.3 * blocks + 0.1 * texture) * 255).round().to(torch.uint8)


def canvas(sizes: list[tuple[int, int]], side: int, channels: int = 3) -> Tensor:
    """Images of the given sizes in the top left corner of their canvases, uint8 [B, C, K, K]."""
    out = torch.zeros(len(sizes), channels, side, side, dtype=torch.uint8)
    for i, (height, width) in enumerate(sizes):
        out[i, :, :height, :width] = photo(height, width, i, channels)
    return out
