"""NaN and infinity in pixels, gradients and weights: the run stops, or skips the step, as `runtime.not_finite` says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repre.config import ComputeConfig
from repre.training import loop, step
from repre.training.optim import OptimConfig
from repre.types import Views
from tests.faults.common import Row, has_each_step_once, run_command, tiny_run, weights_are_finite

FAULTY_STEP = 13


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    if short:
        yield _faulty_step(folder, "NaN in a gradient", "stop")
    for fault in () if short else ("NaN in a pixel", "a pixel of 3e38", "NaN in a gradient"):
        for policy in ("stop", "skip"):
            yield _faulty_step(folder, fault, policy)
    yield _faulty_step(folder, "NaN in a pixel", "skip", micro_batch=4)
    yield _diverging(folder)
    if torch.cuda.is_available() and not short:
        yield _fp16(folder)


def _faulty_step(folder: Path, fault: str, policy: str, *, micro_batch: int = 0) -> Row:
    name = f"{fault}-{policy}-{micro_batch}".replace(" ", "-")
    config = tiny_run(folder / name, compute=ComputeConfig(micro_batch=micro_batch))
    config = replace(config, runtime=replace(config.runtime, not_finite=policy))  # type: ignore[arg-type]
    code, output = run_command(config, folder, before=partial(_inject, fault))
    finite = weights_are_finite(config.out)
    report = json.loads((Path(config.out) / "not_finite.jsonl").read_text().splitlines()[0])
    is_named = report["step"] == FAULTY_STEP and len(report["files"]) == 8
    found_image = report["at_fault"] == ([] if "gradient" in fault else [report["files"][1]])
    if policy == "stop":
        resumed_code, _ = run_command(config, folder)
        ended_well = code == 1 and resumed_code == 0 and "Traceback" not in output
        outcome = "ended with code 1, and the same command resumed"
    else:
        ended_well = code == 0
        outcome = "skipped the step, and the run finished"
    listed = "the image" if report["at_fault"] else "the files of the batch"
    return Row(
        "Numbers",
        f"{fault} of one image at step {FAULTY_STEP}, policy {policy}{f', in pieces of {micro_batch}' * bool(micro_batch)}",
        1,
        f"{outcome}; reported cause: {report['cause']}; {listed} listed; all weights finite: {finite}",
        "one step" if policy == "skip" else "nothing saved",
        ended_well and finite and is_named and found_image and has_each_step_once(config.out),
    )


def _inject(fault: str) -> None:
    """Makes one step of this process faulty."""
    make_views, forward_backward = loop.make_views, step.forward_backward
    calls = {"views": 0, "steps": 0}

    def faulty_views(*args: Any, **kwargs: Any) -> Views:
        calls["views"] += 1
        views = make_views(*args, **kwargs)
        if calls["views"] == FAULTY_STEP and "pixel" in fault:
            for view in views.images:
                view[1] = float("nan") if "NaN" in fault else 3e38
        return views

    def faulty_gradients(model: Any, *args: Any, **kwargs: Any) -> Any:
        calls["steps"] += 1
        losses = forward_backward(model, *args, **kwargs)
        if calls["steps"] == FAULTY_STEP and "gradient" in fault:
            next(model.encoder.parameters()).grad.view(-1)[0] = float("nan")
        return losses

    loop.make_views, step.forward_backward = faulty_views, faulty_gradients


def _diverging(folder: Path) -> Row:
    config = tiny_run(folder / "diverging", optim=OptimConfig(lr=1e30, base_batch_size=8, warmup_fraction=0.5))
    code, output = run_command(config, folder)
    finite = not (Path(config.out) / "checkpoints/last.pt").is_file() or weights_are_finite(config.out)
    advises = "lower --optim.lr" in output.replace("\n", " ")
    return Row(
        "Numbers",
        "a learning rate of 1e30",
        1,
        f"ended with code {code}; saved weights finite: {finite}; the message advises a lower learning rate: {advises}",
        "nothing saved",
        code == 1 and finite and advises and "Traceback" not in output,
    )


def _fp16(folder: Path) -> Row:
    """The initial gradient scale of fp16 is too large for this run."""
    config = tiny_run(folder / "fp16", compute=ComputeConfig(precision="fp16"))
    code, _ = run_command(replace(config, runtime=replace(config.runtime, device="cuda")), folder)
    finite = weights_are_finite(config.out)
    return Row(
        "Numbers",
        "fp16 overflow on a GPU",
        1,
        f"ended with code {code}; all weights finite: {finite}",
        "nothing",
        code == 0 and finite,
    )
