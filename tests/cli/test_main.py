"""Mistakes end in one clear line and exit code 2, never a traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from repre.api import load_encoder
from repre.cli.main import main
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_folder import save_encoder

TINY = [
    "--encoder.patch-size=8",
    "--encoder.model-args.embed-dim=32",
    "--encoder.model-args.depth=2",
    "--encoder.model-args.num-heads=2",
    "--framework.hidden-dim=16",
    "--framework.out-dim=8",
    "--decoder.dim=8",
    "--views.size=32",
    "--batch-size=8",
    "--epochs=1",
    "--runtime.workers=0",
    "--runtime.device=cpu",
    "--runtime.monitor-samples=8",
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:  # tyro's own way out
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(16):
        Image.radial_gradient("L").rotate(10 * i).resize((48, 40)).convert("RGB").save(folder / f"{i}.jpg")
    return folder


def test_pretrain_then_reconstruct(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, _ = run("pretrain", "quickstart", "--data", photos, "--out", out, *TINY)
    assert code == 0
    assert "decoder" in said
    assert "timm.create_model" in said
    assert (out / "report.html").is_file()
    code, said, _ = run(
        "reconstruct", "--run", out, photos / "1.jpg", photos / "2.jpg", "--out", tmp_path / "panel.png"
    )
    assert code == 0
    assert said.count("PSNR") == 2
    assert Image.open(tmp_path / "panel.png").width > 2 * 128

    assert run("pretrain", "quickstart", "--data", photos, "--out", out, *TINY)[0] == 0  # finished: says so
    assert run("pretrain", "--resume", out)[0] == 0
    code, _, error = run("pretrain", "quickstart", "--data", photos, "--out", out, *TINY, "--seed=7")
    assert code == 2
    assert "seed: 7 here, 0 there" in error
    (out / "report.html").unlink()
    assert run("report", out)[0] == 0
    assert (out / "report.html").is_file()
    again = tmp_path / "again"
    assert run("pretrain", "--config", out / "config.yaml", "--out", again)[0] == 0
    assert (again / "summary.json").is_file()
    assert run("report", out, again, "--out", tmp_path / "both.html")[0] == 0
    assert (tmp_path / "both.html").is_file()


def test_scenes_end_with_knn_before_and_after_and_baselines(run: Run, tmp_path: Path) -> None:
    code, said, _ = run("pretrain", "--data=scenes:32:32", "--out", tmp_path / "run", *TINY)
    assert code == 0
    for words in ("before", "after training", "raw pixels", "color histogram"):
        assert words in said


MISTAKES = {
    "no such folder": (["--data", "{tmp}/nowhere"], "nowhere"),
    "empty folder": (["--data", "{tmp}/empty"], "empty"),
    "folder of text files": (["--data", "{tmp}/texts"], "txt"),
    "unknown encoder": (["--data", "{tmp}/photos", "--encoder.name", "vit_smal_patch16_224"], "vit_small_patch16_224"),
    "unknown option": (["--data", "{tmp}/photos", "--epoch", "3"], "epochs"),
    "batch larger than the data": (["--data", "{tmp}/photos", "--batch-size", "64"], "only 16 images"),
    "size not divisible": (["--data", "{tmp}/photos", "--views.size", "36"], "multiple of 8"),
    "output is a file": (["--data", "{tmp}/photos", "--out", "{tmp}/texts/a.txt"], "is a file"),
    "output cannot be written": (["--data", "{tmp}/photos", "--out", "/proc/nowhere/run"], "cannot be written"),
    "output holds other files": (["--data", "{tmp}/photos", "--out", "{tmp}/texts"], "not empty"),
    "wrong type": (["--data", "{tmp}/photos", "--batch-size", "many"], "many"),
    "negative setting": (["--data", "{tmp}/photos", "--optim.lr", "-1"], "optim.lr"),
    "no such device": (["--data", "{tmp}/photos", "--runtime.device", "tpu9"], "device"),
    "unknown data set": (["--data", "cifer10:{tmp}"], "cifar10"),
    "weights of another model": (
        ["--data", "{tmp}/photos", "--encoder.weights", "{tmp}/foreign.pth"],
        "does not match",
    ),
    "weights that are text": (["--data", "{tmp}/photos", "--encoder.weights", "{tmp}/texts/a.txt"], "cannot be read"),
    "local views for moco": (["--data", "{tmp}/photos", "--views.n-local", "2"], "n_local"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(mistake: str, run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("hello")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    words, expected = MISTAKES[mistake]
    given = [word.format(tmp=tmp_path) for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "run")]
    code, _, error = run("pretrain", "quickstart", *TINY, *out, *given)
    assert code == 2, error
    assert "Traceback" not in error
    assert expected in error


def test_unknown_commands_and_recipes_suggest_near_ones(run: Run, tmp_path: Path) -> None:
    code, _, error = run("pretrian")
    assert (code, "pretrain" in error) == (2, True)
    code, _, error = run("pretrain", "vit-small-mocov3")
    assert (code, "'vit-small-moco-v3'" in error) == (2, True)
    assert run("pretrain", "--resume", tmp_path)[0] == 2
    assert run("pretrain", "--config", tmp_path / "absent.yaml")[0] == 2
    assert run("reconstruct", "--run", tmp_path, "image.jpg")[0] == 2
    assert run("--help")[0] == 0
    assert run("pretrain", "vit-small-dino", "--help")[0] == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batchsize: 3", "batch_size"),
        ("batch_size: many", "batch_size must be int"),
        ("framework: {name: mocov3}", "moco-v3"),
        ("optim: {lr: 1e-4, lrr: 2}", "optim.lrr"),
        ("decoder: {kind: cnn}", "must be one of conv, linear"),
        (": :", "not valid YAML"),
    ],
)
def test_a_faulty_config_file_names_the_setting(line: str, expected: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(line)
    code, _, error = run("pretrain", "--config", path)
    assert code == 2
    assert expected in error


@pytest.mark.parametrize("keep", [0, 500])
def test_a_truncated_checkpoint_is_refused(keep: int, run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("pretrain", "quickstart", "--data", photos, "--out", out, *TINY)[0] == 0
    (out / "summary.json").unlink()
    path = out / "checkpoints/last.pt"
    path.write_bytes(path.read_bytes()[:keep])
    code, _, error = run("pretrain", "--resume", out)
    assert code == 2
    assert "damaged" in error
    assert run("reconstruct", "--run", out, photos / "1.jpg")[0] == 2


def test_any_argument_of_the_timm_model_can_be_given_to_any_recipe(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sizes = ("--views.size=64", "--batch-size=4", "--epochs=1", "--runtime.workers=0", "--runtime.monitor-samples=4")
    swin = (
        "--encoder.model-args.depths 1 1 1 1 --encoder.model-args.num-heads 1 1 2 2 --encoder.model-args.embed-dim=16 "
        "--encoder.model-args.window-size 4 --framework.hidden-dim 16 --framework.out-dim 8 --framework.queue 8 "
        "--decoder.dim 8"
    )
    code, _, error = run("pretrain", "swin-tiny-moby", "--data", photos, "--out", out, *sizes, *swin.split())
    assert code == 0, error
    assert load_encoder(out).widths == [16, 32, 64, 128]
    code, _, error = run("pretrain", "quickstart", "--encoder.model-args.embed-dimm", "3", "--out", tmp_path / "other")
    assert code == 2
    assert "embed_dimm" in error


def test_evaluate_and_compare(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = "vit_tiny_patch16_224[patch_size=8,embed_dim=32,depth=2,num_heads=2,image_size=32]"
    data = ("--data", "scenes:64:32")
    common = (*data, "--runtime.workers", "0", "--runtime.device", "cpu", "--runtime.cache", tmp_path / "c")
    code, said, error = run("eval", "knn", "--encoder", encoder, "--random", *common)
    assert code == 0, error
    assert "knn20" in said
    (path,) = (tmp_path / "evaluations").rglob("knn-*.json")
    content = json.loads(path.read_text())
    assert content["config"]["data"] == "scenes:64:32"
    assert content["encoder"]["weights"] == "random"
    code, said, error = run(
        "compare", f"random:{encoder}", "--eval", "knn", "--seeds", "2", *data, "--out", tmp_path / "table",
        "--knn.runtime.workers", "0", "--knn.runtime.device", "cpu", "--knn.runtime.cache", tmp_path / "c",
    )  # fmt: skip
    assert code == 0, error
    assert "| knn | knn20 |" in said
    assert {p.name for p in (tmp_path / "table").iterdir()} == {"compare.md", "compare.csv", "compare.json"}
    rows = json.loads((tmp_path / "table" / "compare.json").read_text())["rows"]
    assert rows[0]["values"][0] == content["metrics"]["knn20"], "seed 0 is the same evaluation"


def test_export_and_embed(run: Run, photos: Path, tmp_path: Path) -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, model_args={"depth": 1})
    save_encoder(Encoder(config), tmp_path / "encoder")
    code, said, error = run("export", "--run", tmp_path / "encoder", "--to", "timm", "--out", tmp_path / "out")
    assert code == 0, error
    assert "largest difference" in said
    words = ("--data", photos, "--out", tmp_path / "f.npz", "--runtime.workers", "0", "--runtime.device", "cpu")
    code, said, error = run("embed", "--run", tmp_path / "encoder", *words)
    assert code == 0, error
    assert "16 images embedded" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval",), "needs the name of an evaluation"),
        (("eval", "segmen"), "did you mean 'segment'"),
        (("eval", "knn", "--encoder", "runs/none"), "no such run"),
        (("compare", "runs/none", "--eval", "segmentt"), "did you mean 'segment'"),
        (("compare", "--eval", "knn"), "at least one encoder"),
        (("export", "--run", "runs/none", "--to", "onnx"), "no such run"),
        (("report", "nothing"), "no run|no folder|not a run|there is no"),
        (("report",), "needs the folder"),
        (("embed", "--run", "x_y_z", "--data", "a", "--out", "b.npz"), "no model"),
    ],
)
def test_mistakes_in_other_commands(run: Run, words: tuple[str, ...], message: str) -> None:
    code, _, error = run(*words)
    assert code == 2
    assert re.search(message, error), error
    assert "Traceback" not in error
