"""What a message advises works: the refused command leaves everything as it was, and the corrected one runs next."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre import api
from repre.config import RunConfig
from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY

RANDOM = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
PRETRAIN = ("pretrain", "quickstart", "--data", "A", "--out", "o", *TINY)
CPU = ("--runtime.workers=0", "--runtime.device=cpu")
KNN = ("eval", "knn", "--encoder", RANDOM, "--data", "classes", "--out", "o", "--k", "1", *CPU)
EMBED = ("embed", "--encoder", RANDOM, "--data", "A", "--out", "o/f.npz", *CPU)
COMPARE = (
    *("compare", RANDOM, "--eval", "knn", "--data", "classes", "--seeds", "1", "--out", "o"),
    *("--knn.k", "1", "--knn.runtime.workers=0"),
)
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]] = {
    # a command, what is wrong in it, the message, and what the message advises instead
    "batch": (PRETRAIN, ("--batch-size=20",), "use --batch-size 8 or less", ("--batch-size=8",)),
    "one image": (PRETRAIN, ("--data", "one"), "too few to train on.*add images to --data", ()),
    "one step": (
        PRETRAIN,
        ("--batch-size=16",),
        "more --epochs, a smaller --batch-size or --optim.w",
        ("--batch-size=8",),
    ),
    "one step, no warm-up": (
        PRETRAIN,
        ("--batch-size=16",),
        "or --optim.warmup-fraction 0",
        ("--batch-size=16", "--optim.warmup-fraction=0"),
    ),
    "no learning rate": (
        PRETRAIN,
        ("--optim.lr=0",),
        "give --optim.lr above 0, such as 1.5e-4",
        ("--optim.lr=1.5e-4",),
    ),
    "encoder at rest": (
        PRETRAIN,
        ("--framework.head-warmup=0.9",),
        "or --framework.head-warmup 0",
        ("--framework.head-warmup=0",),
    ),
    "betas": (
        PRETRAIN,
        ("--optim.betas", "2", "2"),
        "AdamW's defaults are 0.9 0.999",
        ("--optim.betas", "0.9", "0.999"),
    ),
    "seed": (PRETRAIN, ("--seed=-1",), "seed must not be negative", ("--seed=1",)),
    "huge seed": (PRETRAIN, ("--seed=99999999999999999999999",), "at most 4294967295", ("--seed=4294967295",)),
    "minutes": (PRETRAIN, ("--runtime.checkpoint-minutes=-1",), "must not be negative", ()),
    "workers": (PRETRAIN, ("--runtime.workers=500",), "runtime.workers must be 0 to 256", ("--runtime.workers=0",)),
    "image size": (
        PRETRAIN,
        ("--encoder.image-size", "96", "128"),
        "leave it out and set --views.size 96 128",
        ("--views.size", "24", "32"),
    ),
    "weight": (PRETRAIN, ("--reconstruction.weight=nan",), "reconstruction.weight must be a finite number", ()),
    "probe": (
        PRETRAIN,
        ("--runtime.best-metric=probe/knn",),
        "set --probe.knn LABELS",
        ("--runtime.best-metric=probe/knn", "--probe.knn", "classes"),
    ),
    "labels of a probe": (PRETRAIN, ("--probe.knn", "nowhere"), "--probe.knn", ()),
    "data": (PRETRAIN, ("--data", "nowhere"), "--data", ()),
    "out": (PRETRAIN, ("--out", "A"), "--out A is not empty.*name a new folder", ("--out", "o/new")),
    "parents of out": (PRETRAIN, ("--batch-size=20", "--out", "x/y"), "--batch-size 8", ("--out", "x/y")),
    "empty out": (PRETRAIN, ("--out", ""), "--out is empty", ("--out", "o")),
    "views without a difference": (PRETRAIN, ("--views.n-global=3",), "give 2", ("--views.n-global=2",)),
    "neighbors": (KNN, ("--k", "0"), "at least 1", ("--k", "1")),
    "encoder of eval": (
        KNN,
        ("--encoder", "nope"),
        "no run or file of that name, and timm has no model 'nope'",
        ("--encoder", RANDOM),
    ),
    "seed of eval": (KNN, ("--seed=-1",), "seed must not be negative", ("--seed=0",)),
    "range of eval": (
        KNN,
        ("--value-range", "5", "5"),
        "value_range must be .lowest, highest.",
        ("--value-range", "0", "255"),
    ),
    "labels of eval": (KNN, ("--data", "nowhere"), "nowhere", ()),
    "crop": (KNN, ("--crop-pct", "0"), "crop_pct must be at least 0.01", ("--crop-pct", "0.9")),
    "seeds of compare": (COMPARE, ("--seeds", "0"), "--seeds must be at least 1", ("--seeds", "1")),
    "negative seeds": (COMPARE, ("--seeds=-3",), "seeds must", ("--seeds", "1")),
    "supervised": (COMPARE, ("--supervised", "nope"), "is not one of the encoders", ("--supervised", RANDOM)),
    "evaluation": (COMPARE, ("--eval", "kn"), "did you mean 'knn'", ("--eval", "knn")),
    "ending": (EMBED, ("--out", "o/f.txt"), "has to end with .npz or .parquet", ("--out", "o/f.npz")),
    "map": (EMBED, ("--map", "pca", "--kind", "patch"), "leave out --kind patch", ("--map", "pca")),
    "clusters": (
        EMBED,
        ("--map", "pca", "--map-clusters", "0"),
        "must be at least 1",
        ("--map", "pca", "--map-clusters", "2"),
    ),
    "data of embed": (EMBED, ("--data", "nowhere"), "nowhere", ()),
    "target": (("export", "--encoder", RANDOM, "--out", "o"), ("--to", "onx"), "choose timm, h", ("--to", "timm")),
    "export of nothing": (("export",), (), "--encoder.* or .*--model", ("--encoder", RANDOM, "--out", "o")),
    "scenes": (("data", "scenes", "--out", "o", "--val", "2"), ("--train=-1",), "train", ("--train=2",)),
    "scenes in a full folder": (
        ("data", "scenes", "--train=2", "--val=2"),
        ("--out", "A"),
        "name another folder",
        ("--out", "o"),
    ),
    "shards": (("data", "shard", "A", "--workers=0"), ("--out", "A"), "name another folder", ("--out", "o")),
    "quality": (
        ("data", "shard", "A", "--workers=0", "--out", "o"),
        ("--quality=0",),
        "it is 1 to 100",
        ("--quality=90",),
    ),
    "channels of check": (
        ("data", "check", "A", "--workers=0"),
        ("--channels=0",),
        "must be at least 1",
        ("--channels=3",),
    ),
    "workers of check": (("data", "check", "A"), ("--workers=-3",), "workers must", ("--workers=0",)),
    "options of masks": (("data", "check", "A", "--workers=0"), ("--binary",), "need --labels", ()),
    "reports": (("report",), (), "folder of at least one run", ("run",)),
    "a folder without a run": (("report",), ("A",), "A", ("run",)),
    "run and recipe": (("pretrain",), ("quickstart", "--resume", "run"), "only one of", ("--resume", "run")),
    "other out on resume": (
        ("pretrain",),
        ("--resume", "run", "--out", "o"),
        "use --config run/config.yaml",
        ("--config", "run/config.yaml", "--out", "o"),
    ),
    "a start without a folder": (
        ("pretrain",),
        ("--from", "run"),
        "name its folder with --out",
        ("--from", "run", "--out", "o"),
    ),
    "a start beside a recipe": (
        ("pretrain",),
        ("vit-tiny-dino", "--from", "run", "--data", "A", "--batch-size=8", "--out", "o", *CPU),
        "leave out the options, the recipe",
        ("--from", "run", "--data", "A", "--batch-size=8", "--out", "o", *CPU),
    ),
    "a start with weights": (
        ("pretrain", "--from", "run", "--out", "o"),
        ("--encoder.weights", "run"),
        "leave out encoder.weights",
        (),
    ),
}


ONLY_PARSED = ("betas", "seed", "huge seed", "minutes", "workers", "weight", "views without a difference")
"""Rows whose corrected command only has to get as far as the training."""


@pytest.fixture(scope="module")
def place(photos: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images A, one image, two classes, and a finished run."""
    root = tmp_path_factory.mktemp("advice")
    shutil.copytree(photos, root / "A")
    shutil.copytree(finished_run, root / "run")
    (root / "one").mkdir()
    shutil.copy(root / "A/0.jpg", root / "one")
    for number in range(12):
        folder = root / "classes" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, cleaned of what a test wrote."""
    monkeypatch.chdir(place)
    yield place
    for name in ("o", "x", "exports", "evaluations"):
        shutil.rmtree(place / name, ignore_errors=True)


def contents(root: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files."""
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(folder, name), root): None for name in folders}
        found |= {os.path.relpath(os.path.join(folder, name), root): Path(folder, name).read_bytes() for name in files}
    return found


def given(command: tuple[str, ...], more: tuple[str, ...]) -> list[str]:
    """The command with further options, which replace its own of the same name."""
    replaced = {option.partition("=")[0] for option in more if option.startswith("--")}
    kept: list[str] = []
    skip = False
    for part in command:
        if part.startswith("--"):
            skip = part.partition("=")[0] in replaced
        if not skip:
            kept.append(part)
    return [*kept, *more]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_the_advice_of_a_message_works(row: str, repre: Repre, in_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, mistake, message, advised = ROWS[row]
    before = contents(in_place)
    code, out, err = repre(*given(command, mistake))
    assert code == 2, (out, err)
    assert re.search(message, err, re.S), err
    after = contents(in_place)
    assert sorted(after) == sorted(before)
    assert after == before
    if row in ONLY_PARSED:

        def train_nothing(config: RunConfig) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(api, "pretrain", train_nothing)
    code, out, err = repre(*given(command, advised))
    assert code == (130 if row in ONLY_PARSED else 0), err
