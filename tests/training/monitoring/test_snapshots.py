"""Snapshots: names, shapes and types as documented, the right neighbors, the same bytes every time, at most 6 MB."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from repre.data.views.view_recipes import ViewsConfig, moco_v3_views
from repre.training.monitoring.snapshots import (
    MAX_BYTES,
    nearest_neighbors,
    pca_colors,
    principal_components,
    save_snapshots,
    to_npz,
    to_picture,
)
from tests import tiny

CPU = torch.device("cpu")


def images(count: int = 20, side: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def saved(path: Path, framework: str = "simclr", encoder: str = "vit", weight: float = 1.0, count: int = 20) -> Path:
    side = tiny.SIDES[encoder]
    model = tiny.tiny_model(framework, encoder, weight=weight)
    save_snapshots(model, images(count, side), path, views=moco_v3_views(side), device=CPU)
    return path


@pytest.mark.parametrize("encoder", tiny.ENCODERS)
def test_names_shapes_and_types(tmp_path: Path, encoder: str) -> None:
    side = tiny.SIDES[encoder]
    grids = [(4, 4)] * 4 if encoder == "vit" else [(16, 16), (8, 8), (4, 4), (2, 2)]
    width = 32
    with np.load(saved(tmp_path / "a" / "features.npz", encoder=encoder), allow_pickle=False) as file:
        arrays = {name: (file[name].dtype.name, file[name].shape) for name in file.files}
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("uint8", (12, side, side, 3)),
        "rebuilt": ("uint8", (12, side, side, 3)),
        "patches": ("int8", (12, *grids[-1], width)),
        "neighbors": ("int32", (12, 6)),
        "neighbor_cosines": ("float32", (12, 6)),
        "neighbor_images": ("uint8", (12, 6, 64, 64, 3)),
    }
    expected |= {f"rebuilt_level_{level}": ("uint8", (12, side, side, 3)) for level in range(4)}
    expected |= {f"pca_level_{level}": ("uint8", (12, *grid, 3)) for level, grid in enumerate(grids)}
    assert arrays == expected


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "first.npz"), saved(tmp_path / "second.npz")
    assert first.read_bytes() == second.read_bytes()


def test_without_the_branch_and_with_few_images(tmp_path: Path) -> None:
    with np.load(saved(tmp_path / "a.npz", framework="dino", weight=0.0, count=4), allow_pickle=False) as file:
        assert not [name for name in file.files if name.startswith("rebuilt")]
        assert file["images"].shape[0] == 4
        assert file["neighbors"].shape == (4, 3)


def test_patches_keep_the_angles_of_the_centered_features(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as file:
        patches = file["patches"].astype(np.float64)
    model = tiny.tiny_model("simclr", "vit").eval()
    with torch.no_grad():
        x = model.encoder(images()[:12], norm=True).maps[-1].permute(0, 2, 3, 1).reshape(-1, 32).double()
    directions = torch.nn.functional.normalize(x - x.mean(0), dim=1).numpy()
    patches = patches.reshape(-1, 32) / 127
    assert np.abs(np.linalg.norm(patches, axis=1) - 1).max() < 0.03
    assert np.abs(patches @ patches.T - directions @ directions.T).max() < 0.03


def test_components_are_ordered_by_variance_and_have_a_fixed_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 4, 6, 6, generator=generator) * torch.tensor([1.0, 9.0, 3.0, 0.1]).view(1, 4, 1, 1) + 5
    components = principal_components(maps, 3)
    assert components.shape == (5, 6, 6, 3)
    std = components.flatten(0, 2).std(0)
    assert std.tolist() == sorted(std.tolist(), reverse=True)
    centered = maps.movedim(1, -1) - maps.mean((0, 2, 3))
    assert float(torch.corrcoef(torch.stack([components[..., 0].flatten(), centered[..., 1].flatten()]))[0, 1]) > 0.99
    assert pca_colors(maps).min() == 0
    assert pca_colors(maps).max() == 255
    assert pca_colors(maps[:, :2]).shape == (5, 6, 6, 3)


def test_neighbors_are_the_nearest_others() -> None:
    plain = ViewsConfig(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    angles = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.95, 1.4, 2.0, 2.7])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 9)[:, None]
    arrays = nearest_neighbors(embeddings, images(8).sigmoid(), views=plain)
    assert arrays["neighbors"][0].tolist() == [1, 2, 3, 4, 5, 6]
    assert arrays["neighbors"][3].tolist() == [2, 1, 4, 0, 5, 6]  # at angles of 0.25, 0.4, 0.45, 0.5, 0.9, 1.5
    assert arrays["neighbor_cosines"][0, 0] == pytest.approx(np.cos(0.1))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pictures_without_three_channels_are_gray(channels: int) -> None:
    pictures = to_picture(images(2, 16, channels).sigmoid())
    assert pictures.shape == (2, 16, 16, 3)
    assert (pictures[..., 0] == pictures[..., 2]).all()


def test_large_views_are_shrunk() -> None:
    assert to_picture(torch.rand(1, 3, 384, 384)).shape == (1, 256, 256, 3)


def test_pictures_lose_bits_until_the_file_fits() -> None:
    generator = np.random.default_rng(0)
    arrays = {f"rebuilt_level_{i}": generator.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8) for i in range(6)}
    arrays["patches"] = generator.integers(-127, 128, (12, 4, 4, 32), dtype=np.int8)
    content = to_npz(arrays, max_bytes=500_000)
    assert len(content) <= 500_000
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert (file["patches"] == arrays["patches"]).all()
        error = np.abs(file["rebuilt_level_0"].astype(int) - arrays["rebuilt_level_0"])
    assert 0 < error.max() < 32
    assert len(to_npz(arrays)) <= MAX_BYTES
