"""Imports only point to a lower floor; the table is the one of docs/architecture.md."""

import ast
from collections import Counter
from pathlib import Path

import repre

ROOT = Path(repre.__file__).parent
FLOORS: list[list[str]] = [
    ["errors"],
    ["types"],
    ["utils"],
    ["losses"],
    ["training.checkpoint", "training.optim"],
    ["data.scenes"],
    ["data.io"],
    ["data.views"],
    ["data.loading"],
    ["data.labels"],
    ["data.tools"],
    [
        "models.norms",
        "models.transform",
        "models.weight_parts",
        "models.position_tables",
        "models.drop_path",
        "models.patch_projection",
        "models.moco_v3_init",
        "models.residual_sums",
        "models.ema",
        "models.balance_gradients",
        "models.decoder",
    ],
    [
        "models.heads",
        "models.mask_token",
        "models.position_tables",
        "models.timm_model",
        "models.load_report",
        "models.weight_names",
    ],
    ["models.timm_features"],
    ["models.weight_files"],
    ["models.weights"],
    ["models.encoder"],
    ["models.timm_folder"],
    ["frameworks"],
    ["models.repre"],
    ["models.needs"],
    ["renamed_settings"],
    ["config_values"],
    ["config"],
    ["small_data"],
    ["recipes"],
    ["models.resolve"],
    ["training", "evaluation"],
    ["exporters", "reporting"],
    ["api"],
    ["cli"],
]
"""Rooms and files from the ground up; of two entries that fit a module the longer one counts."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MOST_LINES = 350
FOREIGN = {
    "timm": "models",
    "tyro": "cli",
    "tqdm": "utils",
    "umap": "exporters",
    "tensorboard": "training",
    "tifffile": "data/io",
    "pydicom": "data/io",
    "datasets": "data/io",
    "fsspec": "data/io",
    "triton": "data/views",
}
"""Where a foreign library may be imported."""


def modules() -> dict[str, Path]:
    """Every module by its name below the package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py"
    }


def room(module: str) -> str:
    """The entry of the table that a module belongs to."""
    parts = module.split(".")
    fitting = [name for n in range(1, len(parts) + 1) if (name := ".".join(parts[:n])) in FLOOR]
    assert fitting, f"{module} has no floor"
    return fitting[-1]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_import_points_down() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        mine = room(name)
        for imported in imports(path):
            target = imported.removeprefix("repre.")
            if target == imported or target not in known:
                continue
            theirs = room(target)
            if theirs != mine and FLOOR[theirs] >= FLOOR[mine]:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_every_floor_has_modules() -> None:
    assert {room(name) for name in modules()} == set(FLOOR)


def test_files_are_short_and_no_two_have_one_name() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
    names = Counter(path.name for path in modules().values())
    assert not [name for name, count in names.items() if count > 1 and name != "__main__.py"]


def test_a_foreign_library_has_one_place() -> None:
    for library, owner in FOREIGN.items():
        users = {
            path.relative_to(ROOT).as_posix()
            for path in modules().values()
            if library in {module.split(".")[0] for module in imports(path)}
        }
        assert all(user.startswith(f"{owner}/") for user in users), (library, users)
