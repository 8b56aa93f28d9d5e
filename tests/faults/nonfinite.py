"""Numbers that are not finite, in pixels, layers, gradients and by a learning rate: stopped or skipped by policy."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repre.config import ComputeConfig
from repre.training import loop
from repre.training.optim import OptimConfig
from repre.types import Views
from tests.faults.common import Row, live, small, weights, whole

AT = 13


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    for what in ("NaN in a pixel", "a pixel of 3e38", "NaN in a gradient"):
        for policy in ("stop", "skip"):
            yield _row(folder, what, policy)
    yield _row(folder, "NaN in a pixel", "skip", micro_batch=4)
    yield _diverging(folder)
    if torch.cuda.is_available() and not short:
        yield _fp16(folder)


def _row(folder: Path, what: str, policy: str, *, micro_batch: int = 0) -> Row:
    name = f"{what}-{policy}-{micro_batch}".replace(" ", "-")
    config = small(folder / name, compute=ComputeConfig(micro_batch=micro_batch))
    config = replace(config, runtime=replace(config.runtime, not_finite=policy))  # type: ignore[arg-type]
    code, words = live(config, folder, before=partial(_spoil, what))
    finite = all(value.isfinite().all() for value in weights(config.out).values())
    listed = [json.loads(line) for line in (Path(config.out) / "not_finite.jsonl").read_text().splitlines()]
    named = listed[0]["step"] == AT and len(listed[0]["files"]) == 8
    at_fault = listed[0]["at_fault"] == ([] if "gradient" in what else [listed[0]["files"][1]])
    if policy == "stop":
        again, _ = live(config, folder)
        ended = code == 1 and again == 0 and "Traceback" not in words
    else:
        ended = code == 0
    cause = listed[0]["cause"]
    happened = (
        f"{'ended with code 1; the same command went on' if policy == 'stop' else 'passed over, the run finished'}; "
    )
    pieces = f", in pieces of {micro_batch}" if micro_batch else ""
    return Row(
        "Numbers",
        f"{what} of one image at step {AT}, policy {policy}{pieces}",
        1,
        f"{happened}named: {cause}; {'the image' if listed[0]['at_fault'] else 'the files of the batch'} listed; all "
        f"weights finite: {finite}",
        "one step" if policy == "skip" else "nothing saved",
        ended and finite and named and at_fault and whole(config.out),
    )


def _spoil(what: str) -> None:
    """Spoils one step of this process."""
    real, step, calls = loop.make_views, loop.forward_backward, [0, 0]

    def made(*given: Any, **more: Any) -> Views:
        calls[0] += 1
        views = real(*given, **more)
        if calls[0] == AT and "pixel" in what:
            for view in views.images:
                view[1] = float("nan") if "NaN" in what else 3e38
        return views

    def stepped(model: Any, *given: Any, **more: Any) -> Any:
        calls[1] += 1
        losses = step(model, *given, **more)
        if calls[1] == AT and "gradient" in what:
            next(model.encoder.parameters()).grad.view(-1)[0] = float("nan")
        return losses

    loop.make_views, loop.forward_backward = made, stepped


def _diverging(folder: Path) -> Row:
    config = small(folder / "diverging", optim=OptimConfig(lr=1e30, base_batch_size=8, warmup_fraction=0.5))
    code, words = live(config, folder)
    last = Path(config.out) / "checkpoints/last.pt"
    finite = not last.is_file() or all(value.isfinite().all() for value in weights(config.out).values())
    advice = "lower --optim.lr" in words.replace("\n", " ")
    return Row(
        "Numbers",
        "a learning rate of 1e30",
        1,
        f"ended with code {code}; what is saved is finite: {finite}; says how to go on: {advice}",
        "nothing saved",
        code == 1 and finite and advice and "Traceback" not in words,
    )


def _fp16(folder: Path) -> Row:
    """fp16's gradient scale starts higher than this run bears."""
    config = small(folder / "fp16", compute=ComputeConfig(precision="fp16"))
    code, _ = live(replace(config, runtime=replace(config.runtime, device="cuda")), folder)
    finite = all(value.isfinite().all() for value in weights(config.out).values())
    return Row(
        "Numbers", "fp16 overflow on a GPU", 1, f"code {code}, weights finite: {finite}", "-", code == 0 and finite
    )
