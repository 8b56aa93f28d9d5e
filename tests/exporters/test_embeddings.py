"""The features in the file are the encoder's, image by image, and an interrupted call resumes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.io.decode import read_image
from repre.data.loading.loader import stack
from repre.data.views.render import center_view
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.options import RuntimeOptions
from repre.exporters.data_map import MapOptions
from repre.exporters.embeddings import Kind, embed
from repre.models.encoder import Encoder
from repre.models.timm_folder import load_saved_encoder, save_encoder
from repre.types import Features
from tests.little_memory import little_memory
from tests.tiny import ENCODERS

RUNTIME = RuntimeOptions(device="cpu", workers=0, batch=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_encoder(Encoder(ENCODERS["swin"]), tmp_path / "encoder")
    (tmp_path / "photos" / "a <b>").mkdir(parents=True)
    for i in range(11):
        picture = Image.radial_gradient("L").rotate(20 * i).resize((70 + i, 66)).convert("RGB")
        picture.save(tmp_path / "photos" / ("a <b>" if i % 2 else "") / f"{i:02d} 'ä.png")
    (tmp_path / "photos" / "05 broken.png").write_bytes(b"rubbish")
    return tmp_path


def call(folder: Path, name: str = "f.npz", kind: Kind = "pooled", **more: Any) -> int:
    return embed(
        str(folder / "encoder"),
        data=str(folder / "photos"),
        out=folder / name,
        kind=kind,
        runtime=RUNTIME,
        images_per_part=5,
        **more,
    )


def test_files_of_several_frames_are_said_once(folder: Path) -> None:
    frames = [Image.new("RGB", (66, 66), color) for color in ("red", "lime")]
    for name in ("03.gif", "12.webp"):
        frames[0].save(folder / "photos" / name, save_all=True, append_images=frames[1:])
    said: list[str] = []
    assert call(folder, log=said.append) == 13
    (line,) = said
    assert line.startswith("2 files hold several frames or pages, such as ")
    assert line.endswith("03.gif; only the first one is used")


@torch.no_grad()
def expected(folder: Path, paths: list[str], *, norm: bool = True) -> dict[str, np.ndarray]:
    """The features of one image at a time."""
    encoder = load_saved_encoder(folder / "encoder").eval()
    features = []
    for path in paths:
        pixels, sizes = stack([read_image(Path(path), canvas=128)])
        view = center_view(pixels, sizes, size=64, config=ViewsConfig(size=64), crop_pct=1.0)
        features.append(encoder(view, norm=norm))
    levels = {f"level_{i}": torch.cat([f.maps[i] for f in features]).numpy() for i in range(4)}
    return levels | {"features": torch.cat([f.embedding for f in features]).numpy(), "patch": levels["level_3"]}


@pytest.mark.parametrize("kind", ["pooled", "patch", "pyramid"])
@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_features_are_those_of_the_encoder(folder: Path, kind: Kind, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    name = f"f.{ending}"
    assert call(folder, name, kind) == 11
    paths, arrays = read(folder / name)
    references = expected(folder, paths)
    names = [f"level_{i}" for i in range(4)] if kind == "pyramid" else ["features"]
    assert sorted(arrays) == names
    for key in names:
        reference = references["patch" if kind == "patch" else key]
        assert arrays[key].shape == reference.shape
        assert np.allclose(arrays[key], reference, atol=1e-5)
    assert len(set(paths)) == 11
    assert any("a <b>" in path and "'ä" in path for path in paths)
    listed = (folder / f"{name}.unreadable.txt").read_text()
    assert "05 broken.png\tnot an image" in listed
    assert not (folder / f"{name}.parts").exists()


def read(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
        return [str(p) for p in arrays.pop("paths")], arrays
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    shapes = json.loads(table.schema.metadata[b"shapes"])
    return table["path"].to_pylist(), {
        name: np.array(table[name].to_pylist(), np.float32).reshape(-1, *shape) for name, shape in shapes.items()
    }


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> list[None]:
    """Lets the encoder run `after` times, then interrupts; the list has an entry for every run."""
    forward, runs = Encoder.forward, list[None]()

    def counted(self: Encoder, *arguments: Any, **keywords: Any) -> Features:
        if len(runs) == after:
            raise KeyboardInterrupt
        runs.append(None)
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(Encoder, "forward", counted)
    return runs


@pytest.mark.parametrize("kind", ["patch", "pyramid"])
def test_raw_maps_on_request_without_parts_of_normed_ones(
    folder: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            call(folder, kind=kind)
    call(folder, kind=kind, features="raw")
    paths, arrays = read(folder / "f.npz")
    raw, normed = (expected(folder, paths, norm=norm)["patch"] for norm in (False, True))
    last = arrays["features" if kind == "patch" else "level_3"]
    assert np.allclose(last, raw, atol=1e-5)
    assert not np.allclose(raw, normed, atol=0.1)


def test_an_interrupted_call_resumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(folder, "uninterrupted.npz")
    with monkeypatch.context() as patch:
        first = interrupt(patch, after=3)  # the first part takes two batches
        with pytest.raises(KeyboardInterrupt):
            call(folder)
    with monkeypatch.context() as patch:
        rest = interrupt(patch, after=99)
        call(folder)
    with monkeypatch.context() as patch:
        complete = interrupt(patch, after=99)
        call(folder, "again.npz")
    assert len(rest) == len(complete) - 2, "the first part was not computed again"
    assert len(first) == 3
    paths, arrays = read(folder / "f.npz")
    expected_paths, expected_arrays = read(folder / "uninterrupted.npz")
    assert paths == expected_paths
    assert np.array_equal(arrays["features"], expected_arrays["features"])


def test_parts_of_another_call_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            call(folder, kind="patch")
    assert call(folder, kind="pooled") == 11
    assert read(folder / "f.npz")[1]["features"].ndim == 2


def test_a_changed_image_is_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            call(folder)
    changed = sorted((folder / "photos").glob("*.png"))[0]
    Image.new("RGB", (64, 64), "red").save(changed)
    call(folder)
    paths, arrays = read(folder / "f.npz")
    index = paths.index(str(changed))
    assert np.allclose(arrays["features"][index], expected(folder, [str(changed)])["features"][0], atol=1e-5)


def test_the_list_of_unreadable_images_goes_when_all_can_be_read(folder: Path) -> None:
    call(folder)
    assert (folder / "f.npz.unreadable.txt").is_file()
    (folder / "photos" / "05 broken.png").unlink()
    assert call(folder) == 11
    assert not (folder / "f.npz.unreadable.txt").exists()


def test_half_precision(folder: Path) -> None:
    call(folder, half=True)
    assert read(folder / "f.npz")[1]["features"].dtype == np.float16


def test_a_declared_range_of_pixels(folder: Path) -> None:
    """The same image in twelve bits of sixteen, and in eight."""
    values = np.arange(70 * 66 * 3, dtype=np.uint16).reshape(70, 66, 3) % 256
    for name, array in (("deep", values * 16), ("eight", values.astype(np.uint8))):
        (folder / name).mkdir(exist_ok=True)
        np.save(folder / name / "a.npy", array)
    features = {}
    for name, value_range in (("deep", (0.0, 255 * 16.0)), ("eight", None)):
        out = folder / f"{name}.npz"
        embed(str(folder / "encoder"), data=str(folder / name), out=out, value_range=value_range, runtime=RUNTIME)
        features[name] = read(out)[1]["features"]
    assert np.allclose(features["deep"], features["eight"], atol=1e-2)
    deep = {"data": str(folder / "deep"), "out": folder / "deep.npz", "runtime": RUNTIME}
    with pytest.raises(UserError, match="give --value-range 0 4095"):
        embed(str(folder / "encoder"), **deep)
    embed(str(folder / "encoder"), **deep, value_range=(0.0, 65535.0))
    assert not np.allclose(read(folder / "deep.npz")[1]["features"], features["eight"], atol=1e-1)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("f.csv", "photos", "has to end with .npz or .parquet"),
        ("f.npz", "nothing", "no folder, list or archive"),
        ("f.npz", "broken", "none of 1 sampled images"),
    ],
)
def test_mistakes_are_named(folder: Path, name: str, data: str, message: str) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "x.png").write_bytes(b"no")
    with pytest.raises(UserError, match=message):
        embed(str(folder / "encoder"), data=str(folder / data), out=folder / name, runtime=RUNTIME)


@pytest.mark.parametrize("kind", ["pooled", "pyramid"])
def test_a_batch_that_does_not_fit_is_halved(kind: Kind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(folder, "expected.npz", kind)
    sizes = little_memory(monkeypatch, 1)
    call(folder, "found.npz", kind)
    assert max(sizes) > 1
    expected, found = (np.load(folder / f"{name}.npz") for name in ("expected", "found"))
    assert expected.files == found.files
    for name in expected.files:
        if name == "paths":
            assert found[name].tolist() == expected[name].tolist()
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_map_lies_beside_the_features_and_resumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, said = MapOptions(method="pca", clusters=3), list[str]()
    assert call(folder, data_map=options, log=said.append) == 11
    table = (folder / "f.map.csv").read_text(encoding="utf-8").splitlines()
    assert [line.rsplit(",", 4)[0] for line in table[1:]] == np.load(folder / "f.npz")["paths"].tolist()
    page = (folder / "f.map.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 11
    assert "3 clusters" in said[0]
    (folder / "f.map.csv").unlink()
    with monkeypatch.context() as patched:  # killed while the map is made: no feature is computed again
        patched.setattr("repre.exporters.embeddings.write_map", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(folder, data_map=options)
    monkeypatch.setattr(Encoder, "forward", lambda *_, **__: pytest.fail("the encoder ran"))
    assert call(folder, data_map=options, log=said.append) == 11
    assert (folder / "f.map.csv").read_text(encoding="utf-8").splitlines() == table
    assert not (folder / "f.npz.parts").exists()
    with pytest.raises(UserError, match="--map needs one vector per image: leave out --kind patch"):
        call(folder, kind="patch", data_map=options)
