"""The loop: resuming is bit-equal, validating changes nothing, a stop saves, failures are named, the folder is complete."""

import csv
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch._dynamo.utils import counters

from repre.api import load_encoder
from repre.config import ComputeConfig, RunConfig, RuntimeConfig, load_yaml
from repre.data.io.decode import UnreadableImage
from repre.data.io.image_files import FileSource
from repre.data.loading.loader import LoaderConfig
from repre.data.scenes import Scenes, ScenesConfig
from repre.data.views.view_recipes import MaskConfig, dino_views, moco_v3_views
from repre.errors import RunError, UserError
from repre.models.decoder import DecoderConfig
from repre.models.encoder import Encoder
from repre.models.repre import RePre
from repre.training import run_state
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.training.loop import Probe, train
from repre.training.optim import OptimConfig
from repre.utils.signals import Interrupted
from tests import tiny

QUIET = RuntimeConfig(device="cpu", workers=0, log_every=1, eval_every_epochs=1, monitor_samples=12)


def config(out: Path, framework: str = "moco-v3", encoder: str = "vit", **changes: object) -> RunConfig:
    side = tiny.SIDES[encoder]
    views = dino_views(side, side // 2, 1) if framework == "dino" else moco_v3_views(side)
    made = RunConfig(
        data="scenes:24:32",
        out=str(out),
        epochs=3,
        batch_size=8,
        encoder=replace(tiny.ENCODERS[encoder], drop_path=0.2),
        framework=tiny.FRAMEWORKS[framework],
        decoder=DecoderConfig(dim=16),
        views=replace(views, mask=tiny.mask_config(framework, encoder)),
        optim=OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1),
        runtime=QUIET,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoints" / "last.pt", weights_only=True)["model"]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def stop_at(step: int) -> Probe:
    """A probe that asks the process to stop, as a scheduler would; the loop leaves at once and validates again later."""

    def probe(encoder: Encoder, at: int) -> dict[str, float]:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    return probe


@pytest.mark.parametrize("framework", ["moco-v3", "dino"])
def test_a_run_begins_with_its_start_weights_and_reports_them_once(tmp_path: Path, framework: str) -> None:
    """The features at step 0 are those of the start, bit for bit, so every k-NN is too; DINO gives its teacher's."""
    weights = tmp_path / "start.pth"
    torch.save(Encoder(tiny.ENCODERS["vit"]).model.state_dict(), weights)
    images = torch.randn(4, 3, 32, 32)
    embeddings: dict[int, torch.Tensor] = {}

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        first = step not in embeddings
        embeddings[step] = encoder(images).embedding.clone()
        return stop_at(3 if first else -1)(encoder, step)

    run = config(tmp_path / "run", framework, epochs=2)
    run = replace(run, encoder=replace(run.encoder, weights=str(weights), drop_path=0.0))
    with pytest.raises(Interrupted):
        train(run, probe=probe)
    train(run, probe=probe)
    start = Encoder(replace(tiny.ENCODERS["vit"], weights=str(weights))).eval()
    assert torch.equal(embeddings[0], start(images).embedding)
    assert not torch.equal(embeddings[6], embeddings[0])
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count(f"encoder.weights {weights}: timm's names; 54 tensors loaded") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "encoder"), [("moco-v3", "vit"), ("dino", "vit"), ("moby", "swin"), ("dinov2", "vit")]
)
def test_a_stopped_and_resumed_run_is_bit_equal(tmp_path: Path, framework: str, encoder: str) -> None:
    train(config(tmp_path / "straight", framework, encoder))
    stopped = config(tmp_path / "stopped", framework, encoder)
    with pytest.raises(Interrupted) as caught:
        train(stopped, probe=stop_at(3))
    assert caught.value.code == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "stopped/checkpoints/last.pt", weights_only=True)["step"] == 3
    train(stopped)
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    lines = [json.loads(x) for x in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))


@pytest.mark.slow
def test_a_run_that_was_stopped_after_its_last_step_is_finished(tmp_path: Path) -> None:
    train(config(tmp_path / "straight"))
    with pytest.raises(Interrupted):
        train(config(tmp_path / "stopped"), probe=stop_at(9))
    assert not (tmp_path / "stopped/summary.json").exists()
    train(config(tmp_path / "stopped"))
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert (tmp_path / "stopped/summary.json").exists()


def test_metrics_beyond_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    train(run)
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 10))


@pytest.mark.slow
def test_workers_monitors_and_logging_never_change_the_weights(tmp_path: Path) -> None:
    train(config(tmp_path / "a"))
    loud = replace(QUIET, workers=2, log_every=4, eval_every_epochs=2, monitor_samples=5)
    train(config(tmp_path / "b", runtime=loud), probe=lambda encoder, step: {"draw": float(torch.rand(1))})
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.slow
def test_sub_batches_and_kept_images_never_change_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images kept on the disk and in memory, unreadable files and an interruption included; the last run decodes nothing."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(24):
        Image.fromarray(Scenes(24, config=ScenesConfig(size=48)).load(index)).save(photos / f"{index:02d}.png")
    (photos / "05.png").write_bytes(b"no image")
    share = LoaderConfig(max_unreadable=0.5, cache="off")
    plain = config(tmp_path / "plain", data=str(photos), loader=share)
    train(plain)
    monkeypatch.setattr("repre.data.loading.sub_batches.MOST_IMAGES", 3)
    cached = replace(plain, out=str(tmp_path / "cached"), loader=replace(share, cache="auto", in_flight_gib=0.01))
    with pytest.raises(Interrupted):
        train(replace(cached, runtime=replace(QUIET, workers=2)), probe=stop_at(3))
    train(replace(cached, runtime=replace(QUIET, workers=1)))
    memory = replace(plain, out=str(tmp_path / "memory"), loader=replace(share, memory="on"))
    with pytest.raises(Interrupted):
        train(memory, probe=stop_at(3))
    train(memory)
    assert_equal(weights(tmp_path / "plain"), weights(tmp_path / "memory"))
    assert (tmp_path / "memory/log.txt").read_text().count("23 images are kept in memory (0.00 GiB)") == 2
    assert (tmp_path / "memory/unreadable.txt").read_text() == (tmp_path / "plain/unreadable.txt").read_text()
    read = replace(cached, out=str(tmp_path / "read"), runtime=replace(QUIET, workers=2))
    load = FileSource.load

    def refuse_in_workers(source: FileSource, index: int) -> np.ndarray:
        if multiprocessing.parent_process() is not None:
            raise UnreadableImage("it is not read again")
        return load(source, index)

    monkeypatch.setattr(FileSource, "load", refuse_in_workers)
    train(read)
    for run in (cached, read):
        assert_equal(weights(tmp_path / "plain"), weights(Path(run.out)))
        assert "decoded images are cached in" in (Path(run.out) / "log.txt").read_text()


def test_the_run_folder_is_complete_and_timm_loads_the_encoder(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    train(run)
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "metrics.csv",
        "log.txt",
        "environment.json",
        "summary.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "encoder/model.safetensors",
        "encoder/config.json",
        "panel/step-0000000.png",
        "panel/step-0000009.png",
    ):
        assert (tmp_path / "run" / name).is_file(), name
    assert list((tmp_path / "run/tensorboard").iterdir())
    assert load_yaml(tmp_path / "run/config.yaml") == run
    image = torch.randn(2, 3, 32, 32)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'run/encoder'}", pretrained=True).eval()
    ours = load_encoder(tmp_path / "run")
    torch.testing.assert_close(theirs(image), ours(image).embedding, rtol=0, atol=1e-6)
    trained = {k.removeprefix("encoder.model."): v for k, v in weights(tmp_path / "run").items()}
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_a_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = config(tmp_path / "run", epochs=1)
    train(run)
    before = weights(tmp_path / "run")
    train(run)
    assert "finished" in capsys.readouterr().out
    assert_equal(before, weights(tmp_path / "run"))


def test_another_config_is_refused_and_names_the_difference(tmp_path: Path) -> None:
    train(config(tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"batch_size: 6 here, 8 there"):
        train(config(tmp_path / "run", epochs=1, batch_size=6))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        train(config(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(0))
    path = tmp_path / "run/checkpoints/last.pt"
    state = load_checkpoint(path)
    state["model"] = {f"other.{k}": v for k, v in state["model"].items()}
    save_checkpoint(path, state)
    with pytest.raises(UserError, match="another model"):
        train(run)


def test_divergence_stops_with_the_step_the_culprit_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = config(tmp_path / "run", optim=OptimConfig(lr=1e30, base_batch_size=8, warmup_fraction=0.5))
    with pytest.raises(
        RunError, match=r"step \d+ is not finite: .*(loss|gradient|parameter).*No checkpoint was saved yet"
    ):
        train(run)


def test_unreadable_files_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.new("RGB", (40, 40), (12 * i, 100, 50)).save(photos / f"{i:02d}.png")
    (photos / "05.png").write_bytes((photos / "05.png").read_bytes()[:40])
    run = config(tmp_path / "run", data=str(photos), epochs=2, loader=LoaderConfig(max_unreadable=0.2))
    train(run)
    lines = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert len(lines) == 1
    assert "05.png" in lines[0]
    assert json.loads((tmp_path / "run/summary.json").read_text())["unreadable"] == 1


def test_too_many_unreadable_files_stop_the_run(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.new("RGB", (40, 40), (12 * i, 100, 50)).save(photos / f"{i:02d}.png")
        if i % 2:
            (photos / f"{i:02d}.png").write_text("not an image")
    with pytest.raises(RunError, match=r"cannot be read.*max_unreadable"):
        train(config(tmp_path / "run", data=str(photos), epochs=2))


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_bf16_on_the_cpu_trains(tmp_path: Path, micro_batch: int) -> None:
    train(config(tmp_path / "run", epochs=1, compute=ComputeConfig(precision="bf16", micro_batch=micro_batch)))
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_resumed_run_in_float16_keeps_its_scale_and_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """On the CPU, where users may not ask for it. The first scale overflows, so steps are skipped until it has fallen."""
    monkeypatch.setattr(run_state, "pick_precision", lambda name, device: torch.float16)
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**24, growth_interval=3))
    compute = ComputeConfig(precision="fp16", micro_batch=micro_batch)
    train(config(tmp_path / "straight", compute=compute))
    stopped = config(tmp_path / "stopped", compute=compute)
    with pytest.raises(Interrupted):
        train(stopped, probe=stop_at(3))
    at_stop = load_checkpoint(tmp_path / "stopped/checkpoints/last.pt")["scaler"]
    train(stopped)
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    ends = [load_checkpoint(tmp_path / f"{name}/checkpoints/last.pt")["scaler"] for name in ("straight", "stopped")]
    assert ends[0] == ends[1]
    assert at_stop["scale"] < 2.0**24
    assert ends[0]["scale"] != at_stop["scale"]
    assert all(value.isfinite().all() for value in weights(tmp_path / "straight").values())


def test_masked_and_clean_targets_train(tmp_path: Path) -> None:
    views = replace(moco_v3_views(32, target="clean"), mask=MaskConfig(kind="random", ratio=(0.5, 0.5), patch=8))
    train(config(tmp_path / "run", epochs=1, views=views))
    assert (tmp_path / "run/summary.json").is_file()


def test_weight_zero_builds_no_decoder(tmp_path: Path) -> None:
    made = config(tmp_path / "run", epochs=1)
    train(replace(made, reconstruction=replace(made.reconstruction, weight=0.0)))
    assert not any(name.startswith("decoder") for name in weights(tmp_path / "run"))
    assert not list((tmp_path / "run/panel").iterdir())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "compiled"), [("fp32", "off"), ("bf16", "off"), ("fp16", "off"), ("bf16", "on")])
def test_cuda(tmp_path: Path, precision: str, compiled: str) -> None:
    compute = ComputeConfig(precision=precision, compile=compiled)  # type: ignore[arg-type]
    train(config(tmp_path / "run", runtime=replace(QUIET, device="cuda"), compute=compute))
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "encoder", "micro_batch", "backend"),
    [
        ("moco-v3", "vit", 3, "eager"),
        ("dino", "vit", 0, "eager"),
        ("moby", "swin", 0, "eager"),
        pytest.param("moco-v3", "vit", 3, "inductor", marks=pytest.mark.long),
    ],
)
def test_a_compiled_run_compiles_in_its_first_epoch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str, encoder: str, micro_batch: int, backend: str
) -> None:
    """Without the compiler behind dynamo, which takes minutes and decides nothing here: what dynamo guards is the same."""
    monkeypatch.setattr(RePre, "compile_step", partialmethod(RePre.compile_step, backend=backend))
    torch.compiler.reset()
    counters.clear()
    compute = ComputeConfig(compile="on", micro_batch=micro_batch)
    graphs = []  # at the start and after every epoch

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        graphs.append(counters["stats"]["unique_graphs"])
        return {}

    train(config(tmp_path, framework, encoder, compute=compute), probe=probe)
    assert len(graphs) == 4
    assert graphs[0] == 0 < graphs[1] == graphs[3]
