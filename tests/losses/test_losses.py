"""Every loss equals its slow loops, in values and gradients, in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.losses import centered_softmax, cosine_regression, dino_loss, info_nce, info_nce_queue, nt_xent, pixel_loss
from tests.oracles import losses as slow


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(fast: Callable[[Tensor], Tensor], oracle: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compares values and gradients of two losses at x."""
    values, gradients = [], []
    for loss in (fast, oracle):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("offset", [0, 3])
def test_info_nce(offset: int) -> None:
    keys = draw(7, 5, seed=1)
    assert_equal(
        lambda q: info_nce(q, keys, temperature=0.2, offset=offset),
        lambda q: slow.info_nce(q, keys, 0.2, offset),
        draw(4, 5, seed=2),
    )


def test_info_nce_queue() -> None:
    positives, queue = draw(4, 5, seed=1), draw(9, 5, seed=2)
    assert_equal(
        lambda q: info_nce_queue(q, positives, queue, temperature=0.3),
        lambda q: slow.info_nce_queue(q, positives, queue, 0.3),
        draw(4, 5, seed=3),
    )


def test_nt_xent_with_gradient_through_the_gathered_views() -> None:
    b = draw(6, 5, seed=1)
    assert_equal(
        lambda a: nt_xent(a[2:4], b[2:4], a, b, temperature=0.2, offset=2),
        lambda a: slow.nt_xent(a[2:4], b[2:4], a, b, 0.2, 2),
        draw(6, 5, seed=2),
    )


def test_cosine_regression() -> None:
    targets = draw(4, 5, seed=1)
    assert_equal(
        lambda p: cosine_regression(p, targets), lambda p: slow.cosine_regression(p, targets), draw(4, 5, seed=2)
    )


def test_dino_with_local_views() -> None:
    teacher, center = [draw(3, 6, seed=s) for s in (1, 2)], draw(6, seed=3)
    targets = [centered_softmax(t, center[None], 0.06) for t in teacher]
    assert_equal(
        lambda s: dino_loss(list(s), targets, student_temperature=0.1),
        lambda s: slow.dino(list(s), teacher, center, 0.1, 0.06),
        draw(4, 3, 6, seed=4),
    )


def test_dino_gives_the_teacher_no_gradient() -> None:
    teacher = [draw(3, 6, seed=s).requires_grad_() for s in (1, 2)]
    student = [draw(3, 6, seed=s).requires_grad_() for s in (3, 4)]
    targets = [centered_softmax(t, torch.zeros(1, 6), 0.1) for t in teacher]
    assert not any(t.requires_grad for t in targets)
    dino_loss(student, teacher, student_temperature=0.1).backward()
    assert all(t.grad is None for t in teacher)


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth_l1"])
@pytest.mark.parametrize("masked", [False, True])
def test_pixel(kind: str, masked: bool) -> None:
    prediction, target = 2 * draw(2, 3, 4, 4, seed=1), draw(2, 3, 4, 4, seed=2)
    mask = draw(2, 1, 4, 4, seed=3) > 0 if masked else None
    value = pixel_loss(prediction, target, kind=kind, mask=mask)  # type: ignore[arg-type]
    assert float(value) == pytest.approx(slow.pixel(prediction, target, kind, mask), rel=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (6, 11)])
def test_pixel_in_the_order_of_the_patches(size: tuple[int, int], masked: bool) -> None:
    """A prediction before its pixel shuffle, on a grid of 2 x 3 cells of 4 pixels that covers the image or more."""
    target = draw(2, 3, *size, seed=2)
    mask = draw(2, 1, *size, seed=3) > 0 if masked else None

    def oracle(patches: torch.Tensor) -> torch.Tensor:
        pixels = F.pixel_shuffle(patches, 4)[..., : size[0], : size[1]]
        counted = torch.ones_like(target, dtype=torch.bool) if mask is None else mask.expand_as(target)
        assert float(pixel_loss(patches.detach(), target, stride=4, mask=mask)) == pytest.approx(
            slow.pixel(pixels.detach(), target, "l1", mask), rel=1e-12
        )
        return torch.stack([(p - t).abs()[c].mean() for p, t, c in zip(pixels, target, counted)]).mean()

    assert_equal(lambda p: pixel_loss(p, target, stride=4, mask=mask), oracle, draw(2, 48, 2, 3, seed=1))


def test_pixel_of_images_without_counted_pixels_is_zero() -> None:
    """Images count alike, so a batch in pieces has the same loss, however many pixels of each image count."""
    prediction, target, mask = draw(4, 3, 4, 4, seed=1), draw(4, 3, 4, 4, seed=2), draw(4, 1, 4, 4, seed=3) > 0
    mask[2] = False
    values = [pixel_loss(*(x[i : i + 1] for x in (prediction, target)), mask=mask[i : i + 1]) for i in range(4)]
    assert values[2] == 0
    assert float(pixel_loss(prediction, target, mask=mask)) == pytest.approx(sum(map(float, values)) / 4, rel=1e-12)


def test_pixel_of_low_precision_is_summed_in_float32() -> None:
    prediction, target = draw(2, 3, 64, 64, seed=1).bfloat16(), draw(2, 3, 64, 64, seed=2).bfloat16()
    value = pixel_loss(prediction, target)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float((prediction.double() - target.double()).abs().mean()), rel=1e-6)


def test_pixel_with_normalized_patches() -> None:
    prediction, target = draw(2, 3, 8, 8, seed=1), 5 + 3 * draw(2, 3, 8, 8, seed=2)
    normalized = target.clone()
    for i in range(2):
        for y in (0, 4):
            for x in (0, 4):
                patch = target[i, :, y : y + 4, x : x + 4]
                std = (patch.var(correction=0) + 1e-6).sqrt()
                normalized[i, :, y : y + 4, x : x + 4] = (patch - patch.mean()) / std
    value = pixel_loss(prediction, target, patch_norm=4)
    assert float(value) == pytest.approx(slow.pixel(prediction, normalized, "l1"), rel=1e-10)
