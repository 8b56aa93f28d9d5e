"""The fused rendering of views against that of the CPU: Triton's interpreter, the compiler without a GPU, and CUDA.

The interpreter has to be chosen before Triton is imported, so these tests run in a process of their own.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repre.data.views import fused, render
from repre.data.views.augmentations import Filter, ViewConfig, ViewParameters
from repre.data.views.fused import ViewGroup, fused_views
from repre.data.views.render import center_view, make_views
from repre.data.views.view_recipes import MaskConfig, ViewsConfig, dino_views, moco_v3_views, simclr_views
from repre.types import Batch, Views
from repre.utils.image_size import Size
from tests.oracles.views import BYTES, canvas

ROOT = Path(__file__).parents[3]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEEDS_CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZES = [(24, 19), (13, 24), (24, 24)]


@pytest.fixture(
    params=[
        pytest.param(
            "cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter"), id="interpreted"
        ),
        pytest.param("cuda", marks=NEEDS_CUDA),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device of the fused rendering; the interpreter's is the CPU."""
    if request.param == "cpu":
        from repre.data.views import triton_kernels

        monkeypatch.setattr(fused, "kernels", lambda: triton_kernels)
    return request.param


@pytest.mark.slow
def test_the_interpreter_agrees_with_the_cpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", __file__]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def parameters(boxes: Tensor, **changes: Tensor) -> ViewParameters:
    """Parameters that change nothing, but for those given."""
    count = len(boxes)
    plain = {
        "flip": torch.arange(count) % 2 == 1,
        "order": torch.arange(4).repeat(count, 1),
        "factors": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(count, 1),
        "grayscale": torch.zeros(count, dtype=torch.bool),
        "sigma": torch.zeros(count),
        "solarize": torch.zeros(count, dtype=torch.bool),
    }
    return ViewParameters(boxes=boxes, **(plain | changes))


def both(
    pixels: Tensor, group: ViewGroup, device: str, *, value_range: tuple[float, float] = BYTES
) -> tuple[Tensor, Tensor]:
    """The views of a group in [0, 1] by the fused rendering and by the CPU's."""
    channels = pixels.shape[1]
    given: dict[str, Any] = {"value_range": value_range}
    given |= {"mean": torch.zeros(channels, 1, 1), "std": torch.ones(channels, 1, 1)}
    views, expected = fused_views(pixels.to(device), [group], **given)[0], render.render(pixels, [group], **given)[0]
    if group.clean:
        assert views.clean is not None
        assert expected.clean is not None
        return torch.stack([views.images, views.clean]).cpu(), torch.stack([expected.images, expected.clean])
    return views.images.cpu(), expected.images


SIDE = 24
BOXES = torch.tensor([[0, 0, 24, 24], [3, 5, 1, 1], [6, 2, 18, 7], [23, 0, 1, 24], [12, 9, 5, 6], [7, 8, 16, 16]])


@pytest.mark.parametrize(
    ("filter", "size", "channels", "dtype", "layout"),
    [
        ("bilinear", 16, 3, torch.uint8, torch.channels_last),
        ("bicubic", 17, 3, torch.uint8, torch.contiguous_format),
        ("bilinear", 9, 3, torch.float32, torch.contiguous_format),
        ("bicubic", 8, 6, torch.float32, torch.channels_last),
        ("bicubic", 11, 1, torch.uint16, torch.channels_last),
        ("bicubic", (9, 20), 3, torch.uint8, torch.channels_last),
        ("bilinear", (21, 10), 6, torch.float32, torch.contiguous_format),
    ],
)
def test_crops(
    filter: Filter, size: Size, channels: int, dtype: torch.dtype, layout: torch.memory_format, device: str
) -> None:
    """The whole canvas, single pixels, rows, growing, shrinking, no change of size; each other one is mirrored."""
    pixels = canvas([(SIDE, SIDE)] * 6, SIDE, channels)
    if dtype == torch.uint16:
        pixels = (pixels.to(torch.int32) * 257).to(dtype)
    pixels = pixels.to(dtype).contiguous(memory_format=layout)
    value_range = (0.0, 65535.0) if dtype == torch.uint16 else BYTES
    group = ViewGroup(size, [parameters(BOXES)], [ViewConfig(filter=filter)], clean=True)
    views, expected = both(pixels, group, device, value_range=value_range)
    error = (views - expected).abs()
    assert error.max() < (1.01 / 255 if dtype == torch.uint8 else 1e-5)
    assert error.mean() < 0.01 / 255


@pytest.mark.parametrize("value_range", [(-50.0, 500.0), (20.0, 90.0)])
def test_ranges_of_values(value_range: tuple[float, float], device: str) -> None:
    pixels = canvas([(SIDE, SIDE)] * 6, SIDE)
    group = ViewGroup(16, [parameters(BOXES)], [ViewConfig()])
    views, expected = both(pixels, group, device, value_range=value_range)
    assert (views - expected).abs().max() < 1.01 / (value_range[1] - value_range[0])


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_colors_in_every_order(channels: int, device: str) -> None:
    """All 24 orders (or five), gray pictures, factors that change nothing, grayscale, thresholds of solarizing.

    Two views, of which the first takes the first half of the orders.
    """
    orders = torch.tensor(list(itertools.permutations(range(4))))[:: 1 if channels == 3 else 5]
    count = len(orders)
    random = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    factors = random * torch.tensor([1.8, 1.8, 1.8, 1.0]) - torch.tensor([0.0, 0.0, 0.0, 0.5])
    factors[0] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    factors[1::5, 1] = 1.0
    factors[2::5, 3] = 0.0
    half = count // 2
    pixels = canvas([(20, 20)] * half, 20, channels).float()
    pixels[-1] = pixels[-1].mean(dim=0)
    box = torch.tensor([[2, 3, 8, 16]]).repeat(half, 1)
    every = torch.arange(half)
    views = [
        parameters(box, order=order, factors=factor, grayscale=every % 7 == number, solarize=(every + number) % 2 == 0)
        for number, (order, factor) in enumerate(zip(orders.split(half), factors.split(half)))
    ][:2]
    configs = [ViewConfig(threshold=0.3), ViewConfig(threshold=0.7)]
    got, expected = both(pixels, ViewGroup(16, views, configs), device)
    for config, images, references in zip(configs, got, expected, strict=True):
        to_threshold = torch.minimum(references, 1 - references) - min(config.threshold, 1 - config.threshold)
        # A pixel at the threshold of solarizing may fall on either side of it.
        assert not ((images - references).abs() > 2e-5)[to_threshold.abs() > 2e-5].any()


@pytest.mark.parametrize("size", [8, 19, (9, 14), (18, 8)])
def test_blur(size: Size, device: str) -> None:
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 6.0])
    pixels = canvas([(32, 32)] * 6, 32).float()
    box = torch.tensor([[5, 0, 8, 32]]).repeat(6, 1)
    views, expected = both(pixels, ViewGroup(size, [parameters(box, sigma=sigma)], [ViewConfig()]), device)
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)


def batch() -> Batch:
    positions = torch.arange(len(SIZES))
    pixels = canvas(SIZES, 24).contiguous(memory_format=torch.channels_last)
    return Batch(pixels, torch.tensor(SIZES), positions, positions, epoch=1)


def everything(views: Views) -> list[Tensor]:
    return [*views.images, *views.targets, *(views.masks or [])]


@pytest.mark.parametrize(
    "config",
    [
        replace(moco_v3_views(16), mask=MaskConfig(kind="random", ratio=(0.3, 0.3), patch=8)),
        dino_views(16, 9, 1, target="view"),
        ViewsConfig(size=16, second=ViewConfig(solarize=1.0)),
        replace(dino_views((16, 24), (8, 12), 1), mask=MaskConfig(kind="block", ratio=(0.3, 0.6), patch=4)),
    ],
)
def test_whole_views(config: ViewsConfig, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_views(batch(), config, seed=3, device="cpu")
    monkeypatch.setattr(render, "is_fused", lambda _: True)
    views = make_views(batch(), config, seed=3, device=device)
    for view, reference in zip(everything(views), everything(expected), strict=True):
        error = (view.cpu().float() - reference.float()).abs()
        flipped = error > 2 / 255 / 0.22  # solarized pixels at the threshold
        assert flipped.float().mean() < 5e-3
        assert error.mean() < 0.2 / 255 / 0.22


def test_turns_and_types_leave_the_views(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering in several turns changes no bit, and another type rounds the same views."""
    config = simclr_views(12)
    monkeypatch.setattr(render, "is_fused", lambda _: True)
    views = everything(make_views(batch(), config, seed=3, device=device))
    monkeypatch.setattr(fused, "SCRATCH", 9000)
    turns = everything(make_views(batch(), config, seed=3, device=device, dtype=torch.float16))
    assert all(torch.equal(turn, view.half()) for turn, view in zip(turns, views, strict=True))


@pytest.mark.parametrize("size", [16, (12, 20)])
@pytest.mark.parametrize("crop_pct", [0.7, 1.0])
def test_center_views(crop_pct: float, size: Size, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a strip, whose window shows a small part of the resized image."""
    sizes = [*SIZES, (40, 5)]
    pixels, config = canvas(sizes, 40), ViewsConfig(mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = center_view(pixels, torch.tensor(sizes), size=size, config=config, crop_pct=crop_pct)
    monkeypatch.setattr(render, "is_fused", lambda _: True)
    views = center_view(pixels.to(device), torch.tensor(sizes), size=size, config=config, crop_pct=crop_pct)
    torch.testing.assert_close(views.cpu(), expected, rtol=0, atol=2e-5)


# ---------------------------------------------------------------------------------------------- without running a kernel


class Launches:
    """Stands in for the module of kernels: keeps what would be launched."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(__getitem__=None) if name.startswith("__") else _Launcher(self, name)


class _Launcher:
    def __init__(self, launches: Launches, name: str) -> None:
        self.launches, self.name = launches, name

    def __getitem__(self, grid: tuple[int]) -> Any:
        assert grid[0] > 0
        return lambda *args, **constants: self.launches.made.append((self.name, args, constants))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    made = Launches()
    monkeypatch.setattr(fused, "kernels", lambda: made)
    return made


class Operators(TorchDispatchMode):
    """Counts the operators on the meta device, which stands for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, (list, tuple)) else out
        self.count += isinstance(first, Tensor) and first.is_meta
        return out


def test_few_operators_make_all_views(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(dino_views(32, 16, 6), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8))
    given = replace(batch(), pixels=batch().pixels.to("meta"))
    with Operators() as before:
        expected = make_views(given, config, seed=0, device="meta")
    monkeypatch.setattr(render, "is_fused", lambda _: True)
    with Operators() as after:
        views = make_views(given, config, seed=0, device="meta")
    assert [v.shape for v in everything(views)] == [v.shape for v in everything(expected)]
    assert len(launches.made) == 10, "five kernels for each of two sizes"
    assert after.count + len(launches.made) <= before.count / 20
    launches.made.clear()
    make_views(given, ViewsConfig(size=16), seed=0, device="meta")
    assert len(launches.made) == 2, "without color changes a size takes two kernels"


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
def test_the_kernels_compile_without_a_gpu(launches: Launches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For an H100, with the arguments of a launch: the interpreter accepts more than the compiler."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from repre.data.views import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(render, "is_fused", lambda _: True)
    given = replace(batch(), pixels=batch().pixels.to("meta"))
    make_views(given, simclr_views((24, 32)), seed=0, device="meta", dtype=torch.bfloat16)
    names = {torch.uint8: "*u8", torch.float32: "*fp32", torch.bfloat16: "*bf16"}
    for name, args, constants in launches.made:
        kernel = getattr(triton_kernels, name)
        types = [names[a.dtype] if isinstance(a, Tensor) else "fp32" if isinstance(a, float) else "i32" for a in args]
        signature = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
        assert set(signature) == set(kernel.arg_names)
        signature = {argument: signature[argument] for argument in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


# ------------------------------------------------------------------------------------------------------------- with a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_cuda() -> None:
    config = replace(dino_views(32, 16, 2), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8))
    pinned = replace(batch(), pixels=batch().pixels.pin_memory())
    make_views(pinned, config, seed=0, device="cuda")  # compiles the kernels
    center_view(pinned.pixels.cuda(), pinned.sizes, size=16, config=config)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = make_views(replace(pinned, epoch=2), config, seed=0, device="cuda")
        center_view(pinned.pixels.to("cuda", non_blocking=True), pinned.sizes, size=16, config=config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(view.isfinite().all() for view in views.images)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_beyond_two_gigabytes() -> None:
    """Canvases and views of more than 2**31 bytes: the last images are like any other."""
    count, side, size = 2900, 512, 256
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB of free memory")
    one = canvas([(side, side)], side).cuda()
    pixels = one.expand(count, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    assert pixels.numel() > 2**31
    assert 4 * count * 3 * size**2 > 2**31
    box = torch.tensor([[9, 8, 400, 300]])
    config, statistics = ViewConfig(), {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)}
    changes = {"sigma": torch.ones(1), "factors": torch.tensor([[1.2, 0.8, 1.2, 0.1]]), "flip": torch.tensor([True])}
    alone = parameters(box, **changes)
    many = ViewParameters.concatenate([alone] * count)
    view = fused_views(one, [ViewGroup(size, [alone], [config])], value_range=BYTES, **statistics)[0].images[0]
    views = fused_views(pixels, [ViewGroup(size, [many], [config])], value_range=BYTES, **statistics)[0].images[0]
    for part in views.split(100):
        assert torch.equal(part, view.expand_as(part))
