"""The fixed sample, and measurements of a whole model: repeatable and without a trace."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from repre.data.io.sources import open_source
from repre.data.views.view_recipes import ViewsConfig, dino_views, moco_v3_views
from repre.errors import RunError
from repre.training.monitoring.label_free import EPOCH, Monitors, Sample, fixed_sample
from repre.training.monitoring.patch_metrics import matching_cells, predicted_cells
from repre.types import Batch
from tests import tiny
from tests.little_memory import little_memory

CPU = torch.device("cpu")


def monitors(framework: str, encoder: str = "vit") -> Monitors:
    side = tiny.SIDES[encoder]
    views = dino_views(side, side // 2, 1) if framework == "dino" else moco_v3_views(side)
    views = replace(views, mask=tiny.mask_config(framework, encoder))
    sample = fixed_sample(open_source(f"scenes:40:{side}"), count=16, views=views)
    return Monitors(sample, views=views, seed=0, device=CPU)


def perturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


# ------------------------------------------------------------------------------------------------------ the sample


def test_the_sample_is_spread_shuffled_and_the_same_every_time(tmp_path: Path) -> None:
    for i in range(30):
        Image.fromarray(np.full((8, 8, 3), 8 * i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "29.png").write_text("not an image")
    source = open_source(str(tmp_path), canvas=16)
    views = ViewsConfig(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    sample = fixed_sample(source, count=10, views=views)
    assert torch.equal(sample.images, fixed_sample(source, count=10, views=views).images)
    indices = (sample.images[:, 0, 0, 0] * 255 / 8).round().int().tolist()
    assert sorted(indices) == [0, 3, 6, 9, 12, 16, 19, 22, 25]  # of 0, 3, ... 29; the last one cannot be read
    assert indices != sorted(indices)
    assert sample.decoded.indices.tolist() == indices[:5]
    assert [int(image[0, 0, 0]) for image in sample.decoded.pixels] == [8 * i for i in indices[:5]]


def test_a_sample_of_unreadable_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("nothing")
    with pytest.raises(RunError, match="can be read"):
        fixed_sample(open_source(str(tmp_path), canvas=16), count=4, views=ViewsConfig(size=8))


# --------------------------------------------------------------------------------------------------- measurements


def test_pairs_of_views_match_where_their_parameters_say() -> None:
    """The pixels of these images tell their position, so this compares boxes and flips with the rendered views."""
    count = 40
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = (torch.stack([y, x, torch.zeros_like(x)]) / 64).repeat(count, 1, 1, 1)
    order = torch.arange(count)
    sample = Sample(images[:1, :, :32, :32], Batch(images, torch.full((count, 2), 64), order, order, EPOCH))
    views = ViewsConfig(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    measuring = Monitors(sample, views=views, seed=3, device=CPU)

    def features(view: torch.Tensor) -> torch.Tensor:
        """Puts each coordinate of a 4 x 4 patch on a circle, so that the cosine grows with nearness."""
        means = F.avg_pool2d(view, 4)[:, :2]
        return torch.cat([means.cos(), means.sin()], 1).flatten(2).mT

    first, second = measuring.pairs
    cells, visible = matching_cells(*measuring.parameters, grid=(8, 8))
    correct = (predicted_cells(features(first), features(second)) == cells)[visible].float().mean()
    flipped = (predicted_cells(features(first.flip(-1)), features(second)) == cells)[visible].float().mean()
    assert correct > 0.9
    assert flipped < 0.3


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_a_measurement_leaves_no_trace_and_repeats(framework: str) -> None:
    model, measuring = tiny.tiny_model(framework, "vit"), monitors(framework)
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    random_state = torch.random.get_rng_state()
    first = measuring.measure(model, progress=0.0)
    assert torch.equal(random_state, torch.random.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert model.encoder.training
    assert all(value is not None for value in first.values())
    second = measuring.measure(model, progress=0.0)
    assert {name: second[name] for name in first} == first
    assert monitors(framework).measure(model, progress=0.0) == first


def test_without_teacher_and_branch_their_metrics_are_absent() -> None:
    metrics = monitors("simclr").measure(tiny.tiny_model("simclr", "vit", weight=0.0), progress=0.0)
    absent = ("teacher", "student", "psnr", "ssim", "gradient", "level_share")
    assert not [name for name in metrics if name.startswith(absent)]
    assert {"rankme", "embedding_std", "alignment", "uniformity", "correspondence", "patch_rank"} <= set(metrics)


def test_a_pyramid_is_measured_at_every_level() -> None:
    metrics = monitors("moby", encoder="swin").measure(tiny.tiny_model("moby", "swin"), progress=0.5)
    assert metrics["correspondence_chance"] == 1 / 4
    shares = [metrics[f"level_share_{level}"] for level in range(4)]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    assert None not in shares


def test_motion_metrics_find_a_teacher_that_stands_still_and_one_that_catches_up() -> None:
    model, measuring = tiny.tiny_model("byol", "vit"), monitors("byol")
    assert not {"teacher_moved", "student_moved", "teacher_follows"} & set(measuring.measure(model, progress=0.0))
    perturb(model.encoder)
    frozen = measuring.measure(model, progress=0.0)
    assert frozen["teacher_moved"] == 0
    assert frozen["teacher_follows"] == 0
    assert frozen["student_moved"] is not None
    assert frozen["student_moved"] > 0.1
    assert frozen["teacher_agreement"] is not None
    assert frozen["teacher_agreement"] < 0.99
    model.framework.teacher.update(model.encoder, model.framework.projector, momentum=0.0)
    caught_up = measuring.measure(model, progress=0.0)
    assert caught_up["student_moved"] == 0
    assert caught_up["teacher_agreement"] == pytest.approx(1)
    assert "teacher_follows" not in caught_up  # undefined: the student did not move


def test_values_that_are_not_finite_become_none() -> None:
    model = tiny.tiny_model("simclr", "vit")
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    metrics = monitors("simclr").measure(model, progress=0.0)
    assert metrics["rankme"] is None
    assert metrics["psnr"] is None
    assert metrics["distinct_images"] == 1


@pytest.mark.parametrize("framework", ["moco-v3", "dino", "simclr"])
def test_batches_that_do_not_fit_are_halved(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses are then weighed on fewer images, and what describes the first batch of maps on less of it."""
    model, measured = tiny.tiny_model(framework, "vit"), monitors(framework)
    expected = measured.measure(model, progress=0.5)
    measured.previous_embeddings = []
    sizes = little_memory(monkeypatch, 5)
    found = measured.measure(model, progress=0.5)
    assert max(sizes) > 5
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.startswith(("gradient", "patch_rank", "level_similarity")):
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
