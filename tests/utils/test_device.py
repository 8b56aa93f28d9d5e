"""Devices, precisions, numbers of workers, and freed memory that the process keeps."""

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from repre.errors import UserError
from repre.utils import device
from repre.utils.device import peak_flops, pick_device, pick_precision, pick_workers

FAULTS = """
import resource, torch
from repre.utils.device import cache_freed_memory

assert cache_freed_memory()
torch.ones(2**26)  # leaves a free block that the next ones fit in, whatever glibc adds to align them
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Counts the page faults of filling 128 MiB, in a process of its own, whose heap is not in pieces yet."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = int(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout)
    assert faults < 2**27 / 4096 / 10  # a tenth of the pages


RELEASED = """
from pathlib import Path
import torch
from repre.utils.device import cache_freed_memory, release_freed_memory

cache_freed_memory()
tensors = [torch.ones(2**20) for _ in range(64)]  # 256 MiB
del tensors[:-1]
pages = [int(Path("/proc/self/statm").read_text().split()[1])]
release_freed_memory()
pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
print((pages[0] - pages[1]) * 4096 // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_can_be_released() -> None:
    process = subprocess.run([sys.executable, "-c", RELEASED], capture_output=True, text=True, check=True)
    assert int(process.stdout) > 200  # MiB


def test_workers_follow_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert pick_workers(None) == 5
    assert pick_workers(0) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert pick_workers(None) == 1


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four machines of 96 cores with eight ranks each: the ranks of the other machines do not count."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("repre.utils.dist.world_size", lambda: 32)
    assert pick_workers(None) == 2
    monkeypatch.setattr("repre.utils.dist._hosts", [f"node{number // 8}" for number in range(32)])
    assert pick_workers(None) == 11
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert pick_workers(None) == 16


def test_a_missing_device_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="'tpu0'"):
        pick_device("tpu0")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
    ],
)
def test_the_peak_belongs_to_the_device_of_that_name(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak
    assert peak_flops(torch.device("cuda"), torch.float32) is None
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None


class Cuda:
    """A machine with CUDA devices, or with something wrong about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, count: int = 2) -> None:
        device._open_cuda.cache_clear()
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch, "ones", lambda *args, device: torch.zeros(1))


def raiser(error: Exception) -> Any:
    def fail(*args: object, **settings: object) -> None:
        raise error

    return fail


def test_a_cuda_device_is_used_once_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setattr(torch, "ones", raiser(AssertionError("it was used already")))
    assert pick_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("cuda:7", 2, "there is no cuda:7, this process sees 2 CUDA devices; use cuda:0 to cuda:1"),
        ("cuda:1", 1, "there is no cuda:1, this process sees 1 CUDA devices; use cuda:0"),
        ("cuda", 0, "there is no cuda:0, this process sees 0 CUDA devices; use cpu"),
    ],
)
def test_an_unknown_cuda_device_is_named(monkeypatch: pytest.MonkeyPatch, name: str, count: int, words: str) -> None:
    Cuda(monkeypatch, count=count)
    with pytest.raises(UserError, match=words):
        pick_device(name)


def test_more_processes_than_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch, count=2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"no cuda:2.*more processes than there are GPUs; lower --nproc-per-node"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("Found no NVIDIA driver on your system. Please check that"),
            "Found no NVIDIA driver .*; install it .*, or use cpu",
        ),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please"),
            "too old.*; update the",
        ),
        (
            torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore"),
            "another process",
        ),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), "pytorch.org"),
        (torch.OutOfMemoryError("CUDA out of memory."), "no memory left, because other processes use it"),
        (torch.AcceleratorError("CUDA error: out of memory"), "no memory left, because other processes use it"),
    ],
)
@pytest.mark.parametrize("where", ["init", "ones"])
def test_what_is_wrong_with_driver_or_device_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str, where: str
) -> None:
    Cuda(monkeypatch)
    monkeypatch.setattr(torch.cuda if where == "init" else torch, where, raiser(error))
    with pytest.raises(UserError, match=rf"runtime\.device: cuda:0.*{words}") as failure:
        pick_device("cuda:0")
    assert "\n" not in str(failure.value)
    assert failure.value.code == 2


def test_a_build_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="was built without CUDA; install a build with CUDA"):
        pick_device("cuda")


def test_precisions_are_data_types_and_float16_needs_a_gpu() -> None:
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) is torch.float32
    assert pick_precision("bf16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU; use bf16 or fp32"):
        pick_precision("fp16", cpu)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_device_that_is_not_there_is_named() -> None:
    assert pick_device("cuda").type == "cuda"
    with pytest.raises(UserError, match="there is no cuda:99"):
        pick_device("cuda:99")
