"""The decoder: shapes, order of the fusion, cost, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.errors import UserError
from repre.models.decoder import Decoder, DecoderConfig, branch_cost
from repre.models.encoder import Encoder

FLAT = ([12, 12, 12, 12], [8, 8, 8, 8])
PYRAMID = ([8, 12, 16, 24], [4, 8, 16, 32])
pytestmark = pytest.mark.usefixtures("one_thread")


def build(widths: list[int], strides: list[int], *, channels: int = 3, seed: int = 0, **config: object) -> Decoder:
    return Decoder(
        DecoderConfig(**({"dim": 16} | config)),  # type: ignore[arg-type]
        widths=widths,
        strides=strides,
        channels=channels,
        generator=torch.Generator().manual_seed(seed),
    )


def draw(widths: list[int], strides: list[int], size: tuple[int, int], *, up: bool = True) -> list[Tensor]:
    """Maps [2, C_l, H_l, W_l] of an image of `size`, on grids that round up, as Swin's do, or down, as ConvNeXt's."""
    generator = torch.Generator().manual_seed(1)
    grids = [[-(-side // s) if up else side // s for side in size] for s in strides]
    return [torch.randn(2, width, *grid, generator=generator) for width, grid in zip(widths, grids)]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    ("layout", "size", "up"),
    [
        (FLAT, (32, 32), True),
        (FLAT, (24, 56), True),
        (PYRAMID, (64, 64), True),
        (PYRAMID, (64, 96), True),
        (PYRAMID, (72, 40), True),  # grids of 18 x 10, 9 x 5, 5 x 3, 3 x 2
        (PYRAMID, (101, 70), True),
        (PYRAMID, (101, 70), False),
    ],
)
def test_pixels_have_the_size_of_the_image(
    kind: str, channels: int, layout: tuple[list[int], list[int]], size: tuple[int, int], up: bool
) -> None:
    pixels = build(*layout, channels=channels, kind=kind)(draw(*layout, size, up=up), size)
    assert pixels.shape == (2, channels, *size)
    assert pixels.isfinite().all()


def slow(decoder: Decoder, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The fusion cell by cell: project, look up the coarser cell, add, mix 3 x 3 neighbors, normalize; then unfold."""
    fused = None
    for level in reversed(range(len(maps))):
        lateral, (mix, norm, _) = decoder.laterals[level], decoder.blocks[level]
        batch, _, rows, columns = maps[level].shape
        summed = torch.zeros(batch, mix.out_channels, rows, columns, dtype=maps[level].dtype)
        for i in range(rows):
            for j in range(columns):
                summed[:, :, i, j] = maps[level][:, :, i, j] @ lateral.weight[:, :, 0, 0].T + lateral.bias
                if fused is not None:
                    summed[:, :, i, j] += fused[:, :, i * fused.shape[2] // rows, j * fused.shape[3] // columns]
        mixed = torch.zeros_like(summed)
        for i in range(rows):
            for j in range(columns):
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < rows and 0 <= j + dj < columns:
                            mixed[:, :, i, j] += summed[:, :, i + di, j + dj] @ mix.weight[:, :, di + 1, dj + 1].T
        groups = mixed.unflatten(1, (norm.num_groups, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        spread = groups.var((2, 3, 4), keepdim=True, correction=0)
        normed = ((groups - mean) / (spread + norm.eps).sqrt()).flatten(1, 2)
        normed = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
        fused = 0.5 * normed * (1 + torch.erf(normed / 2**0.5))
    assert fused is not None
    s, last = decoder.stride, decoder.to_pixels
    pixels = torch.zeros(fused.shape[0], last.out_channels // s**2, *size, dtype=fused.dtype)
    for y in range(0, size[0], s):
        for x in range(0, size[1], s):
            cell = fused[:, :, min(y // s, fused.shape[2] - 1), min(x // s, fused.shape[3] - 1)]
            square = (cell @ last.weight[:, :, 0, 0].T + last.bias).unflatten(1, (-1, s, s))
            pixels[:, :, y : y + s, x : x + s] = square[:, :, : size[0] - y, : size[1] - x]
    return pixels


@pytest.mark.parametrize(
    ("layout", "size", "up"), [(FLAT, (16, 24), True), (PYRAMID, (40, 24), True), (PYRAMID, (35, 32), False)]
)
def test_the_slow_version_agrees(layout: tuple[list[int], list[int]], size: tuple[int, int], up: bool) -> None:
    decoder = build(*layout).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
        maps = [level.double() for level in draw(*layout, size, up=up)]
        torch.testing.assert_close(decoder(maps, size), slow(decoder, maps, size), rtol=1e-9, atol=1e-9)


def test_samples_do_not_mix() -> None:
    decoder, maps = build(*PYRAMID).double(), [level.double() for level in draw(*PYRAMID, (64, 64))]
    together = decoder(maps, (64, 64))
    alone = torch.cat([decoder([level[i : i + 1] for level in maps], (64, 64)) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [FLAT, PYRAMID], ids=["flat", "pyramid"])
def test_every_level_counts_and_every_parameter_learns(layout: tuple[list[int], list[int]]) -> None:
    decoder, maps = build(*layout), [level.requires_grad_() for level in draw(*layout, (64, 32))]
    (decoder(maps, (64, 32)) - 1).abs().mean().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in maps)
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name


def test_levels_choose_maps_and_the_finest_of_them_sets_the_stride() -> None:
    maps = [level.requires_grad_() for level in draw(*PYRAMID, (64, 64))]
    decoder = build(*PYRAMID, levels=(1, 3))
    assert decoder.stride == 8
    decoder(maps, (64, 64)).sum().backward()
    assert [level.grad is not None for level in maps] == [False, True, False, True]
    last = build(*PYRAMID, kind="linear")
    assert (last.levels, last.stride, len(list(last.parameters()))) == ([3], 32, 2)


def test_refusals() -> None:
    for wrong in ((), (3, 1), (1, 1)):
        with pytest.raises(UserError, match="rising order"):
            DecoderConfig(levels=wrong)
    with pytest.raises(UserError, match="levels 0 to 3"):
        build(*PYRAMID, levels=(4,))
    with pytest.raises(UserError, match="multiple of 8"):
        DecoderConfig(dim=20)
    with pytest.raises(UserError, match="conv, linear"):
        DecoderConfig(kind="mlp")  # type: ignore[arg-type]


def test_initial_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, different = build(*PYRAMID), build(*PYRAMID), build(*PYRAMID, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.to_pixels.weight, different.to_pixels.weight)


@pytest.mark.parametrize("layout", [FLAT, PYRAMID], ids=["flat", "pyramid"])
def test_starts_near_the_mean_image(layout: tuple[list[int], list[int]]) -> None:
    assert build(*layout)(draw(*layout, (64, 64)), (64, 64)).std() < 0.2


def test_channels_last_gives_the_same_pixels() -> None:
    decoder, maps = build(*PYRAMID), draw(*PYRAMID, (64, 64))
    plain = decoder(maps, (64, 64))
    moved = [level.to(memory_format=torch.channels_last) for level in maps]
    torch.testing.assert_close(decoder.to(memory_format=torch.channels_last)(moved, (64, 64)), plain)


@pytest.mark.parametrize("layout", [FLAT, PYRAMID], ids=["flat", "pyramid"])
def test_overfits_one_image(layout: tuple[list[int], list[int]]) -> None:
    ramp = torch.linspace(-2, 2, 32)
    image = torch.stack([ramp[:, None].expand(32, 32), ramp.expand(32, 32), ramp[:, None] * ramp])[None].repeat(
        2, 1, 1, 1
    )
    decoder, maps = build(*layout, dim=32), draw(*layout, (32, 32))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    start = F.l1_loss(decoder(maps, (32, 32)), image).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.l1_loss(decoder(maps, (32, 32)), image)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * start


@pytest.mark.parametrize(
    ("name", "width", "parameters", "flops"),
    [
        ("vit_small_patch16_224", 128, 0.05, 0.05),
        ("vit_base_patch16_224", 128, 0.05, 0.05),
        ("swin_tiny_patch4_window7_224", 64, 0.05, 0.05),
    ],
)
def test_the_branch_is_light(name: str, width: int, parameters: float, flops: float) -> None:
    with torch.device("meta"):
        encoder = Encoder(name)
    decoder = build(encoder.widths, encoder.strides, dim=width)
    cost = branch_cost(encoder, decoder, size=(224, 224))
    assert 0 < cost.decoder_parameters < parameters * cost.encoder_parameters
    assert 0 < cost.decoder_flops < flops * cost.encoder_flops
    assert branch_cost(encoder, None, size=(224, 224)).decoder_flops == 0


def test_flops_by_hand() -> None:
    """ViT-S/16 at 224: 197 tokens of width 384 in 12 blocks; 196 cells of width 128 on four levels."""
    with torch.device("meta"):
        encoder = Encoder("vit_small_patch16_224")
    cost = branch_cost(encoder, build(encoder.widths, encoder.strides, dim=128), size=(224, 224))
    blocks = 12 * (197 * 12 * 384**2 + 2 * 197**2 * 384)
    assert cost.encoder_flops == 2 * (blocks + 196 * 384 * 3 * 16**2)
    assert cost.decoder_flops == 2 * 196 * (4 * (384 * 128 + 9 * 128**2) + 128 * 3 * 16**2)
    assert cost.decoder_parameters == 4 * (384 * 128 + 128 + 9 * 128**2 + 2 * 128) + (128 + 1) * 3 * 16**2
    small = branch_cost(encoder, None, size=(96, 96)).encoder_flops  # a size that the encoder has not seen yet
    assert small == 2 * (12 * (37 * 12 * 384**2 + 2 * 37**2 * 384) + 36 * 384 * 3 * 16**2)
