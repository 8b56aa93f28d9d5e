"""Bad arguments of the functions: a UserError or a TypeError that says what is wrong, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import repre

BAD: list[Any] = [
    -1,
    0,
    10**23,
    float("nan"),
    float("inf"),
    "",
    "x" * 300,
    "a\0b",
    "no/such",
    [],
    {},
    object(),
    b"x",
]
ENCODER = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=1,num_heads=2]"
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[str]]] = {
    "pretrain": (
        repre.pretrain,
        {"out": "o", "data": "no/data"},
        ["config", "start_from", "data", "epochs", "batch_size", "seed"],
    ),
    "plan": (repre.plan, {"data": "no/data"}, ["config", "data", "epochs", "batch_size", "seconds", "max_hours"]),
    "report": (repre.report, {"runs": "no/run"}, ["runs", "out"]),
    "reconstruct": (repre.reconstruct, {"images": "no.png", "run": "no/run"}, ["images", "run", "out", "checkpoint"]),
    "evaluate": (
        repre.evaluate,
        {"evaluation": "knn", "encoder": ENCODER, "data": "no/data"},
        ["evaluation", "encoder", "data", "out", "config", "k", "seed", "nonsense"],
    ),
    "compare": (repre.compare, {"encoders": ENCODER, "data": "no/data"}, ["encoders", "evaluations", "seeds", "out"]),
    "embed": (
        repre.embed,
        {"encoder": ENCODER, "data": "no/data"},
        ["encoder", "data", "out", "kind", "features", "size", "runtime", "map_clusters", "seed"],
    ),
    "export": (repre.export, {"encoder": "no/encoder"}, ["encoder", "model", "to", "out"]),
    "load_encoder": (repre.load_encoder, {}, ["path"]),
    "check_data": (repre.check_data, {"data": "no/data"}, ["data", "channels", "split", "workers"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    function, given, arguments = CALLS[name]
    problems = []
    for argument in arguments:
        for value in BAD:
            try:
                function(**given | {argument: value})
                problems.append(f"{argument}={value!r:.40} was accepted")
            except (repre.UserError, TypeError, OSError) as error:
                if not str(error):
                    problems.append(f"{argument}={value!r:.40}: no text")
            except Exception as error:
                problems.append(f"{argument}={value!r:.40}: {type(error).__name__}: {error}"[:200])
    assert not problems, "\n".join(problems)
    assert not [*tmp_path.iterdir()]
