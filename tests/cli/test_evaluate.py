"""`repre eval`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Repre

ENCODER = "vit_tiny_patch16_224[patch_size=8,embed_dim=32,depth=2,num_heads=2,image_size=32]"


def test_knn_prints_its_metrics_and_writes_the_result(
    repre: Repre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = ("--runtime.workers", 0, "--runtime.device", "cpu", "--runtime.cache", tmp_path / "cache")
    code, out, err = repre("eval", "knn", "--encoder", ENCODER, "--random", "--data", "scenes:64:32", *runtime)
    assert code == 0, err
    first, split, *lines, last = [line for line in out.splitlines() if not line.startswith("encoder ")]
    assert first.startswith(f"knn of random:{ENCODER} on scenes:64:32, ")
    assert split == "  64 images to train on, 32 to test on (test)"
    path = Path(last.removeprefix("written to "))
    content = json.loads(path.read_text())
    details = content["details"]
    assert [line.split()[0] for line in lines[:2]] == ["knn20", "knn10"], "the main metric is first"
    assert lines[2].split()[:3] == ["balanced", "accuracy", f"{100 * details['balanced_accuracy']:.2f}"]
    assert lines[3].split()[:3] == ["majority", "class", f"{100 * details['majority_class']['share']:.2f}"]
    assert lines[4].split() == ["class", "accuracy"]
    assert [line.split()[0] for line in lines[5:15]] == list(details["per_class"])
    assert content["config"]["data"] == "scenes:64:32"
    assert content["encoder"]["weights"] == "random"


def test_several_encoders_give_a_table_and_a_curve(repre: Repre, run_copy: Path, tmp_path: Path) -> None:
    runtime = ("--runtime.workers", 0, "--runtime.device", "cpu", "--runtime.cache", tmp_path / "cache")
    names = (f"{run_copy}@last", run_copy, f"random:{run_copy}")
    code, out, err = repre("eval", "knn", "--encoder", *names, "--data", "scenes:64:32", *runtime)
    assert code == 0, err
    first, header, *rows, remark, last = [line for line in out.splitlines() if not line.startswith("encoder ")]
    assert first == "knn on scenes:64:32: 64 images to train on, 32 to test on (test)"
    assert remark == f"  {names[0]} and {names[1]} are the same weights"
    assert header.split() == ["epoch", "knn20", "encoder"]
    assert [row.split()[0] for row in rows] == ["-", "1", "1"]
    assert [row.split()[-1] for row in rows] == [str(names[2]), str(names[0]), str(names[1])]
    curve = Path(last.split("curve: ")[1])
    assert curve.read_text().startswith("<svg")
    folder = run_copy / "evaluations"
    assert curve.parent == folder
    assert len(list(folder.glob("knn-*.json"))) == 1, "both names of the run have the same weights"


def test_a_missing_checkpoint_is_found_before_the_first_is_evaluated(
    repre: Repre, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repre.evaluation.runner.evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    code, _, err = repre("eval", "knn", "--encoder", run_copy, f"{run_copy}@none", "--data", "scenes:64:32")
    assert code == 2
    assert "there is no checkpoint" in err


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of five images."""
    for label in range(2):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for name in range(5):
            Image.new("RGB", (32, 32), (90 * label, 9 * name, 0)).save(tmp_path / "data" / str(label) / f"{name}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("knn", (), "  8 images to train on, 2 to test on (20% of every class, held out by a fixed draw)\n"),
        ("knn", ("--test", "{data}"), "the test images are the training images"),
        ("knn", (), "only 8 training images can vote, but k is 20"),
        ("linear", ("--shots", 2, "--draws", 3, "--steps", 2), "(mean of 3 draws)"),
    ],
)
def test_what_a_number_rests_on_is_said(
    name: str, options: tuple[object, ...], said: str, classes: Path, tmp_path: Path, repre: Repre
) -> None:
    runtime = ("--runtime.workers", 0, "--runtime.device", "cpu", "--runtime.cache", tmp_path / "cache")
    encoder = ("--encoder", f"random:{ENCODER}", "--out", tmp_path / "out", "--data", classes)
    more = [str(option).format(data=classes) for option in options]
    code, out, err = repre("eval", name, *encoder, *more, *runtime)
    assert code == 0, err
    assert said in out


def test_help_lists_the_evaluations(repre: Repre) -> None:
    code, out, _ = repre("eval", "--help")
    assert code == 0
    for name in ("knn", "linear", "finetune", "segment", "detect"):
        assert f"repre eval {name}" in out
        code, options, _ = repre("eval", name, "--help")
        assert code == 0
        assert "--encoder" in options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs the name of an evaluation"),
        (("segmen",), "did you mean 'segment'"),
        (("knn",), "--encoder"),
        (("knn", "--encoder", "runs/none"), "no such run"),
        (("knn", "--encoder", ENCODER, "--k", "0"), "k must"),
        (("knn", "--encoder", ENCODER, "--kk", "3"), "--k "),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre("eval", *arguments)
    assert (code, out) == (2, "")
    assert message in err
