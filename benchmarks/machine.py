"""The machine that measured, for the tables of benchmarks and experiments."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("repre", "torch", "torchvision", "timm", "pillow")


def machine(device: str) -> dict[str, Any]:
    """Returns processor, number of cores, memory, GPU (for a CUDA device) and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    content: dict[str, Any] = {"processor": _processor(), "cores": cores, "memory_gib": round(memory)}
    if device.startswith("cuda"):
        content["device"] = torch.cuda.get_device_name()
    content["python"] = platform.python_version()
    return content | {package: version(package) for package in PACKAGES}


def describe_machine(content: dict[str, Any]) -> str:
    """Returns what `machine` returned as one line of text."""
    return ", ".join(f"{key} {value}" for key, value in content.items())


def _processor() -> str:
    """Name, family and model of the processor.

    Virtual machines give several generations the same name, although one may be twice as fast as another.
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.*)", info.read_text(), re.M))
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    numbers = [f"{name} {fields[key]}" for key, name in (("cpu family", "family"), ("model", "model")) if key in fields]
    return f"{fields['model name']} ({' '.join(numbers)})" if numbers else fields["model name"]
