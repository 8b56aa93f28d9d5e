"""The whole pipeline beside rivals (pipeline.py), as often as the time allows."""

import sys
import time
from importlib.util import find_spec
from typing import Any

import pipeline
from gpu_parts.context import Context
from rival_environments import interpreter

TIMEOUT = 120.0
"""Seconds for one contender."""


def run_contests(context: Context) -> None:
    """Runs every contender of every method, in rounds; another round begins only if it fits into the time left."""
    scale = context.scale
    for number in range(scale.rounds):
        started = time.monotonic()
        for method, names in scale.contenders.items():
            results = {name: run_contender(context, name, method, number=number) for name in names}
            compare(context, method, {name: result for name, result in results.items() if result is not None})
        if context.seconds_left < 1.1 * (time.monotonic() - started):
            break


def compare(context: Context, method: str, results: dict[str, dict[str, Any]]) -> None:
    """Adds the ratios of this round to the fastest rival of the same round."""
    rivals = {name: result for name, result in results.items() if not name.startswith("repre")}
    if not rivals:
        return
    best = max(rivals, key=lambda name: rivals[name]["images_per_s"])
    for name in [name for name in results if name not in rivals]:
        context.emit(
            "ratio",
            method=method,
            contender=name,
            best_rival=best,
            times_as_fast=results[name]["images_per_s"] / rivals[best]["images_per_s"],
            times_its_memory=results[name]["memory_gib"] / rivals[best]["memory_gib"],
        )


def run_contender(context: Context, name: str, method: str, *, number: int) -> dict[str, Any] | None:
    """Runs a contender once, adds its row, or the reason why there is none, and returns its result."""
    python = find_python(name)
    if python is None:
        if number == 0:
            context.emit("pipeline", method=method, contender=name, result="not installed")
        return None
    task: dict[str, Any] = pipeline.PRESETS[context.scale.pipeline] | {
        "method": method,
        "workers": context.scale.workers,
        "images": str(context.images),
        "out": str(context.work / f"views-{method}"),
    }
    del task["count"]
    print(f"round {number + 1}: {method}, {name}", flush=True)
    try:
        result = pipeline.run(name, python, task, timeout=min(TIMEOUT, context.seconds_left))
    except pipeline.ContenderFailed as error:
        print(error, flush=True)
        context.emit("pipeline", method=method, contender=name, result="failed")
        return None
    context.emit(
        "pipeline",
        method=method,
        contender=name,
        result="ok",
        batch=task["batch"],
        images_per_s=result["images_per_s"],
        wait_percent=100 * result["data_wait"],
        peak_gib=result["memory_gib"],
        does=result["does"],
    )
    return result


def find_python(name: str) -> str | None:
    """The interpreter that can import a contender's package: its environment's or this one; None without one."""
    environment = pipeline.CONTENDERS[name].environment
    if environment is None:
        return sys.executable
    if interpreter(environment).exists():
        return str(interpreter(environment))
    return sys.executable if find_spec(environment.replace("-", "_")) else None
