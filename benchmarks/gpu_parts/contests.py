"""The whole pipeline beside rivals (pipeline.py)."""

import sys
from importlib.util import find_spec
from typing import Any

import pipeline
from gpu_parts.context import Context
from rival_environments import interpreter

TIMEOUT = 120.0
"""Seconds for one contender."""


def run_contests(context: Context, methods: tuple[str, ...]) -> None:
    """Runs every contender of some methods once, rivals first, and compares repre with the fastest of them."""
    for method in methods:
        rivals: dict[str, dict[str, Any]] = {}
        for name in context.scale.contenders[method]:
            result = run_contender(context, name, method)
            if result is not None and name.startswith("repre"):
                compare(context, method, name, result, rivals)
            elif result is not None:
                rivals[name] = result


def compare(
    context: Context, method: str, name: str, result: dict[str, Any], rivals: dict[str, dict[str, Any]]
) -> None:
    """Adds the ratios of a result to the fastest rival's, if there is one."""
    if not rivals:
        return
    best = max(rivals, key=lambda rival: rivals[rival]["images_per_s"])
    context.emit(
        "ratio",
        method=method,
        contender=name,
        best_rival=best,
        times_as_fast=result["images_per_s"] / rivals[best]["images_per_s"],
        times_its_memory=result["memory_gib"] / rivals[best]["memory_gib"],
    )


def run_contender(context: Context, name: str, method: str) -> dict[str, Any] | None:
    """Runs a contender once, adds its row, or the reason why there is none, and returns its result."""
    python = find_python(name)
    if python is None:
        context.emit("pipeline", method=method, contender=name, result="not installed")
        return None
    task: dict[str, Any] = pipeline.PRESETS[context.scale.pipeline] | {
        "method": method,
        "workers": context.scale.workers,
        "images": str(context.images),
        "out": str(context.work / f"views-{method}"),
    }
    del task["count"]
    print(f"{method}, {name}", flush=True)
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
