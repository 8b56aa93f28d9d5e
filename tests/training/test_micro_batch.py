"""Memory takes care of itself: a run on a device with little memory is the run on a large one, to the last bit, or ends in
one message."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.cli.main import main
from repre.config import ComputeConfig, RunConfig, dump_yaml, load_yaml
from repre.data.views.render import make_views
from repre.errors import RunError
from repre.models.repre import ReconstructionConfig
from repre.training import loop, micro_batch, step
from repre.training.loop import train
from repre.utils.signals import Interrupted
from tests.own_process import call
from tests.training.fake_memory import install
from tests.training.test_failures import photos
from tests.training.toy import toy

OPTIONS = "Two options help most: "


def tiny_run(out: Path, framework: str = "moco-v3", **changes: Any) -> RunConfig:
    """Two epochs of two steps of 32 images."""
    config = toy(out, framework, data="scenes:64:32", epochs=2, **changes)
    quiet = replace(config.runtime, monitors=False, monitor_samples=8, eval_every_epochs=2)
    return replace(config, encoder=replace(config.encoder, drop_path=0.2), runtime=quiet)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoints/last.pt", weights_only=True)["model"]


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def recorded(out: Path) -> Any:
    return load_yaml(out / "config.yaml").compute.micro_batch


@pytest.mark.parametrize("framework", ["moby", "dino"])
def test_a_search_leaves_the_run_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str) -> None:
    """The number that it finds is printed and recorded; with that number given, the weights are the same."""
    given = ComputeConfig(micro_batch=16)
    train(tiny_run(tmp_path / "given", framework, compute=given))
    fake = install(monkeypatch, 20)
    train(tiny_run(tmp_path / "found", framework))
    assert_equal(tmp_path / "given", tmp_path / "found")
    assert recorded(tmp_path / "found") == 16
    log = (tmp_path / "found/log.txt").read_text()
    assert "pieces of 16 images at once fit: 17.0 of 20.0 GiB" in log
    assert "images/s" in log
    assert fake.tried[:3] == [(8, 16), (16, 16), (16, 32)]
    assert {size for size, _ in fake.tried[2:]} == {16}


def test_the_whole_batch_is_taken_where_it_fits_and_without_a_device_that_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(tmp_path / "cpu"))
    assert recorded(tmp_path / "cpu") == "auto"
    install(monkeypatch, 100)
    train(tiny_run(tmp_path / "large"))
    assert recorded(tmp_path / "large") == 32
    assert "the whole batch of 32 images at once fit: 33.0 of 100.0 GiB" in (tmp_path / "large/log.txt").read_text()
    assert_equal(tmp_path / "cpu", tmp_path / "large")


def stop_after(step: int, encoder: Any, at: int) -> dict[str, float]:
    if at == step:
        os.kill(os.getpid(), signal.SIGTERM)
    return {}


@pytest.mark.slow
def test_a_step_that_runs_out_of_memory_is_repeated_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third step does, after its whole gradient was computed. The run then is, bit for bit, the one that was stopped
    before that step and resumed with the smaller number; activation checkpointing may begin there too."""
    config = tiny_run(tmp_path / "stopped", compute=ComputeConfig(micro_batch=16))
    config = replace(config, runtime=replace(config.runtime, eval_every_epochs=1))
    with pytest.raises(Interrupted):
        train(config, probe=partial(stop_after, 2))
    checkpointing = replace(config.encoder, grad_checkpointing=True)
    train(replace(config, encoder=checkpointing, compute=ComputeConfig(micro_batch=8)))

    fake = install(monkeypatch, 20)
    steps = 0

    def less_memory(model: Any, views: Any, **settings: Any) -> Any:
        nonlocal steps
        steps += 1
        fake.capacity = 20 if steps < 3 else 10
        return fake.forward_backward(model, views, **settings)

    monkeypatch.setattr("repre.training.step.forward_backward", less_memory)
    train(replace(config, out=str(tmp_path / "run")))
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("16 images at once ran out of memory; the step is repeated with 8") == 1
    assert [size for size, _ in fake.tried] == [16, 16, 16, 8, 8]
    assert recorded(tmp_path / "run") == recorded(tmp_path / "stopped") == 8
    assert_equal(tmp_path / "stopped", tmp_path / "run")


@pytest.mark.parametrize(("capacity", "size"), [(100, 16), (11, 8)])
def test_a_run_resumes_on_another_card_from_the_recorded_number_downward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: float, size: int
) -> None:
    fake = install(monkeypatch, 20)
    config = tiny_run(tmp_path / "run")
    config = replace(config, runtime=replace(config.runtime, eval_every_epochs=1))
    with pytest.raises(Interrupted):
        train(config, probe=partial(stop_after, 2))
    assert recorded(tmp_path / "run") == 16
    fake.capacity, fake.tried = capacity, []
    train(config)
    assert recorded(tmp_path / "run") == size
    assert max(tried for tried, images in fake.tried if images == 32) == size
    assert (tmp_path / "run/summary.json").is_file()


# -------------------------------------------------------------------------------------------------- when nothing fits


def test_where_nothing_fits_one_message_says_what_takes_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, 9.5)
    with pytest.raises(RunError) as failure:
        train(tiny_run(tmp_path / "run"))
    message = str(failure.value)
    for part in (
        "8 images at once do not fit on cpu, which has 9.5 GiB for this run",
        "weights, gradients and optimizer below 0.1 GiB",
        "views of 32 images below 0.1 GiB",
        "heads and loss of 32 images below 0.1 GiB",
        "activations of 8 images 8.0 GiB",
        f"{OPTIONS}--encoder.grad-checkpointing and a smaller --views.size",
        "No checkpoint was saved yet",
    ):
        assert part in message
    fake.capacity = 12
    train(tiny_run(tmp_path / "run"))
    assert (tmp_path / "run/summary.json").is_file()


@pytest.mark.slow
def test_a_lack_of_memory_in_the_middle_of_a_run_leaves_it_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, 20)
    train(tiny_run(tmp_path / "expected"))
    config = tiny_run(tmp_path / "run")
    config = replace(config, runtime=replace(config.runtime, eval_every_epochs=1))

    def shrink(encoder: Any, step: int) -> dict[str, float]:
        fake.capacity = 5 if step == 2 else 20
        return {}

    with pytest.raises(RunError, match=r"8 images at once do not fit.*last\.pt is intact: run the same command again"):
        train(config, probe=shrink)
    fake.capacity = 20
    train(replace(config, compute=ComputeConfig(micro_batch=16)), probe=lambda encoder, step: {})
    assert_equal(tmp_path / "expected", tmp_path / "run")


def test_a_batch_that_cannot_be_cut_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, 100)
    balanced = ReconstructionConfig(weight=1.0, balance=1.0)
    train(tiny_run(tmp_path / "fits", reconstruction=balanced))
    assert recorded(tmp_path / "fits") == "auto"
    fake.capacity = 20
    with pytest.raises(
        RunError, match=r"32 images at once do not fit.*cannot be cut: reconstruction\.balance"
    ) as failure:
        train(tiny_run(tmp_path / "run", reconstruction=balanced))
    assert f"{OPTIONS}--encoder.grad-checkpointing" in str(failure.value)


def test_views_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, 20)

    def too_large(*args: Any, **settings: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loop, "make_views", too_large)
    with pytest.raises(RunError, match=r"views of 32 images more than is left.*a smaller --batch-size"):
        train(tiny_run(tmp_path / "run"))
    assert not fake.tried


@pytest.mark.parametrize("where", ["before_step", "after_step", "overlap"])
def test_a_lack_of_memory_after_the_gradient_ends_the_run_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """There the weights may have changed, or the next batch was taken."""
    fake, calls = install(monkeypatch, 20), []

    def fail(*args: Any, **settings: Any) -> Any:
        calls.append(where)
        if where == "overlap" and len(calls) < 2:
            return make_views(*args, **settings)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB. And so on")

    if where == "overlap":
        monkeypatch.setattr(loop, "make_views", fail)
    else:
        monkeypatch.setattr(f"repre.frameworks.moco_v3.MoCoV3.{where}", fail)
    out_of_memory = r"memory ran out \(CUDA out of memory\. Tried to allocate 2\.00 GiB\. GPU 0 has 1"
    with pytest.raises(RunError, match="views of 32 images more than is left" if where == "overlap" else out_of_memory):
        train(tiny_run(tmp_path / "run", compute=ComputeConfig(micro_batch=16)))
    assert len(calls) == (2 if where == "overlap" else 1)
    assert len(fake.tried) == 1


def test_several_processes_repeat_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 20)
    monkeypatch.setattr(micro_batch, "world_size", lambda: 2)
    with pytest.raises(RunError, match=r"16 images at once ran out of memory.*add --compute\.micro-batch 8"):
        train(tiny_run(tmp_path / "run", compute=ComputeConfig(micro_batch=32)))


def test_the_smallest_number_of_all_processes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 20)
    monkeypatch.setattr(micro_batch, "gather_objects", lambda sizes: [*sizes, 8])
    train(tiny_run(tmp_path / "run"))
    assert recorded(tmp_path / "run") == 8


@pytest.mark.slow
def test_the_command_prints_one_line_and_ends_with_code_1(tmp_path: Path) -> None:
    """With worker processes, which must end too."""
    config = replace(tiny_run(tmp_path / "run"), data=str(photos(tmp_path / "photos", count=32)))
    config = replace(config, runtime=replace(config.runtime, workers=2))
    (tmp_path / "config.yaml").write_text(dump_yaml(config))

    def command() -> int:
        def fail(*args: Any, **settings: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB.")

        step.forward_backward = fail  # type: ignore[assignment]
        return main(["pretrain", "--config", str(tmp_path / "config.yaml")])

    process = call(command)
    assert process.returncode == 1
    lines = [line for line in process.stderr.splitlines() if line.startswith("repre: ")]
    assert len(lines) == 1
    assert "8 images at once do not fit on cpu" in lines[0]
    assert "Traceback" not in process.stderr


# ------------------------------------------------------------------------------------- what only a GPU can confirm

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def cuda_run(out: Path, **changes: Any) -> RunConfig:
    """Two steps of 128 views of 224 pixels, which take several GiB at once."""
    config = toy(out, "moco-v3", data="scenes:256:224", epochs=1, batch_size=128, **changes)
    encoder = replace(config.encoder, name="vit_small_patch16_224", image_size=None, patch_size=None, model_args={})
    runtime = replace(config.runtime, device="cuda", monitors=False, monitor_samples=8, workers=2)
    return replace(config, encoder=encoder, views=replace(config.views, size=224), runtime=runtime)


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_cuda_the_largest_piece_is_found_and_a_real_lack_of_memory_is_survived(
    tmp_path: Path, precision: Any
) -> None:
    """The allocator may take 5 GiB, which the search does not know: it meets torch's own error."""
    train(cuda_run(tmp_path / "free", compute=ComputeConfig(precision=precision)))
    assert recorded(tmp_path / "free") == 128
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(5 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        train(cuda_run(tmp_path / "found", compute=ComputeConfig(precision=precision)))
        assert 8 <= recorded(tmp_path / "found") < 128
        train(cuda_run(tmp_path / "given", compute=ComputeConfig(precision=precision, micro_batch=128)))
        assert 8 <= recorded(tmp_path / "given") < 128
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of memory; the step is repeated" in (tmp_path / "given/log.txt").read_text()


@pytest.mark.cuda
@on_cuda
def test_on_cuda_nothing_that_fits_ends_in_one_message(tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.9 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(RunError, match=r"Two options help most|memory ran out"):
            train(cuda_run(tmp_path / "run"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
