"""Probes on labels give the numbers of the evaluations, on one pass over the images, and change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.config import RunConfig, RuntimeConfig
from repre.data.labels.masks import MaskOptions
from repre.data.labels.probe_config import ProbeConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation import label_probes
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.classification.knn import run as run_knn
from repre.evaluation.label_probes import LabelProbes
from repre.evaluation.segmentation import segment_probe
from repre.evaluation.segmentation.patch_knn import PatchKNNConfig
from repre.evaluation.segmentation.patch_knn import run as run_patch_knn
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.training.monitoring.label_free import isolated_evaluation
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image
from tests.evaluation.segmentation.test_segment import write_pairs
from tests.evaluation.tiny_eval import on_cpu
from tests.tiny import ENCODERS, SIDES


def run_config(name: str = "vit", **probe: Any) -> RunConfig:
    return RunConfig(
        encoder=replace(ENCODERS[name], image_size=None),
        views=ViewsConfig(size=SIDES[name]),
        probe=ProbeConfig(**probe),
        runtime=RuntimeConfig(device="cpu", workers=0),
    )


def built(name: str = "vit") -> Encoder:
    return ResolvedEncoder("x", ENCODERS[name], None).build(seed=0)


def measure(probes: LabelProbes, encoder: Encoder) -> dict[str, float]:
    with isolated_evaluation(encoder, torch.device("cpu")):
        return probes(encoder)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_probes_are_the_evaluations(name: str, tmp_path: Path) -> None:
    masks = write_pairs(tmp_path / "data", count=4, size=SIDES[name] * 3 // 2)
    spec = "scenes:60:32"
    probes = LabelProbes(run_config(name, knn=spec, linear=spec, segment=masks))
    encoder = built(name).train()
    before = torch.random.get_rng_state()
    found = measure(probes, encoder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert encoder.training
    assert not any(parameter.grad is not None for parameter in encoder.parameters())
    assert list(found) == ["probe/knn", "probe/linear", "probe/miou", "probe/patch_knn"]
    assert all(0 <= value <= 1 for value in found.values())
    assert measure(probes, encoder) == found
    resolved = ResolvedEncoder("x", ENCODERS[name], None)
    knn = run_knn(resolved, KNNConfig(data=spec, runtime=on_cpu(tmp_path)))
    assert found["probe/knn"] == knn.metrics["knn20"]
    patches = run_patch_knn(resolved, PatchKNNConfig(data=masks, runtime=on_cpu(tmp_path)))
    assert found["probe/patch_knn"] == patches.metrics["miou"]
    assert probes.images()["probe/miou"] == {"data": masks, "train_images": 4, "test_images": 4}
    assert "probe/linear: 60 labeled images to learn from, 30 to test on" in probes.describe()


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_linear_head_learns_by_heart_what_it_is_tested_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = write_pairs(tmp_path / "data", count=3, size=SIDES[name])
    config = run_config(name, segment=masks)
    config = replace(config, encoder=replace(config.encoder, patch_size=2 if name == "vit" else None))
    encoder = Encoder(config.encoder_at_size)
    learned = measure(LabelProbes(config), encoder)["probe/miou"]
    monkeypatch.setattr(segment_probe, "HEAD_STEPS", 1)
    assert learned > measure(LabelProbes(config), encoder)["probe/miou"] + 0.1


def test_images_of_one_data_set_are_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    forward = Encoder.forward

    def counting(self: Encoder, x: torch.Tensor, **more: Any) -> Any:
        counts.append(len(x))
        return forward(self, x, **more)

    monkeypatch.setattr(Encoder, "forward", counting)
    encoder = built()
    both = measure(LabelProbes(run_config(knn="scenes:40:32", linear="scenes:40:32")), encoder)
    assert sum(counts) == 60
    counts.clear()
    assert measure(LabelProbes(run_config(linear="scenes:40:32")), encoder)["probe/linear"] == both["probe/linear"]
    measure(LabelProbes(run_config(knn="scenes:40:32", linear="scenes:50:32")), encoder)
    assert sum(counts) == 60 + 60 + 75


def test_views_are_kept_only_if_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = built()
    probes = LabelProbes(run_config(knn="scenes:100:32"))
    first = measure(probes, encoder)
    assert [data.train.kept is not None for data in probes.classified.values()] == [True]
    monkeypatch.setattr(
        label_probes, "KEPT_BYTES", 80 * 32 * 32 * 3 * 4
    )  # the training images are more, the test images less
    again = LabelProbes(run_config(knn="scenes:100:32"))
    assert measure(again, encoder) == measure(again, encoder) == first
    (data,) = again.classified.values()
    assert data.train.kept is None
    assert data.test.kept is not None


def test_a_probe_uses_only_so_many_images(tmp_path: Path) -> None:
    masks = write_pairs(tmp_path / "data", count=5, size=32)
    probes = LabelProbes(run_config(knn="scenes:200:32", segment=masks, images=3))
    counts = probes.images()
    assert counts["probe/knn"]["train_images"] <= 20  # one of each class at least
    assert counts["probe/miou"] == {"data": masks, "train_images": 3, "test_images": 3}
    assert measure(probes, built()).keys() == {"probe/knn", "probe/miou", "probe/patch_knn"}


def test_classes_of_masks_can_be_ignored(tmp_path: Path) -> None:
    masks = write_pairs(tmp_path / "data", count=3, size=32)
    config = run_config(segment=masks, masks=MaskOptions(ignore_label=("background",)))
    probes = LabelProbes(config)
    assert probes.segment is not None
    assert "background" not in probes.segment.train.classes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knn": "nowhere"}, "--probe.knn"),
        ({"linear": "labels.csv"}, "--probe.linear labels.csv"),
        ({"segment": "nowhere"}, "--probe.segment nowhere"),
        ({"segment": "pairs:nowhere,masks"}, "--probe.segment: there is no folder nowhere"),
        ({"segment": "scenes:4:32", "masks": MaskOptions(binary=True)}, "--probe.segment scenes:4:32"),
    ],
)
def test_messages_name_the_option(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        LabelProbes(run_config(**settings))


def test_messages_name_the_options_of_masks(tmp_path: Path) -> None:
    masks = write_pairs(tmp_path / "data", count=3, size=32)
    with pytest.raises(UserError, match=r"--probe\.masks\.ignore-label sky: no class has that name"):
        LabelProbes(run_config(segment=masks, masks=MaskOptions(ignore_label=("sky",))))


def test_doubtful_labels_are_refused_before_the_training_with_the_option_of_the_probe(tmp_path: Path) -> None:
    for name in ("cat", "Cat", "dog"):
        for number in range(2):
            save_image(tmp_path / "c" / name / f"{number}.png")
    folders = str(tmp_path / "c")
    for option in ("knn", "linear"):
        message = rf"^--probe\.{option} .*'Cat', 'cat' differ.*confirm them with --probe\.accept-labels$"
        with pytest.raises(UserError, match=message):
            LabelProbes(run_config(**{option: folders}))
    LabelProbes(run_config(knn=folders, accept_labels=True))
    for number in range(3):
        save_image(tmp_path / "im" / f"{number}.png")
        stripes = np.array([0, 127], np.uint8)[np.arange(HEIGHT) % 2]
        save_image(tmp_path / "m" / f"{number}.png", stripes[:, None].repeat(WIDTH, 1))
    masks = f"pairs:{tmp_path / 'im'},{tmp_path / 'm'}"
    message = r"^--probe\.segment: .*0, 127.*--probe\.masks\.colors.*--probe\.masks\.accept-labels$"
    with pytest.raises(UserError, match=message):
        LabelProbes(run_config(segment=masks))
    LabelProbes(run_config(segment=masks, masks=MaskOptions(accept_labels=True)))


def test_a_probe_names_all_bad_images_with_its_option(tmp_path: Path) -> None:
    masks = write_pairs(tmp_path / "data", count=6, size=32)
    probes = LabelProbes(run_config(segment=masks))
    for path in sorted((tmp_path / "data").rglob("*.png"))[-2:]:
        path.write_bytes(b"no mask")
    with pytest.raises(UserError, match=r"^--probe\.segment: 2 of 12 images cannot be used"):
        measure(probes, built())
