"""From a batch to its views: determinism, targets, masks, ranges, evaluation views, recipes."""

import pickle
from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

from repre.data.views.fused import ViewGroup
from repre.data.views.render import center_view, denormalize, draw_views, make_views, render
from repre.data.views.view_recipes import MaskConfig, ViewsConfig, dino_views, moco_v3_views, simclr_views
from repre.errors import UserError
from repre.types import Batch, ViewParameters, Views
from tests.oracles.views import BYTES, photo

SIZES = [(80, 96), (96, 64), (50, 40), (96, 96)] * 2
PLAIN: dict = {"value_range": BYTES, "mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)}


def batch(*, sizes: list[tuple[int, int]] = SIZES, channels: int = 3, epoch: int = 0, first: int = 0) -> Batch:
    pixels = torch.zeros(len(sizes), channels, 96, 96, dtype=torch.uint8)
    for i, (height, width) in enumerate(sizes):
        pixels[i, :, :height, :width] = photo(height, width, i, channels)
    positions = torch.arange(first, first + len(sizes))
    return Batch(pixels=pixels, sizes=torch.tensor(sizes), positions=positions, indices=positions, epoch=epoch)


def part(whole: Batch, rows: slice | list[int]) -> Batch:
    names = ("pixels", "sizes", "positions", "indices")
    return replace(whole, **{name: getattr(whole, name)[rows] for name in names})


def everything(views: Views) -> list[Tensor]:
    return [*views.images, *views.targets, *(views.masks or [])]


def test_shapes_and_order_of_all_views() -> None:
    config = replace(dino_views(64, 32, 3, target="clean"), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=16))
    views = make_views(batch(), config, seed=0, device="cpu")
    assert [tuple(v.shape) for v in views.images] == [(8, 3, 64, 64)] * 2 + [(8, 3, 32, 32)] * 3
    assert [tuple(t.shape) for t in views.targets] == [(8, 3, 64, 64)] * 2
    assert views.n_global == 2
    assert views.masks is not None
    assert [tuple(m.shape) for m in views.masks] == [(8, 4, 4)] * 2
    assert all(m.float().mean() == 0.5 for m in views.masks)
    assert all(v.isfinite().all() for v in views.images)
    assert all(not torch.equal(a, b) for i, a in enumerate(views.images) for b in views.images[:i])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ratio": (0.5, 1.0)}, "highest < 1"),
        ({"ratio": (0.0, 0.5)}, "0 < lowest"),
        ({"ratio": (0.5, 0.4)}, "lowest <= highest"),
        ({"image_share": 0.0}, "share above 0"),
        ({"patch": 0}, "views.mask.patch must be at least 1"),
        ({"kind": "blocks"}, "none, random, block, not"),
    ],
)
def test_wrong_settings_of_masks_are_refused(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        MaskConfig(**change)


def test_one_global_view_is_the_first_of_two() -> None:
    config = moco_v3_views(32)
    two = make_views(batch(), config, seed=0, device="cpu")
    one = make_views(batch(), replace(config, n_global=1), seed=0, device="cpu")
    assert (len(two.images), len(one.images), one.n_global, len(one.targets)) == (2, 1, 1, 1)
    assert torch.equal(one.images[0], two.images[0])


def test_hidden_patches_are_listed_over_all_views() -> None:
    mask = MaskConfig(kind="block", ratio=(0.1, 0.5), image_share=0.5, patch=8)
    views = make_views(batch(), replace(moco_v3_views(64), mask=mask), seed=0, device="cpu")
    assert views.masks is not None
    assert views.masked is not None
    listed = torch.zeros(2 * 8 * 64, dtype=torch.bool)
    listed[views.masked] = True
    assert torch.equal(listed.view(2, 8, 8, 8), torch.stack(views.masks))
    assert torch.equal(replace(views, masked=None).masked_patches(), views.masked)


def test_crops_say_where_a_view_was_cut() -> None:
    """A pixel of a plain view shows the place of the image that its crop says."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ramp = torch.stack([rows, columns, rows]).mul(4)[None].byte()
    first = torch.zeros(1, dtype=torch.long)
    given = Batch(ramp, torch.tensor([[64, 64]]), first, first, epoch=0)
    config = ViewsConfig(size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for seed in range(4):
        views = make_views(given, config, seed=seed, device="cpu", with_crops=True)
        assert views.crops is not None
        for image, crop in zip(views.images, views.crops):
            top, left, height, width, flip = crop[0].tolist()
            y, x = top + height * (3.5 / 16), left + width * ((16 - 3.5) / 16 if flip else 3.5 / 16)
            assert float(image[0, 0, 3, 3]) * 255 / 256 == pytest.approx(y - 0.5 / 64, abs=0.02)
            assert float(image[0, 1, 3, 3]) * 255 / 256 == pytest.approx(x - 0.5 / 64, abs=0.02)
    assert make_views(given, config, seed=0, device="cpu").crops is None


def test_views_do_not_depend_on_how_samples_are_batched() -> None:
    config = replace(dino_views(32, 16, 2, target="clean"), mask=MaskConfig(kind="random", ratio=(0.25, 0.25), patch=8))
    whole = batch()
    reference = everything(make_views(whole, config, seed=3, device="cpu"))
    parts = [make_views(part(whole, rows), config, seed=3, device="cpu") for rows in (slice(0, 4), slice(4, 8))]
    for expected, *pieces in zip(reference, *map(everything, parts)):
        torch.testing.assert_close(torch.cat(pieces), expected, rtol=0, atol=2e-5)
    strided = [6, 1, 3, 0]
    for expected, piece in zip(reference, everything(make_views(part(whole, strided), config, seed=3, device="cpu"))):
        torch.testing.assert_close(piece, expected[strided], rtol=0, atol=2e-5)


def test_views_repeat_and_differ_between_epochs_seeds_and_samples() -> None:
    config = moco_v3_views(32)
    once, again = (everything(make_views(batch(), config, seed=0, device="cpu")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again))
    for other in (
        make_views(batch(epoch=1), config, seed=0, device="cpu"),
        make_views(batch(), config, seed=1, device="cpu"),
        make_views(batch(first=8), config, seed=0, device="cpu"),
    ):
        assert all((a != b).flatten(1).any(dim=1).all() for a, b in zip(once, other.images))
    same = batch()
    same = replace(same, pixels=same.pixels[3:4].expand(8, -1, -1, -1), sizes=same.sizes[3:4].expand(8, -1))
    views = make_views(same, config, seed=0, device="cpu").images[0]
    assert len(views.unique(dim=0)) == 8, "images of a batch share parameters"


def test_masks_leave_the_views_as_they_are() -> None:
    config = moco_v3_views(32)
    plain = make_views(batch(), config, seed=0, device="cpu")
    masked = make_views(
        batch(), replace(config, mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8)), seed=0, device="cpu"
    )
    assert plain.masks is None
    assert all(torch.equal(a, b) for a, b in zip(plain.images, masked.images))


def test_parameters_drawn_in_parts_and_sent_give_the_same_views() -> None:
    """As decoding workers do: each draws for its images, and the parameters are pickled."""
    config, given = (
        replace(dino_views(32, 16, 2), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8)),
        batch(epoch=1),
    )
    parts = []
    for rows in (slice(3), slice(3, 8)):
        drawn = draw_views(config, given.sizes[rows], given.positions[rows], epoch=1, seed=3)
        parts.append(pickle.loads(pickle.dumps(drawn)))
    drawn = [ViewParameters.concatenate(view) for view in zip(*parts, strict=True)]
    views = everything(make_views(replace(given, parameters=drawn), config, seed=99, device="cpu"))
    expected = everything(make_views(given, config, seed=3, device="cpu"))
    assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))


def test_another_type_rounds_the_views_at_the_very_end() -> None:
    config = moco_v3_views(32)
    views, halves = (
        make_views(batch(), config, seed=0, device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(everything(views), everything(halves), strict=True))


def test_targets() -> None:
    views = make_views(batch(), moco_v3_views(32, target="view"), seed=0, device="cpu")
    assert all(target is image for target, image in zip(views.targets, views.images)), "a copy was made"

    config = moco_v3_views(32, target="clean")
    colored = make_views(batch(), config, seed=0, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(colored.images, views.images))
    off = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    plain = replace(config, first=replace(config.first, **off), second=replace(config.second, **off))
    bare = make_views(batch(), plain, seed=0, device="cpu")
    for image, target, clean in zip(bare.images, bare.targets, colored.targets):
        assert torch.equal(image, target), "nothing changed the colors, yet the target differs"
        assert torch.equal(target, clean), "the target's geometry is not the view's"
    assert not torch.equal(colored.images[0], colored.targets[0])


def test_the_batch_is_left_as_it_was() -> None:
    given = batch()
    before = given.pixels.clone()
    make_views(given, moco_v3_views(32, target="clean"), seed=0, device="cpu")
    floats = replace(given, pixels=given.pixels.float() / 255)
    kept = floats.pixels.clone()
    make_views(floats, moco_v3_views(96), seed=0, device="cpu")
    assert torch.equal(given.pixels, before)
    assert torch.equal(floats.pixels, kept)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ranges_of_pixels(channels: int) -> None:
    """The same picture as uint8, uint16 and float32, and with a declared range, gives the same views; crops of uint8 are
    rounded to it."""
    given, config = batch(channels=channels), moco_v3_views(32)
    config = replace(config, first=replace(config.first, solarize=0.0), second=replace(config.second, solarize=0.0))
    rounded = make_views(given, config, seed=0, device="cpu").images
    share = given.pixels.float() / 255
    wide = replace(given, pixels=(given.pixels.to(torch.int32) * 257).to(torch.uint16))
    declared = replace(given, pixels=share * 8000 - 1000)
    expected = make_views(replace(given, pixels=share), config, seed=0, device="cpu").images
    for view, reference in zip(rounded, expected):
        assert 0 < (view - reference).abs().mean() < 0.5 / 255 / 0.224
        assert (view - reference).abs().max() < 3 / 255 / 0.224
    for other, settings in [
        (wide, config),
        (declared, replace(config, value_range=(-1000.0, 7000.0))),
    ]:
        for view, reference in zip(make_views(other, settings, seed=0, device="cpu").images, expected):
            torch.testing.assert_close(view, reference, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="float64"):
        make_views(replace(given, pixels=share.double()), config, seed=0, device="cpu")


def test_normalizing_and_back() -> None:
    config = ViewsConfig(size=32)
    assert config.statistics(3)[0].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert config.statistics(5)[1].flatten().tolist() == [0.25] * 5
    views = make_views(batch(), config, seed=0, device="cpu")
    pictures = denormalize(views.images[0], config)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    mean, std = config.statistics(3)
    torch.testing.assert_close((pictures - mean) / std, views.images[0], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="one per channel"):
        make_views(batch(channels=4), replace(config, mean=(0.5,), std=(0.2,)), seed=0, device="cpu")


@pytest.mark.parametrize("crop_pct", [1.0, 224 / 256])
def test_center_view_equals_resize_and_center_crop(crop_pct: float) -> None:
    config, given = ViewsConfig(mean=(0.5,) * 3, std=(0.25,) * 3), batch()
    views = center_view(given.pixels, given.sizes, size=56, config=config, crop_pct=crop_pct)
    for view, pixels, (height, width) in zip(views, given.pixels, SIZES):
        image = pixels[:, :height, :width].float() / 255
        image = TF.resize(image, [round(56 / crop_pct)], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        torch.testing.assert_close(view, (TF.center_crop(image, [56, 56]) - 0.5) / 0.25, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="crop_pct"):
        center_view(given.pixels, given.sizes, size=56, config=config, crop_pct=1.1)


@pytest.mark.parametrize("crop_pct", [1.0, 224 / 256])
@pytest.mark.parametrize("shape", [(40, 72), (72, 40), (56, 56)])
def test_center_view_covers_any_rectangle(shape: tuple[int, int], crop_pct: float) -> None:
    """The image is enlarged until both sides reach those of the view over crop_pct, and then cut."""
    config, given = ViewsConfig(mean=(0.5,) * 3, std=(0.25,) * 3), batch()
    views = center_view(given.pixels, given.sizes, size=shape, config=config, crop_pct=crop_pct)
    for view, pixels, (height, width) in zip(views, given.pixels, SIZES):
        least = [round(side / crop_pct) for side in shape]
        grid = [least[0], least[0] * width // height]
        if grid[1] < least[1]:
            grid = [least[1] * height // width, least[1]]
        image = pixels[:, :height, :width].float() / 255
        image = TF.resize(image, grid, InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        torch.testing.assert_close(view, (TF.center_crop(image, list(shape)) - 0.5) / 0.25, rtol=0, atol=1e-4)


def test_views_of_any_shape() -> None:
    config = replace(dino_views((48, 64), (16, 32), 2), mask=MaskConfig(kind="block", ratio=(0.3, 0.6), patch=16))
    views = make_views(batch(), config, seed=0, device="cpu")
    assert [tuple(v.shape) for v in views.images] == [(8, 3, 48, 64)] * 2 + [(8, 3, 16, 32)] * 2
    assert [tuple(t.shape) for t in views.targets] == [(8, 3, 48, 64)] * 2
    assert views.masks is not None
    assert [tuple(m.shape) for m in views.masks] == [(8, 3, 4)] * 2


def test_a_square_is_its_side() -> None:
    """Also with both sides named: the same setting, the same views to the bit."""
    one, two = dino_views(64, 32, 1), dino_views((64, 64), (32, 32), 1)
    assert one == two
    assert (two.size, two.local_size, two.shape, two.local_shape) == (64, 32, (64, 64), (32, 32))
    drawn = draw_views(one, batch().sizes, batch().positions, epoch=0, seed=0)
    whole = render(batch().pixels, [ViewGroup(64, drawn[:2], one.views[:2])], **PLAIN)[0].images
    both = render(batch().pixels, [ViewGroup((64, 64), drawn[:2], one.views[:2])], **PLAIN)[0].images
    assert torch.equal(whole, both)


def test_crops_have_about_the_shape_of_their_view() -> None:
    """The ratio is relative to the view, so that no view is squeezed more than a square one."""
    config, sizes = (
        ViewsConfig(size=(32, 96), n_local=1, local_size=(64, 32)),
        torch.tensor([[120, 360]]).expand(400, 2),
    )
    drawn = draw_views(config, sizes, torch.arange(400), epoch=0, seed=0)
    for view, shape in zip(drawn, [(32, 96), (32, 96), (64, 32)]):
        squeezed = view.boxes[:, 3] / view.boxes[:, 2] / (shape[1] / shape[0])
        assert squeezed.min() > 0.7
        assert squeezed.max() < 1.4
        assert len(view.boxes.unique(dim=0)) > 300, "crops still vary"


def test_published_settings() -> None:
    moco = moco_v3_views(224)
    assert (moco.first.blur, moco.second.blur) == (1.0, 0.1)
    assert (moco.first.solarize, moco.second.solarize) == (0.0, 0.2)
    for view in (moco.first, moco.second):
        assert view.scale == (0.08, 1.0)
        assert (view.jitter, view.grayscale, view.flip, view.sigma) == (0.8, 0.2, 0.5, (0.1, 2.0))
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
    dino = dino_views(224, 96, 8)
    assert (dino.first.scale, dino.local.scale, dino.local_size) == ((0.25, 1.0), (0.05, 0.25), 96)
    assert (dino.n_local, dino.local.blur, dino.local.solarize) == (8, 0.5, 0.0)
    assert dino_views(n_local=0).n_local == 0
    simclr = simclr_views(32, 0.5)
    assert simclr.first == simclr.second
    assert (simclr.first.brightness, simclr.first.hue, simclr.first.blur) == (0.4, 0.1, 0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 4}, "at least 8"),
        ({"local_size": 0}, "at least 1"),
        ({"size": (96, 4)}, "size is 96 x 4: a view has at least 8"),
        ({"size": (64, 96), "mask": MaskConfig(kind="random", patch=24)}, "64 x 96 pixels: give a divisor of 32"),
        ({"n_local": -1}, "n_local must not be negative"),
        ({"target": "blurred"}, "view, clean, not"),
        ({"n_global": 3}, "give 2, or 1"),
        ({"n_global": 1, "n_local": 2}, "without local views"),
        ({"mask": MaskConfig(kind="random", patch=30)}, "divisor"),
        ({"mask": MaskConfig(kind="random", ratio=(0.001, 0.001), patch=32)}, "none or all"),
        ({"mean": (0.5,)}, "belong together"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"mean": (0.5,), "std": (0.2, 0.2)}, "one of each"),
        ({"value_range": (1.0, 0.0)}, "lowest, highest"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_fix(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ViewsConfig(**change)


def test_nothing_waits_for_an_accelerator() -> None:
    """The meta device has no values: reading one on the host, or mixing devices, raises. Also center_view."""
    config = replace(dino_views(32, 16, 2, target="clean"), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8))
    given = batch()
    views = make_views(given, config, seed=0, device="meta")
    assert {v.device.type for v in everything(views)} == {"meta"}
    expected = make_views(given, config, seed=0, device="cpu")
    assert [v.shape for v in everything(views)] == [v.shape for v in everything(expected)]
    assert center_view(given.pixels.to("meta"), given.sizes, size=32, config=config).shape == (8, 3, 32, 32)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu() -> None:
    config = replace(dino_views(64, 32, 2, target="clean"), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=16))
    config = replace(config, second=replace(config.second, solarize=0.0))
    given = batch()
    for pixels in (given.pixels, (given.pixels.to(torch.int32) * 257).to(torch.uint16)):
        same = replace(given, pixels=pixels)
        cpu, cuda = (make_views(same, config, seed=0, device=device) for device in ("cpu", "cuda"))
        for a, b in zip(everything(cpu), everything(cuda)):
            assert b.is_cuda
            error = (a.float() - b.cpu().float()).abs()
            # Few bytes are rounded the other way, by 1 of 255, and the color changes enlarge that up to 2.4 times.
            assert (error > 2 / 255 / 0.22).float().mean() < 1e-4
            assert error.max() < 3 / 255 / 0.22
            assert error.mean() < 0.02 / 255 / 0.22
