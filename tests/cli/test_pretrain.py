"""`repre pretrain`, from a new run to a resumed one, and its mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repre import api
from repre.api import load_encoder
from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY


def test_a_run_can_be_repeated_resumed_and_taken_as_a_config(
    repre: Repre, photos: Path, run_copy: Path, tmp_path: Path
) -> None:
    code, out, _ = repre("pretrain", "--resume", run_copy)
    assert code == 0
    assert "nothing to do" in out
    assert f"report: {run_copy}/report.html" in out
    assert f"timm.create_model('local-dir:{run_copy}/encoder', pretrained=True)" in out
    code, _, err = repre("pretrain", "quickstart", "--data", photos, "--out", run_copy, *TINY, "--seed=7")
    assert code == 2
    assert "seed: 7 here, 0 there" in err
    again = tmp_path / "again"
    assert repre("pretrain", "--config", run_copy / "config.yaml", "--out", again)[0] == 0
    assert (again / "summary.json").is_file()
    assert (again / "report.html").is_file()
    first, second = (torch.load(path / "checkpoints/last.pt")["model"] for path in (run_copy, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_resumes(repre: Repre, run_copy: Path) -> None:
    (run_copy / "summary.json").unlink()
    code, out, err = repre("pretrain", "--resume", run_copy)
    assert code == 0, err
    assert "nothing to do" not in out
    assert (run_copy / "summary.json").is_file()


@pytest.mark.slow
def test_scenes_end_with_knn_before_and_after_and_baselines(repre: Repre, tmp_path: Path) -> None:
    code, out, _ = repre("pretrain", "--data=scenes:32:32", "--out", tmp_path / "run", *TINY)
    assert code == 0
    for part in ("before", "after training", "raw pixels", "color histogram", "majority class"):
        assert part in out


def write_masks(root: Path, photos: Path) -> str:
    """Bright and dark pixels of the photos as two classes."""
    (root / "masks").mkdir(parents=True)
    for path in photos.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        Image.fromarray((pixels > 128).astype(np.uint8)).save(root / "masks" / f"{path.stem}.png")
    return f"pairs:{photos},{root}/masks"


def test_a_run_is_probed_on_labels_and_best_follows(repre: Repre, photos: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "labeled" / name).mkdir(parents=True)
    for index, path in enumerate(sorted(photos.iterdir())):
        shutil.copy(path, tmp_path / "labeled" / "ab"[index % 2])
    options = ["--probe.segment", write_masks(tmp_path, photos), "--runtime.best-metric", "probe/miou"]
    options += ["--probe.knn", tmp_path / "labeled", "--probe.linear", tmp_path / "labeled", *TINY, "--epochs=2"]
    options += ["--runtime.eval-every-epochs=1"]
    out = tmp_path / "run"
    code, printed, err = repre("pretrain", "quickstart", "--data", photos, "--out", out, *options)
    assert code == 0, err
    assert "probe/miou: 13 labeled images to learn from, 3 to test on" in printed
    summary = json.loads((out / "summary.json").read_text())
    names = ["probe/knn", "probe/linear", "probe/miou", "probe/patch_knn"]
    assert list(json.loads((out / "probes.json").read_text())) == names
    assert all(set(names) <= set(row) for row in summary["validations"])
    best = max(summary["validations"][1:], key=lambda row: row["probe/miou"])
    assert summary["best"]["metric"] == "probe/miou"
    assert torch.load(out / "checkpoints/best.pt")["step"] == best["step"]
    assert "Probes on your labels" in (out / "report.html").read_text()
    # another command with other probes is the same run
    code, printed, err = repre("pretrain", "quickstart", "--data", photos, "--out", out, *TINY, "--epochs=2")
    assert code == 0, err
    assert "nothing to do" in printed


SUMMARY = {"images": 64, "seconds": 8.0, "images_per_s": 8.0, "data_wait": 0.25, "unreadable": 3}
KNN = {"before": 0.5, "raw pixels": 0.6, "color histogram": 0.3, "majority class": 0.2}


@pytest.mark.parametrize(("after", "verdicts"), [(0.7, 0), (0.55, 1), (0.4, 2)])
def test_the_closing_lines_tell_whether_training_helped(
    after: float, verdicts: int, repre: Repre, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finished(api.Run):
        summary = SUMMARY | {"knn": KNN | {"after": after}}  # type: ignore[assignment]

    monkeypatch.setattr(api, "pretrain", lambda config: Finished(Path("runs/a")))
    _, out, _ = repre("pretrain")
    assert "64 images in 8.0 s (8 images/s, 25 % of the time waiting for data)" in out
    assert f"50.0% before, {after:.1%} after training" in out
    assert ("training did not help" in out) is (verdicts == 2)
    assert ("no better than raw pixels" in out) is (verdicts >= 1)
    assert "3 files could not be read; see runs/a/unreadable.txt" in out


MISTAKES = {
    "no such folder": (["--data", "{tmp}/nowhere"], "nowhere"),
    "empty folder": (["--data", "{tmp}/empty"], "empty"),
    "folder of text files": (["--data", "{tmp}/texts"], "txt"),
    "unknown encoder": (["--encoder.name", "vit_smal_patch16_224"], "vit_small_patch16_224"),
    "unknown argument of the encoder": (["--encoder.model-args.embed-dimm", "3"], "embed_dimm"),
    "unknown option": (["--epoch", "3"], "epochs"),
    "labels of a probe that are none": (["--probe.knn", "{tmp}/nowhere"], "--probe.knn"),
    "masks of a probe that are none": (["--probe.segment", "pairs:{tmp}/empty,{tmp}/nowhere"], "--probe.segment"),
    "best by a probe that is none": (["--runtime.best-metric", "probe/miou"], "--probe.segment LABELS"),
    "batch larger than the data": (["--batch-size", "64"], "only 16 images"),
    "size not divisible": (["--views.size", "36"], "multiple of 8"),
    "width not divisible": (["--views.size", "32", "44"], "such as 32 x 40 or 32 x 48"),
    "views of three sides": (["--views.size", "32", "44", "3"], "views.size"),
    "encoder of another size than the views": (["--encoder.image-size", "96", "128"], "set --views.size 96 128"),
    "output is a file": (["--out", "{tmp}/texts/a.txt"], "is a file"),
    "output cannot be written": (["--out", "/proc/nowhere/run"], "cannot be written"),
    "output holds other files": (["--out", "{tmp}/texts"], "not empty"),
    "wrong type": (["--batch-size", "many"], "many"),
    "wrong choice": (["--compute.precision", "bf"], "bf16"),
    "negative setting": (["--optim.lr", "-1"], "optim.lr"),
    "no such device": (["--runtime.device", "tpu9"], "device"),
    "unknown data set": (["--data", "cifer10:{tmp}"], "cifar10"),
    "weights of another model": (["--encoder.weights", "{tmp}/foreign.pth"], "holds no parameter of"),
    "weights that are text": (["--encoder.weights", "{tmp}/texts/a.txt"], "cannot be read"),
    "local views for a framework without them": (["--views.n-local", "2"], "n_local"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_clear_message_and_exit_code_2(mistake: str, repre: Repre, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("hello")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    options, message = MISTAKES[mistake]
    arguments = [option.format(tmp=tmp_path) for option in options]
    defaults = [("--data", photos), ("--out", tmp_path / "run")]
    given = [part for option in defaults if option[0] not in arguments for part in option]
    tiny = [option for option in TINY if option.partition("=")[0] not in arguments]
    code, _, err = repre("pretrain", "quickstart", *tiny, *given, *arguments)
    assert code == 2, err
    assert "Traceback" not in err
    assert message in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batchsize: 3", "batch_size"),
        ("batch_size: many", "batch_size must be int"),
        ("framework: {name: mocov3}", "moco-v3"),
        ("optim: {lr: 1e-4, lrr: 2}", "optim.lrr"),
        ("optim: {clip: 1.0}", "optim.clip is now called optim.clip_grad_norm"),
        ("decoder: {kind: cnn}", "must be one of conv, linear"),
        (": :", "not valid YAML"),
    ],
)
def test_a_faulty_config_file_names_the_setting(line: str, message: str, repre: Repre, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(line)
    code, _, err = repre("pretrain", "--config", path)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("size", [0, 500])
def test_a_truncated_checkpoint_is_refused(size: int, repre: Repre, photos: Path, run_copy: Path) -> None:
    (run_copy / "summary.json").unlink()
    path = run_copy / "checkpoints/last.pt"
    path.write_bytes(path.read_bytes()[:size])
    code, _, err = repre("pretrain", "--resume", run_copy)
    assert code == 2
    assert "damaged" in err
    assert repre("reconstruct", "--run", run_copy, photos / "1.jpg")[0] == 2


def test_a_pyramid_takes_tuples_as_model_arguments(repre: Repre, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--views.size=64", "--batch-size=4", "--epochs=1", "--runtime.workers=0", "--runtime.monitor-samples=4")
    swin = (
        "--encoder.model-args.depths 1 1 1 1 --encoder.model-args.num-heads 1 1 2 2 --encoder.model-args.embed-dim=16 "
        "--encoder.model-args.window-size 4 --framework.hidden-dim 16 --framework.out-dim 8 --framework.queue 8 "
        "--decoder.dim 8 --runtime.device cpu"
    )
    code, _, err = repre("pretrain", "swin-tiny-moby", "--data", photos, "--out", out, *sizes, *swin.split())
    assert code == 0, err
    assert load_encoder(out).widths == [16, 32, 64, 128]
