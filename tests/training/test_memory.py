"""The search for the largest piece that fits: which sizes it tries, what it leaves as it was, what it says."""

import copy
from typing import Any

import pytest
import torch

from repre.frameworks import Needs
from repre.training import memory
from repre.training.memory import (
    SMALLEST,
    CudaMemory,
    DoesNotFit,
    Measured,
    StepMemory,
    head_bytes,
    largest_micro_batch,
    missing_optimizer_state,
    model_bytes,
    piece_sizes,
)
from repre.training.run_state import RunState
from repre.training.step import train_step
from repre.types import FrameworkOutput, Views
from tests import tiny
from tests.training.fake_memory import FakeMemory, install
from tests.training.toy import toy

GIB = 2**30


@pytest.mark.parametrize(
    ("batch_size", "at_most", "sizes"),
    [
        (1024, None, [1024, 512, 256, 128, 64, 32, 16, 8]),
        (100, None, [100, 50, 25, 13]),
        (100, 30, [25, 13]),
        (100, 4, [13]),
        (6, None, [6]),
    ],
)
def test_a_batch_is_cut_into_equal_pieces(batch_size: int, at_most: int | None, sizes: list[int]) -> None:
    assert piece_sizes(batch_size, at_most=at_most) == sizes


def measure_of(fake: FakeMemory) -> Any:
    def measure(size: int, images: int) -> Measured:
        before = fake.start()
        fake.take(size, images)
        return Measured(before, fake.peak())

    return measure


@pytest.mark.parametrize(
    ("capacity", "size"), [(2000, 1024), (1025, 1024), (1024, 512), (513, 512), (80, 64), (20, 16), (9, 8)]
)
def test_the_largest_piece_that_fits_is_found_at_once(capacity: float, size: int) -> None:
    """The passes of a few images predict it, and no pass over the whole batch runs out of memory."""
    fake = FakeMemory(capacity)
    found, measured = largest_micro_batch(measure_of(fake), 1024, limit=fake.available())
    assert found == size
    assert measured == Measured(GIB, (1 + size) * GIB)
    assert fake.tried == [(8, 16), (16, 16), (size, 1024)]


@pytest.mark.parametrize(("capacity", "size"), [(2000, 256), (100, 64)])
def test_a_resumed_run_never_searches_upward(capacity: float, size: int) -> None:
    fake = FakeMemory(capacity)
    assert largest_micro_batch(measure_of(fake), 1024, limit=fake.available(), at_most=256)[0] == size
    assert max(tried for tried, _ in fake.tried) == size


def test_a_prediction_that_was_too_low_is_corrected_upward_and_one_that_was_too_high_downward() -> None:
    """Images that take less in the whole batch make it too low; what only the whole batch takes, too high."""
    tried = []

    def with_compilation(size: int, images: int) -> Measured:
        tried.append(size)
        return Measured(0, 100 + size // (4 if images == 256 else 1))

    assert largest_micro_batch(with_compilation, 256, limit=170)[0] == 256
    assert tried == [8, 16, 64, 128, 256]

    def with_heads(size: int, images: int) -> Measured:
        if size > 32 and images == 256:
            raise torch.OutOfMemoryError
        return Measured(0, size + images)

    assert largest_micro_batch(with_heads, 256, limit=500)[0] == 32


def test_what_every_pass_takes_is_not_counted_for_every_image() -> None:
    """Gradients of a large model, for one."""
    tried = []

    def with_gradients(size: int, images: int) -> Measured:
        tried.append(size)
        return Measured(0, 1000 + size)

    assert largest_micro_batch(with_gradients, 256, limit=1300)[0] == 256
    assert tried == [8, 16, 256]


def test_what_fits_but_leaves_no_margin_does_not_count() -> None:
    fake = FakeMemory(1000)
    assert largest_micro_batch(measure_of(fake), 1024, limit=100 * GIB)[0] == 64


@pytest.mark.parametrize(("capacity", "few"), [(9, Measured(GIB, 9 * GIB)), (5, None)])
def test_where_nothing_fits_the_smallest_size_is_named(capacity: float, few: Measured | None) -> None:
    fake = FakeMemory(capacity)
    with pytest.raises(DoesNotFit, match="not even 8 images at once") as failure:
        largest_micro_batch(measure_of(fake), 1024, limit=8 * GIB)
    assert failure.value.few == few
    assert failure.value.size == SMALLEST


def test_compiled_steps_are_predicted_to_take_less() -> None:
    """So that the first size to compile is the one that fits: compiling another takes a minute."""
    fake = FakeMemory(40)  # counts a GiB an image, as the small pass does, which is not compiled

    def measure(size: int, images: int) -> Measured:
        if images == 64:
            fake.tried.append((size, images))
            return Measured(GIB, int((1 + 0.5 * size) * GIB))
        fake.take(size, images)
        return Measured(GIB, fake.peak())

    assert largest_micro_batch(measure, 64, limit=36 * GIB, share=0.5)[0] == 64
    assert fake.tried == [(8, 16), (16, 16), (64, 64)]


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    def measure(size: int, images: int) -> Measured:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_micro_batch(measure, 64, limit=1.0)


# ------------------------------------------------------------------------------------------------ measuring a run


def state_and_views(tmp_path: Any, framework: str = "moby") -> tuple[RunState, Any]:
    config = toy(tmp_path / "run", framework)
    return RunState(config, torch.device("cpu")), tiny.tiny_views(framework, "vit", batch=32)


def everything(state: RunState) -> dict[str, Any]:
    return {
        "model": copy.deepcopy(state.model.state_dict()),
        "optimizer": copy.deepcopy(state.optimizer.state_dict()),
        "scaler": state.scaler.state_dict(),
        "random": torch.get_rng_state(),
    }


def count_passes(module: Any, inputs: Any) -> None:
    """What batch normalization does to a buffer."""
    module.statistic.add_(1)


@pytest.mark.parametrize("framework", ["moby", "dino"])
def test_measuring_changes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, framework: str) -> None:
    """Neither weights, teacher, queue or center, optimizer, scaler, random states or buffers, nor does it leave gradients;
    also where a pass runs out of memory with every gradient there."""
    fake = install(monkeypatch, 20)
    state, views = state_and_views(tmp_path, framework)
    state.model.encoder.register_buffer("statistic", torch.zeros(()))
    state.model.encoder.register_forward_pre_hook(count_passes)
    before = everything(state)
    step = StepMemory(state, views, progress=0.3, memory=fake)
    size, measured = step.search()
    assert (size, measured) == (16, Measured(GIB, 17 * GIB))
    assert step.seconds(size) > 0
    with pytest.raises(torch.OutOfMemoryError):
        step.measure(32, 32)
    assert_same(before, everything(state))
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert not state.optimizer.state


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_an_optimizer_that_has_not_stepped_yet_is_counted(tmp_path: Any) -> None:
    state, views = state_and_views(tmp_path)
    trained = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    assert missing_optimizer_state(state) == 8 * trained
    fake = FakeMemory(20)
    assert StepMemory(state, views, progress=0.0, memory=fake).limit == pytest.approx(
        memory.MEMORY_SHARE * 20 * GIB - 8 * trained
    )
    config = toy(tmp_path / "run")
    train_step(
        state.model, state.optimizer, views, optim=config.optim, batch_size=32, progress=0.5, seed=0, micro_batch=0
    )
    assert missing_optimizer_state(state) == 0
    frozen = sum(x.numel() * x.element_size() for x in state.model.state_dict().values()) - 4 * trained
    assert model_bytes(state) == 16 * trained + frozen


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_what_heads_and_loss_keep_grows_with_the_batch(tmp_path: Any, framework: str) -> None:
    state, _ = state_and_views(tmp_path, framework)
    small, large = (head_bytes(state, count=count) for count in (16, 64))
    if tiny.needs(framework).branch:  # it has no heads
        assert small == large == 0
        return
    assert 2 < large / small < 12  # in proportion, beside what does not grow and what grows with the square


def test_heads_that_need_crops_get_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = state_and_views(tmp_path, "simclr")
    kind, found = type(state.model.framework), []
    loss = kind.loss

    def with_crops(self: Any, student: Any, teacher: Any, views: Views, progress: float) -> FrameworkOutput:
        found.append(views.crops)
        return loss(self, student, teacher, views, progress)

    monkeypatch.setattr(kind, "loss", with_crops)
    for needs in (Needs(), Needs(crops=True)):
        monkeypatch.setattr(kind, "needs", needs)
        head_bytes(state, count=4)
    assert found[0] is None
    assert [crops.shape for crops in found[1]] == [(4, 5)] * 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_a_cuda_device_is_that_of_its_tensors() -> None:
    found = CudaMemory(torch.device("cuda", 0))
    before = found.start()
    taken = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del taken
    assert found.peak() - before >= 2**28
    assert found.start() == before
    assert found.available() > 2**28
