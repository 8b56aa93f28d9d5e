"""Imports only point to a lower floor; the table is the one of docs/architecture.md."""

import ast
from pathlib import Path

import repre

ROOT = Path(repre.__file__).parent
FLOORS = [
    ["errors", "types", "ops", "losses"],
    ["encoder", "decoder", "data", "optim", "checkpoint"],
    ["frameworks"],
    ["model"],
    ["config", "recipes", "starts"],
    ["train", "evaluate"],
    ["export", "embed", "report"],
    ["api"],
    ["cli"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
INSIDE = {"types": 0, "errors": 0, "ops": 1, "losses": 2, "checkpoint": 0, "config": 0, "recipes": 1, "starts": 2}
"""Order within a floor, where its members may import one another."""
FOREIGN = {"timm": "encoder.py", "tyro": "cli.py", "tensorboard": "train/trackers.py", "tifffile": "data/images.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_import_points_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT)
        if relative.name == "__init__.py" and len(relative.parts) == 1:
            continue
        mine = relative.parts[0].removesuffix(".py")
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "repre" or len(parts) == 1:
                continue
            theirs = parts[1]
            if theirs == mine:
                continue
            lower = FLOOR[theirs] < FLOOR[mine]
            beside = FLOOR[theirs] == FLOOR[mine] and INSIDE.get(theirs, 9) < INSIDE.get(mine, 9)
            if not (lower or beside):
                wrong.append(f"{relative} imports {module}")
    assert not wrong


def test_every_module_has_a_floor() -> None:
    names = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert names - {"__init__"} == set(FLOOR)


def test_one_file_per_foreign_library() -> None:
    for library, owner in FOREIGN.items():
        users = {
            p.relative_to(ROOT).as_posix()
            for p in ROOT.rglob("*.py")
            if library in {m.split(".")[0] for m in imports(p)}
        }
        assert users <= {owner}, (library, users)
