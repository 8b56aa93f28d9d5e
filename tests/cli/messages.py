"""Every option that a message of the package names, and the options of every command, for tests that compare the two."""

import ast
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import repre
from tests.cli.conftest import call

SOURCE = Path(repre.__file__).parent
EVALUATIONS = ("knn", "linear", "finetune", "segment", "patch-knn", "depth", "detect")
EVAL = tuple(f"eval {name}" for name in EVALUATIONS)
ENCODERS = ("pretrain", "plan", *EVAL, "compare", "embed", "export")
"""Commands that take an encoder of any origin."""
IMAGES = ("pretrain", "plan", *EVAL, "compare", "embed", "predict", "data check", "data shard")
"""Commands that open images."""
COMMANDS = (*ENCODERS, "predict", "reconstruct", "report", "data check", "data shard", "data scenes")
HELP = {
    "pretrain": [[f"vit-tiny-{name}"] for name in ("dino", "moby", "simclr", "dinov2")],
    "compare": [["--eval", *EVALUATIONS]],
}
"""Arguments that decide which options a command has."""
OPTION = re.compile(r"--[a-z][a-z0-9.-]*[a-z0-9]")
PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for a value in the text of an f-string."""


@dataclass(frozen=True)
class Text:
    """A text that the package may print: file, line, and the text with `PLACE` for values."""

    file: str
    line: int
    text: str

    @property
    def options(self) -> list[str]:
        """The options that it names, those with a value in their name up to it."""
        return re.findall(rf"(?<![\w-])--[a-z{PLACE}][\w.-]*[\w{PLACE}]*", self.text)


@cache
def options_of(command: str) -> frozenset[str]:
    """The options that the help of a command lists."""
    found: set[str] = {"--help"}
    os.environ["COLUMNS"] = "90"  # one column of options
    for arguments in HELP.get(command, [[]]):
        _, out, _ = call(*command.split(), *arguments, "--help-all" if command in ("pretrain", "plan") else "--help")
        for line in out.splitlines():
            if line.strip().startswith(("--", "-h")):
                found |= set(OPTION.findall(re.split(r"\s{2,}", line.strip())[0]))
    return frozenset(found | options_of("pretrain")) if command == "plan" else frozenset(found)


@cache
def trees() -> dict[Path, ast.Module]:
    """The code of every file of the package."""
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(SOURCE.rglob("*.py"))}


@cache
def texts() -> tuple[Text, ...]:
    """All texts with an option in the package's code, without docstrings."""
    return tuple(text for file, tree in trees().items() for text in _texts_of(file, tree))


def _texts_of(file: Path, tree: ast.Module) -> list[Text]:
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))  # docstrings
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else PLACE for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node.lineno, node.value))
    name = file.relative_to(SOURCE).as_posix()
    return [Text(name, line, text) for line, text in found if "--" in text]


def raised(kind: str) -> int:
    """How many `raise` statements of an error class the package has."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree)]
    calls = [n.exc for n in nodes if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
    return sum(isinstance(one.func, ast.Name) and one.func.id == kind for one in calls)


REACHED_BY: dict[str, tuple[str, ...]] = {
    "": COMMANDS,
    "api/encoders.py": ("embed", "export"),
    "api/evaluations.py": (*EVAL, "compare"),
    "cli/": (),  # descriptions of other commands too; those of one command follow
    **{
        f"cli/{name}.py": (name,)
        for name in ("embed", "export", "plan", "predict", "pretrain", "reconstruct", "report")
    },
    "cli/compare.py": ("compare",),
    "cli/evaluate.py": EVAL,
    "cli/run_options.py": ("pretrain", "plan"),
    "config.py": ("pretrain", "plan"),
    "recipes.py": ("pretrain", "plan"),
    "small_data.py": ("pretrain", "plan"),
    "data/io/": IMAGES,
    "data/io/taken_files.py": ("pretrain", "plan", "embed", "predict", "data check", "data shard"),
    "data/io/value_ranges.py": ("pretrain", "plan"),
    "data/labels/": (*EVAL, "compare", "data check"),
    "data/labels/probe_config.py": ("pretrain", "plan"),
    "data/labels/depth_pairs.py": ("eval depth", "compare"),
    "data/labels/label_map.py": ("eval segment", "eval patch-knn", "compare", "data check"),
    "data/labels/unlikely_masks.py": ("eval segment", "eval patch-knn", "compare", "data check"),
    "data/labels/problems.py": (*EVAL[:5], "compare", "data check"),
    "data/labels/mask": ("eval segment", "eval patch-knn", "compare", "data check"),
    **dict.fromkeys(
        [f"data/labels/{name}" for name in ("boxes", "coco", "voc_xml", "yolo")],
        ("eval detect", "compare", "data check"),
    ),
    "data/labels/classes.py": ("eval knn", "eval linear", "eval finetune", "compare", "data check"),
    "data/io/cache_folders.py": ("pretrain", "plan"),
    "data/io/decoded_cache.py": ("pretrain", "plan"),
    "data/loading/": ("pretrain", "plan"),
    "data/loading/workers.py": IMAGES,
    "data/tools/check": ("data check",),
    "data/tools/shard": ("data shard",),
    "data/tools/write.py": ("data scenes",),
    "data/views/": ("pretrain", "plan"),
    "evaluation/": (*EVAL, "compare"),
    "evaluation/comparison.py": ("compare",),
    "evaluation/fit.py": ("eval finetune", "eval segment", "eval depth", "eval detect", "compare"),
    "evaluation/label_probes.py": ("pretrain",),
    "evaluation/maps.py": ("eval segment", "eval patch-knn", "eval depth", "compare"),
    **{f"evaluation/classification/{name}.py": (f"eval {name}", "compare") for name in ("knn", "linear", "finetune")},
    "evaluation/depth/": ("eval depth", "compare"),
    "evaluation/detection/": ("eval detect", "compare"),
    "evaluation/segmentation/": ("eval segment", "compare"),
    "evaluation/segmentation/patch_knn.py": ("eval patch-knn", "compare"),
    "evaluation/fitted/": ("predict",),
    "evaluation/fitted/fitted_folder.py": ("predict", "export"),
    **dict.fromkeys(
        [f"exporters/{name}" for name in ("clusters", "data_map", "embeddings", "feature_files", "map_page")],
        ("embed",),
    ),
    "exporters/": ("export",),
    "frameworks/": ("pretrain", "plan"),
    "models/": (*ENCODERS, "reconstruct"),
    "models/weight_files.py": ("pretrain", "plan"),
    "models/weights.py": ("pretrain", "plan"),
    "reporting/": (),  # the commands in a report are whole
    "reporting/page.py": ("report",),
    "training/": ("pretrain", "plan"),
    "training/next_commands.py": (),  # builds whole commands
    "training/planner.py": ("plan",),
    "training/checkpoint.py": (*ENCODERS, "reconstruct"),
    "utils/": (),
}
"""The commands that can raise the messages of a file, by the longest beginning of its path."""


def commands_of(file: str) -> tuple[str, ...]:
    """The commands that can raise the messages of a file."""
    return REACHED_BY[max((start for start in REACHED_BY if file.startswith(start)), key=len)]
