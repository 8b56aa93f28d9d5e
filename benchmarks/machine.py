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
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.*)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()
