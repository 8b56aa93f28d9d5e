"""`repre eval`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Repre

ENCODER = "vit_tiny_patch16_224[patch_size=8,embed_dim=32,depth=2,num_heads=2,image_size=32]"


def test_knn_prints_its_metrics_and_writes_the_result(
    repre: Repre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = ("--runtime.workers", 0, "--runtime.device", "cpu", "--runtime.cache", tmp_path / "cache")
    code, out, err = repre("eval", "knn", "--encoder", ENCODER, "--random", "--data", "scenes:64:32", *runtime)
    assert code == 0, err
    loaded, first, *metrics, last = out.splitlines()
    assert loaded.startswith(f"encoder random:{ENCODER}: random weights; pixels with mean 0.485 0.456 0.406")
    assert first.startswith(f"knn of random:{ENCODER} on scenes:64:32, ")
    assert [line.split()[0] for line in metrics] == ["knn20", "knn10"], "the main metric is first"
    path = Path(last.removeprefix("written to "))
    content = json.loads(path.read_text())
    assert content["config"]["data"] == "scenes:64:32"
    assert content["encoder"]["weights"] == "random"


def test_several_encoders_give_a_table_and_a_curve(repre: Repre, run_copy: Path, tmp_path: Path) -> None:
    runtime = ("--runtime.workers", 0, "--runtime.device", "cpu", "--runtime.cache", tmp_path / "cache")
    names = (f"{run_copy}@last", run_copy, f"random:{run_copy}")
    code, out, err = repre("eval", "knn", "--encoder", *names, "--data", "scenes:64:32", *runtime)
    assert code == 0, err
    *loaded, first, header, row, other, third, last = out.splitlines()
    rows = [row, other, third]
    assert [line.partition(": ")[0] for line in loaded] == [
        f"encoder {names[0]}",
        f"encoder {names[2]}",
    ]  # [1] is reused
    assert first == "knn on scenes:64:32"
    assert header.split() == ["epoch", "knn20", "encoder"]
    assert [row.split()[0] for row in rows] == ["-", "1", "1"]
    assert [row.split()[-1] for row in rows] == [str(names[2]), str(names[0]), str(names[1])]
    curve = Path(last.split("curve: ")[1])
    assert curve.read_text().startswith("<svg")
    folder = run_copy / "evaluations"
    assert curve.parent == folder
    assert len(list(folder.glob("knn-*.json"))) == 1, "both names of the run have the same weights"


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
