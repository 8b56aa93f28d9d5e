"""Looks: every figure against a slow version or a case with a known answer; and a look leaves no trace."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.io.sources import open_source
from repre.data.views.params import ViewParameters, draw, uniforms
from repre.data.views.render import ViewConfig, ViewsConfig, dino_views, make_views, moco_v3_views
from repre.errors import RunError
from repre.frameworks.base import negatives, positive_mask
from repre.training.monitoring.label_free import (
    EPOCH,
    Monitors,
    Sample,
    WeightChange,
    depth_figures,
    distinct_share,
    fixed_sample,
    label_free,
    pair_geometry,
    spread,
    step_figures,
)
from repre.training.monitoring.patch_metrics import effective_rank, found_cells, linear_cka, right_cells
from repre.types import Batch
from tests import tiny
from tests.oracles import metrics as looks

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def monitors(framework: str = "moco-v3", count: int = 16, encoder: str = "vit") -> Monitors:
    side = tiny.SIDES[encoder]
    views = dino_views(side, side // 2, 1) if framework == "dino" else moco_v3_views(side)
    sample = fixed_sample(open_source(f"scenes:40:{side}"), count=count, canvas=2 * side, views=views)
    return Monitors(sample, views=views, seed=0, device=CPU)


# ------------------------------------------------------------------------------------------------------ the sample


def test_the_sample_is_spread_shuffled_and_the_same_every_time(tmp_path: Path) -> None:
    for i in range(30):
        Image.fromarray(np.full((8, 8, 3), 8 * i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "29.png").write_text("not an image")
    source = open_source(str(tmp_path), canvas=16)
    views = ViewsConfig(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    one = fixed_sample(source, count=10, canvas=16, views=views)
    other = fixed_sample(source, count=10, canvas=16, views=views)
    assert torch.equal(one.images, other.images)
    found = (one.images[:, 0, 0, 0] * 255 / 8).round().int().tolist()
    assert sorted(found) == [0, 3, 6, 9, 12, 16, 19, 22, 25]  # of 0, 3, ... 29; the last one cannot be read
    assert found != sorted(found)
    assert one.decoded.indices.tolist() == found[:5]
    assert [int(row[0, 0, 0]) for row in one.decoded.pixels] == [8 * i for i in found[:5]]


def test_a_sample_of_unreadable_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("nothing")
    with pytest.raises(RunError, match="can be read"):
        fixed_sample(open_source(str(tmp_path), canvas=16), count=4, canvas=16, views=ViewsConfig(size=8))


def test_copies_are_told_from_different_images() -> None:
    images = normal(6, 3, 16, 16) + normal(6, 3, 1, 1, seed=1)
    assert distinct_share(images) == 1
    images[3:] = images[0] + 0.001 * normal(3, 3, 16, 16)
    assert distinct_share(images) == 0.5


# --------------------------------------------------------------------------------------------------- image level


def test_effective_rank_counts_even_directions() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7, rel=1e-4)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1, abs=1e-4)
    tall = normal(200, 6)  # takes the way over a small matrix
    shares = torch.linalg.svdvals(tall.double())
    shares = shares / shares.sum() + 1e-7
    assert effective_rank(tall) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-9)
    assert np.isnan(effective_rank(torch.tensor([[1.0, float("nan")]])))


def test_collapse_and_the_uniform_sphere_are_told_apart() -> None:
    collapsed = torch.ones(50, 8) + 1e-4 * normal(50, 8)
    uniform = normal(4000, 8)
    assert label_free(collapsed)["embedding_std"] < 1e-3
    assert label_free(uniform)["embedding_std"] == pytest.approx(1, abs=0.02)
    assert label_free(uniform)["rankme"] > 7.9
    assert pair_geometry(collapsed, collapsed)["uniformity"] == pytest.approx(0, abs=1e-5)
    assert pair_geometry(uniform[:500], uniform[500:1000])["uniformity"] < -2


def test_alignment_and_uniformity_equal_the_slow_loops() -> None:
    first, second = normal(7, 5), normal(7, 5, seed=1)
    figures = pair_geometry(first, second)
    assert (figures["alignment"], figures["uniformity"]) == pytest.approx(looks.alignment_and_uniformity(first, second))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_effective_negatives_equal_the_slow_loops(temperature: float) -> None:
    queries, keys = normal(4, 6), normal(9, 6, seed=1)
    own = positive_mask(4, 9, offset=3, device=CPU)
    assert own.nonzero().tolist() == [[0, 3], [1, 4], [2, 5], [3, 6]]
    found = negatives(queries, keys, own, temperature=temperature)
    slow = looks.effective_negatives(queries, keys, own, temperature)
    assert float(found["effective_negatives"]) == pytest.approx(slow, rel=1e-5)
    assert float(found["negative_share"]) == pytest.approx(slow / 8, rel=1e-5)


def test_figures_of_a_step() -> None:
    embedding, teacher = normal(20, 8), normal(20, 8, seed=1)
    diagnostics = {"embedding": embedding, "teacher_embedding": teacher, "accuracy": torch.tensor(0.5)}
    found = step_figures(diagnostics)
    assert float(found["accuracy"]) == 0.5
    assert float(found["batch_std"]) == pytest.approx(float(spread(embedding)))
    assert float(found["agreement"]) == pytest.approx(float(torch.cosine_similarity(embedding, teacher).mean()))
    assert "agreement" not in step_figures({"embedding": embedding})


def test_the_size_of_a_step() -> None:
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        change = WeightChange(layer)
        layer.weight.add_(torch.tensor([[0.0, 0.5]]))
        layer.bias.add_(100.0)
    found = change.figures()
    assert float(found["update_size"]) == pytest.approx(0.1)
    assert float(found["weight_size"]) == pytest.approx(((9 + 4.5**2) / 2) ** 0.5)


# ---------------------------------------------------------------------------------------------------- dense level


def parameters(count: int, seed: int) -> ViewParameters:
    positions = torch.arange(count)
    return draw(ViewConfig(), uniforms(seed=seed, epoch=0, stream=0, positions=positions), torch.full((count, 2), 48))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_right_cells_equal_the_slow_loops(grid: tuple[int, int]) -> None:
    first, second = parameters(30, 0), parameters(30, 1)
    assert first.flip.any()
    assert not first.flip.all()
    cells, visible = right_cells(first, second, grid=grid)
    assert visible.any()
    assert not visible.all()
    for image in range(30):
        for place in range(grid[0] * grid[1]):
            slow = looks.right_cell(first, second, image, place, grid)
            assert bool(visible[image, place]) == (slow is not None)
            assert int(cells[image, place]) == (slow or 0)


def test_views_of_an_image_of_coordinates_correspond_where_the_geometry_says() -> None:
    """The pixels say where they are, so that matching them checks boxes and flips against `make_views`."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = torch.stack([y, x, torch.zeros_like(x)]) / 64
    batch = Batch(image.repeat(40, 1, 1, 1), torch.full((40, 2), 64), torch.arange(40), torch.arange(40), EPOCH)
    config = ViewsConfig(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    held = Monitors(Sample(image[None, :, :32, :32], batch), views=config, seed=3, device=CPU)

    def maps(view: torch.Tensor) -> torch.Tensor:  # patches of 4 pixels on a circle per coordinate: cosine = nearness
        means = torch.nn.functional.avg_pool2d(view, 4)[:, :2]
        return torch.cat([means.cos(), means.sin()], 1)

    cells, visible = right_cells(*held.boxes, grid=(8, 8))
    right = (found_cells(maps(held.pairs[0]), maps(held.pairs[1])) == cells)[visible].float().mean()
    wrong = (found_cells(maps(held.pairs[0].flip(-1)), maps(held.pairs[1])) == cells)[visible].float().mean()
    assert right > 0.9
    assert wrong < 0.3
    assert torch.equal(held.pairs[0], make_views(batch, config, seed=3, device=CPU).images[0])


def test_cka_knows_rotations_scales_and_strangers() -> None:
    one = normal(6, 8, 4, 4)
    rotation = torch.linalg.qr(normal(8, 8, seed=1)).Q
    turned = 3 * torch.einsum("bchw,cd->bdhw", one, rotation) + 1
    assert linear_cka(one, turned) == pytest.approx(1, abs=1e-5)
    assert linear_cka(one, normal(6, 5, 4, 4, seed=2)) < 0.3
    fine = one.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert linear_cka(fine, one) == pytest.approx(1, abs=1e-5)
    figures = depth_figures([fine, one, turned])
    assert set(figures) == {"patch_rank", "level_similarity_0_1", "level_similarity_1_2"}
    assert figures["patch_rank"] == effective_rank(turned.permute(0, 2, 3, 1).reshape(-1, 8))


# -------------------------------------------------------------------------------------------------------- a look


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_a_look_leaves_no_trace_and_gives_the_same_again(framework: str) -> None:
    model, held = tiny_model(framework), monitors(framework)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one = held.look(model, progress=0.0)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert model.encoder.training
    other = held.look(model, progress=0.0)
    assert {name: other[name] for name in one} == one
    assert all(value is not None for value in one.values())
    assert one == monitors(framework).look(model, progress=0.0)


def tiny_model(framework: str, **changes: float) -> torch.nn.Module:
    return tiny.tiny_model(framework, "vit", **changes)


def test_what_a_look_says_without_teacher_and_branch() -> None:
    found = monitors("simclr").look(tiny_model("simclr", weight=0.0), progress=0.0)
    assert not {
        name for name in found if name.startswith(("teacher", "student", "psnr", "ssim", "gradient", "level_share"))
    }
    assert {"rankme", "embedding_std", "alignment", "uniformity", "correspondence", "patch_rank"} <= set(found)


def test_a_pyramid_is_looked_at() -> None:
    found = monitors("moby", encoder="swin").look(tiny.tiny_model("moby", "swin"), progress=0.5)
    assert found["correspondence_chance"] == 1 / 4
    assert {f"level_share_{level}" for level in range(4)} <= set(found)
    assert sum(found[f"level_share_{level}"] for level in range(4)) == pytest.approx(1)  # type: ignore[misc]


def test_motion_tells_a_teacher_that_stands_still() -> None:
    model, held = tiny_model("byol"), monitors("byol")
    held.look(model, progress=0.0)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * normal(*parameter.shape, seed=parameter.numel()))
    still = held.look(model, progress=0.0)
    assert still["teacher_moved"] == 0
    assert still["teacher_follows"] == 0
    assert still["student_moved"] > 0.1  # type: ignore[operator]
    assert still["teacher_agreement"] < 0.99  # type: ignore[operator]
    model.framework.teacher.update(model.encoder, model.framework.projector, momentum=0.0)
    caught_up = held.look(model, progress=0.0)
    assert caught_up["student_moved"] == 0
    assert caught_up["teacher_agreement"] == pytest.approx(1)
    assert "teacher_follows" not in caught_up  # nothing to follow


def test_what_is_not_finite_is_none() -> None:
    model = tiny_model("simclr")
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    found = monitors("simclr").look(model, progress=0.0)
    assert found["rankme"] is None
    assert found["psnr"] is None
    assert found["distinct_images"] == 1
