"""What a table has to say about where it was measured."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, memory, device and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found: dict[str, Any] = {"processor": _processor(), "cores": cores, "memory_gib": round(memory)}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.get_device_name()
    found["python"] = platform.python_version()
    return found | {package: version(package) for package in ("repre", "torch", "torchvision", "timm", "pillow")}


def words(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in found.items())


def _processor() -> str:
    """Its name, and family and model: virtual machines call several generations alike, of which one is twice as fast."""
    info = Path("/proc/cpuinfo")
    known = (
        dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.*)", info.read_text(), re.M)) if info.is_file() else {}
    )
    if "model name" not in known:
        return platform.processor() or platform.machine()
    numbers = [f"{words} {known[key]}" for key, words in (("cpu family", "family"), ("model", "model")) if key in known]
    return f"{known['model name']} ({' '.join(numbers)})" if numbers else known["model name"]
