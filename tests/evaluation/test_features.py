"""Features: the same in batches as at once, extracted once, and again if anything they depend on changes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.labels.classes import open_labeled
from repre.data.labels.splits import LabeledImages
from repre.data.loading.loader import stack
from repre.errors import RunError, UserError
from repre.evaluation.features import (
    Transform,
    cached_features,
    encoder_extractor,
    eval_transform,
    extract_features,
    stream_views,
)
from repre.models.encoder import Encoder
from repre.types import Features
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved


class Counted:
    """Counts the images that any encoder sees."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.images, forward = 0, Encoder.forward

        def counting(encoder: Encoder, x: Tensor, **options: bool) -> Features:
            self.images += len(x)
            return forward(encoder, x, **options)

        patch.setattr(Encoder, "forward", counting)

    def since(self, call: Callable[[], object]) -> int:
        before = self.images
        call()
        return self.images - before


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def photos(root: Path, sizes: list[tuple[int, int]]) -> LabeledImages:
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(len(sizes))]
    for name, (width, height) in zip(names, sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / name)
    source = FileSource(str(root), LocalFiles(root, Names.of(names)), channels=3, canvas=32)
    return LabeledImages(source, np.zeros(len(sizes), np.int64), classes=["a", "b"])


def test_batches_and_workers_change_nothing(tmp_path: Path) -> None:
    images = photos(tmp_path, [(20, 30), (16, 16), (50, 40), (17, 60), (32, 18)])
    resolved = tiny_resolved()
    encoder = resolved.build().eval()
    transform = eval_transform(resolved, encoder)
    pixels, sizes = stack([images.load(i) for i in range(5)])
    with torch.no_grad():
        expected = encoder(transform(pixels, sizes)).embedding
    for options in (on_cpu(tmp_path, batch=2), on_cpu(tmp_path, batch=5), on_cpu(tmp_path, batch=2, workers=2)):
        views = stream_views(images, transform, runtime=options)
        embeddings, pixel_features = extract_features(views, [encoder_extractor(encoder), lambda x: x.flatten(1)])
        torch.testing.assert_close(embeddings, expected)
        assert pixel_features.shape == (5, 3 * 16 * 16)


def test_tokens_append_the_mean_of_the_normed_last_map() -> None:
    encoder = tiny_resolved().build().eval()
    images = torch.randn(3, 3, 16, 16)
    (both,) = extract_features([images], [encoder_extractor(encoder, tokens=True)])
    with torch.no_grad():
        features = encoder(images, norm=True)
    torch.testing.assert_close(both, torch.cat([features.embedding, features.maps[-1].flatten(2).mean(2)], 1))


def test_an_extractor_restores_the_mode_of_the_encoder() -> None:
    encoder = tiny_resolved().build()
    for training in (True, False):
        encoder.train(training)
        encoder_extractor(encoder)(torch.randn(2, 3, 16, 16))
        assert encoder.training == training


def test_a_second_call_reads_the_cache(tmp_path: Path, counted: Counted) -> None:
    resolved = tiny_resolved()
    encoder, images = resolved.build(), open_labeled("scenes:20:16").train
    transform = eval_transform(resolved, encoder)
    first = cached_features(encoder, images, transform, runtime=on_cpu(tmp_path))
    assert counted.images == 20
    again = cached_features(resolved.build(), images, transform, runtime=on_cpu(tmp_path))
    assert counted.images == 20
    assert first.dtype == torch.float32
    assert torch.equal(first, again)


@pytest.mark.slow
def test_all_that_features_depend_on_is_in_the_key(tmp_path: Path, counted: Counted) -> None:
    resolved = tiny_resolved()
    images = photos(tmp_path, [(20, 20)] * 3)
    plain = eval_transform(resolved, resolved.build())

    def extracted(
        *, seed: int = 0, images: LabeledImages = images, transform: Transform = plain, tokens: bool = False
    ) -> int:
        def call() -> Tensor:
            encoder = resolved.build(seed=seed)
            return cached_features(encoder, images, transform, tokens=tokens, runtime=on_cpu(tmp_path / "cache"))

        return counted.since(call)

    assert extracted() == 3
    assert extracted() == 0
    assert extracted(seed=1) == 3
    assert extracted(images=images.take(np.array([2, 0]))) == 2
    assert extracted(images=images.take(np.array([0, 2]))) == 2
    assert extracted(tokens=True) == 3
    assert extracted(transform=replace(plain, crop_pct=0.8)) == 3
    assert extracted(transform=replace(plain, views=replace(plain.views, value_range=(0.0, 200.0)))) == 3
    assert extracted(transform=replace(plain, views=replace(plain.views, mean=(0.1,) * 3, std=(0.3,) * 3))) == 3
    assert extracted() == 0
    os.utime(tmp_path / "1.png", ns=(5, 5))
    assert extracted() == 3


def test_a_damaged_file_is_replaced(tmp_path: Path, counted: Counted) -> None:
    resolved = tiny_resolved()
    encoder, images = resolved.build(), photos(tmp_path, [(20, 20)] * 3)
    transform = eval_transform(resolved, encoder)
    expected = cached_features(encoder, images, transform, runtime=on_cpu(tmp_path / "cache"))
    (path,) = (tmp_path / "cache" / "features").iterdir()
    for content in (b"", path.read_bytes()[:-7], b"nonsense"):
        path.write_bytes(content)
        features = cached_features(encoder, images, transform, runtime=on_cpu(tmp_path / "cache"))
        assert torch.equal(features, expected)
    assert counted.images == 12


def test_features_that_cannot_be_cached_are_still_returned(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    resolved = tiny_resolved()
    encoder = resolved.build()
    images = photos(tmp_path, [(20, 20)])
    with pytest.warns(UserWarning, match=r"the cache .* cannot be written .*continues without it"):
        features = cached_features(
            encoder, images, eval_transform(resolved, encoder), runtime=on_cpu(tmp_path / "file")
        )
    assert features.shape == (1, 16)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    images = photos(tmp_path, [(20, 20)] * 3)
    (tmp_path / "1.png").write_bytes(b"broken")
    resolved = tiny_resolved()
    transform = eval_transform(resolved, resolved.build())
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"1.png cannot be read: not an image"):
            list(stream_views(images, transform, runtime=on_cpu(tmp_path, workers=workers)))


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    resolved = tiny_resolved()
    encoder = resolved.build()
    torch.nn.init.constant_(next(encoder.parameters()), float("nan"))
    with pytest.raises(RunError, match="not finite"):
        cached_features(
            encoder, photos(tmp_path, [(20, 20)]), eval_transform(resolved, encoder), runtime=on_cpu(tmp_path / "k")
        )
    assert not (tmp_path / "k").exists()


def test_the_transform_takes_what_the_encoder_expects() -> None:
    resolved = tiny_resolved()
    small = eval_transform(resolved, resolved.build())
    assert (small.views.size, small.crop_pct, small.canvas) == (16, 1.0, 32)
    large = eval_transform(resolved, resolved.build(image_size=112))
    assert (large.views.size, large.crop_pct) == (112, 224 / 256)
    own = eval_transform(replace(resolved, mean=(0.2,) * 3, std=(0.4,) * 3), resolved.build(), crop_pct=0.75)
    assert (own.views.mean, own.views.std, own.crop_pct) == ((0.2,) * 3, (0.4,) * 3, 0.75)
    wide = eval_transform(resolved, resolved.build(image_size=(96, 192)))
    assert (wide.views.shape, wide.crop_pct, wide.canvas) == ((96, 192), 224 / 256, 438)
    flat = eval_transform(resolved, resolved.build(image_size=(32, 192)))
    assert flat.crop_pct == 1.0, "images with a side below 96 pixels are shown whole"
