"""Cached maps of a frozen encoder: their content, that they are computed once, and that only complete ones are used."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repre.data.labels.masks import open_masks
from repre.data.labels.windows import WindowsConfig
from repre.errors import RunError, UserError
from repre.evaluation import maps
from repre.evaluation.maps import CachedMaps, cached_maps
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from tests.tiny import ENCODERS

MEAN, STD = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.3)


def encoder(name: str = "vit", seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(ENCODERS[name])


def store(model: Encoder, cache: Path, *, data: str = "scenes:5:32", levels: tuple[int, ...] = (0, 3), size: int = 32,
          std: torch.Tensor = STD, batch: int = 3, norm: bool = True) -> CachedMaps:  # fmt: skip
    runtime = RuntimeOptions(device="cpu", workers=0, batch=batch, cache=cache)
    windows = WindowsConfig(size=size, short_side=0)
    return cached_maps(
        model, open_masks(data), windows, mean=MEAN, std=std, levels=list(levels), norm=norm, runtime=runtime
    )


def forbid(model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(type(model), "forward", refuse)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_maps_are_the_encoders(name: str, norm: bool, tmp_path: Path) -> None:
    model, source = encoder(name), open_masks("scenes:5:32")
    maps = store(model, tmp_path, norm=norm)
    assert maps.first.tolist() == [0, 1, 2, 3, 4, 5]
    for index in range(5):
        image, mask = source.load(index)
        pixels = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - MEAN) / STD
        with torch.no_grad():
            expected = model.eval()(pixels, norm=norm).maps
        levels = maps.read(np.array([index]), torch.device("cpu"))
        for level, number in zip(levels, (0, 3)):
            torch.testing.assert_close(level, expected[number], rtol=2e-3, atol=2e-3)
        assert (maps.masks[index] == mask).all()


def test_large_images_have_several_windows(tmp_path: Path) -> None:
    maps = store(encoder(), tmp_path, data="scenes:3:48", size=32)
    assert maps.first.tolist() == [0, 4, 8, 12]
    assert maps.windows([2, 0]).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert maps.masks.shape == (12, 32, 32)
    assert [plan.offsets for plan in maps.plans] == [((0, 0), (0, 16), (16, 0), (16, 16))] * 3


def test_a_second_call_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    first = store(model, tmp_path)
    forbid(model, monkeypatch)
    second = store(encoder(), tmp_path, batch=2)
    for a, b in zip(first.levels, second.levels):
        assert (a == b).all()
    assert first.plans == second.plans


@pytest.mark.parametrize("change", ["weights", "model", "data", "levels", "std", "norm"])
def test_what_defines_maps_gives_another_entry(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(encoder(), tmp_path)
    model = encoder(seed=1) if change == "weights" else encoder()
    if change == "model":  # other heads: the same weights in the same shapes, and another function
        state = model.state_dict()
        model = Encoder(replace(ENCODERS["vit"], model_args={**ENCODERS["vit"].model_args, "num_heads": 4}))
        model.load_state_dict(state)
    forbid(model, monkeypatch)
    with pytest.raises(AssertionError, match="the encoder ran"):
        store(
            model,
            tmp_path,
            data="scenes:6:32" if change == "data" else "scenes:5:32",
            levels=(0,) if change == "levels" else (0, 3),
            std=2 * STD if change == "std" else STD,
            norm=change != "norm",
        )


def test_a_stopped_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    forward, calls = type(model).forward, 0

    def stop_after_one(self: Encoder, x: torch.Tensor, *, norm: bool) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return forward(self, x, norm=norm)

    monkeypatch.setattr(type(model), "forward", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        store(model, tmp_path)
    assert calls == 2
    assert list((tmp_path / "maps").iterdir()) == []
    monkeypatch.setattr(type(model), "forward", forward)
    assert len(store(model, tmp_path).masks) == 5


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(maps.tempfile, "tempdir", str(tmp_path))
    kept, model = store(encoder(), tmp_path / "cache"), encoder()
    for _ in range(2):
        assert np.array_equal(store(model, tmp_path / "file").levels[0], kept.levels[0])
    said = [str(warning.message) for warning in recwarn if "the cache" in str(warning.message)]
    assert len(said) == 1
    assert "continues without it. Name another folder with --runtime.cache" in said[0]
    monkeypatch.setattr(maps.tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"cannot be written to .*another folder with --runtime\.cache"):
        store(model, tmp_path / "file")


def test_a_process_that_was_faster_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    model, write = encoder(), maps._write

    def slow(folder: Path, *arguments: object, **options: object) -> None:
        write(folder, *arguments, **options)  # type: ignore[arg-type]
        if (pid := os.fork()) == 0:
            maps._write = write
            store(model, tmp_path)
            os._exit(0)
        os.waitpid(pid, 0)

    monkeypatch.setattr(maps, "_write", slow)
    assert len(store(model, tmp_path).masks) == 5
    assert len(list((tmp_path / "maps").iterdir())) == 1
    assert not [warning for warning in recwarn if "the cache" in str(warning.message)]


def test_a_damaged_image_leaves_no_entry(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / kind / f"{name}.png").write_bytes(b"rubbish")
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="cannot be read"):
        store(encoder(), tmp_path / "cache", data=f"pairs:{tmp_path}/images,{tmp_path}/masks")
    assert list((tmp_path / "cache" / "maps").iterdir()) == []
