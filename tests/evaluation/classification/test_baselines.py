"""Features without learning, on images for which the answer is known."""

import torch

from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.classification.baselines import color_histogram, raw_pixels


def test_histogram_counts_colors_and_ignores_positions() -> None:
    views = ViewsConfig(size=16)
    mean, std = views.statistics(3)
    image = torch.rand(1, 3, 16, 16)
    moved = image.roll((5, 3), (2, 3))
    features = color_histogram(views)((torch.cat([image, moved, 1 - image]) - mean) / std)
    torch.testing.assert_close(features[0], features[1])
    assert not torch.allclose(features[0], features[2])
    torch.testing.assert_close(features.square().sum(1), torch.ones(3))


def test_histograms_of_more_than_three_channels_use_the_first_three() -> None:
    views = ViewsConfig(size=16, mean=(0.5,) * 4, std=(0.25,) * 4)
    images = torch.zeros(2, 4, 16, 16)
    images[1, 3] = 1.0
    features = color_histogram(views)(images)
    assert torch.equal(features[0], features[1])


def test_raw_pixels_ignore_brightness() -> None:
    image = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(raw_pixels()(image), raw_pixels()(image + 2.0))


def test_raw_pixels_of_large_images_are_those_of_small_ones() -> None:
    small = torch.rand(2, 3, 4, 4)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert raw_pixels(max_side=4)(large).shape == (2, 3 * 4 * 4)
    assert raw_pixels()(large).shape == (2, 3 * 8 * 8)
    assert torch.equal(raw_pixels(max_side=4)(small), raw_pixels()(small))
