"""Devices, worker counts, and freed memory that stays."""

import os
import platform
import subprocess
import sys

import pytest

from repre.errors import UserError
from repre.utils.device import pick_device, pick_workers

FAULTS = """
import resource, torch
from repre.utils.device import keep_freed_memory

assert keep_freed_memory()
for _ in range(4):  # the heap grows at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Page faults of filling 128 MiB, in a process of its own: a run calls it first, before the heap is in pieces."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = int(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout)
    assert faults < 2**27 / 4096 / 10  # a tenth of the pages


HANDED_BACK = """
from pathlib import Path
import torch
from repre.utils.device import hand_freed_memory_back, keep_freed_memory

keep_freed_memory()
kept = [torch.ones(2**20) for _ in range(64)]  # 256 MiB
del kept[:-1]
pages = [int(Path("/proc/self/statm").read_text().split()[1])]
hand_freed_memory_back()
pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
print((pages[0] - pages[1]) * 4096 // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_can_be_handed_back() -> None:
    found = subprocess.run([sys.executable, "-c", HANDED_BACK], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 200  # MiB


def test_workers_follow_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert pick_workers(None) == 5
    assert pick_workers(0) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert pick_workers(None) == 1


def test_a_device_that_is_not_there_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="'tpu0'"):
        pick_device("tpu0")
