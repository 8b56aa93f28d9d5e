"""The commands to try, as a user gives them with tiny data, and their options as the parsers know them."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tyro
from PIL import Image

from repre.cli import parsing
from repre.cli.main import main
from repre.data.scenes import ScenesConfig
from repre.data.tools import write
from repre.evaluation.registry import EVALUATIONS
from tests.cli.tiny_command import TINY

ENCODER = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
RUNTIME = ("--runtime.workers=0", "--runtime.device=cpu")


@dataclass(frozen=True)
class Option:
    """An option of a command; `name` is empty for values without one."""

    command: str
    name: str
    flag: bool


class Reached(BaseException):
    """The command accepted its input and would now begin its work."""


def make_commands(folder: Path) -> dict[str, list[str]]:
    """Writes tiny data, a run and a fitted model into a folder. Returns the arguments of every command by its name."""
    photos, scenes, depth = folder / "photos", folder / "scenes", folder / "depth"
    run, table = folder / "run", folder / "labels.csv"
    for made in (photos, depth):
        made.mkdir(parents=True)
    rows = ["path,label,split"]
    for index in range(16):
        grey = Image.radial_gradient("L").rotate(10 * index).resize((40, 36))
        grey.convert("RGB").save(photos / f"{index}.png")
        rows.append(f"photos/{index}.png,{'ab'[index % 2]},{'train' if index < 12 else 'val'}")
        grey.convert("RGB").save(depth / f"{index}.jpg")
        Image.fromarray((np.asarray(grey).astype(np.uint16) + 1) * 100).save(depth / f"{index}_depth.png")
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    write.write_scenes(scenes, {"train": 12, "val": 6}, config=ScenesConfig(size=32))
    model = folder / "model"
    for arguments in (
        ["pretrain", "--data", str(photos), "--out", str(run), *TINY],
        ["eval", "linear", "--encoder", str(run), "--data", f"csv:{table}", "--out", str(model), "--steps=2", *RUNTIME],
    ):
        assert main(arguments) == 0
    masks = f"pairs:{scenes}/{{split}}/images,{scenes}/{{split}}/masks"
    labeled = {"segment": masks, "patch-knn": masks, "detect": f"coco:{scenes}", "depth": f"pairs:{depth}"}
    encoder = ["--encoder", ENCODER]
    evaluations = {
        f"eval {name}": ["eval", name, *encoder, "--data", labeled.get(name, f"csv:{table}"), *RUNTIME]
        for name in EVALUATIONS
    }
    (result,) = model.glob("linear-*.json")
    return {
        "pretrain": ["pretrain", "--data", str(photos), "--out", "run", *TINY],
        "plan": ["plan", "--data", str(photos), *TINY],
        **evaluations,
        "compare": ["compare", ENCODER, "--data", f"csv:{table}"],
        "embed": ["embed", *encoder, "--data", str(photos), *RUNTIME],
        "export": ["export", *encoder],
        "predict": ["predict", "--model", str(result), str(photos), "--out", "predictions", *RUNTIME],
        "reconstruct": ["reconstruct", "--run", str(run), str(photos / "0.png")],
        "report": ["report", str(run), "--out", "report.html"],
        "data check": ["data", "check", str(photos), "--workers=0"],
        "data shard": ["data", "shard", str(photos), "--out", "shards", "--workers=0"],
        "data scenes": ["data", "scenes", "--out", "written", "--train", "1", "--val", "1"],
    }


def find_options(commands: Mapping[str, list[str]]) -> list[Option]:
    """Every option of every command, from the tables of their parsers. Of plan only those that pretrain does not have."""
    found: list[Option] = []
    for command, arguments in commands.items():
        for action in _parser(arguments)._actions:
            names = [name for name in action.option_strings if name.startswith("--")]
            name = names[0] if names else ""
            known = {option.name for option in found if option.command == "pretrain"}
            if name not in ("--help", "--print-config", "--help-all") and not (command == "plan" and name in known):
                found.append(Option(command, name, flag=action.nargs == 0))
    return found


def _parser(arguments: list[str]) -> Any:
    """tyro's parser of a command, which is caught when the command is about to use it."""

    class Caught(Exception):
        pass

    caught: list[Any] = []
    original = parsing._run_tyro

    def catch(options: Any, **settings: Any) -> Any:
        if settings.get("return_unknown_args"):
            return original(options, **settings)
        caught.append((options, settings))
        raise Caught

    with patch.object(parsing, "_run_tyro", catch), suppress(Caught):
        main(arguments)
    options, settings = caught[0]
    kept = {name: settings[name] for name in ("prog", "default", "config") if name in settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tyro.extras.get_parser(options, **kept)


@contextmanager
def without_work() -> Iterator[None]:
    """Inside, commands stop by `Reached` where their work begins: the training loop, the first images in an encoder."""
    from repre.models.encoder import Encoder
    from repre.training import planner
    from repre.training.loop import Trainer

    def reached(*args: Any, **settings: Any) -> Any:
        raise Reached

    with (
        patch.object(Trainer, "run", reached),
        patch.object(planner, "_decode", reached),
        patch.object(Encoder, "forward", reached),
        patch.object(write, "_write_split", reached),
    ):
        yield
