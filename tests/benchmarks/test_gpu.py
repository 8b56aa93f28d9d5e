"""The GPU script at toy size on the CPU: every part runs, and neither a failure nor a hang of one stops the others."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from tests.benchmarks.test_benchmarks import BENCHMARKS, run_benchmark
from tests.experiments.real_copies import write_camvid


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


OTHER_METHODS = ("step-simclr", "step-dino", "step-moby")
"""Parts that run in a test of their own, in this process."""


@pytest.mark.slow
def test_every_part_runs_at_toy_size_and_says_what_needs_cuda(tmp_path: Path) -> None:
    skipped = ("pipeline-again", "lease", *OTHER_METHODS)
    printed = run_benchmark("gpu.py", "--preset", "toy", "--skip", *skipped, "--out", str(tmp_path))
    results = json.loads((tmp_path / "gpu.json").read_text())
    parts = results["parts"]
    status = {name: part["status"] for name, part in parts.items()}
    needs_cuda = {"tests", "fp16"}
    assert status == {name: "skipped" if name in needs_cuda else "ok" for name in status}, (
        tmp_path / "gpu.log"
    ).read_text()
    assert {parts[name]["note"] for name in needs_cuda} == {"no CUDA"}
    assert torch.__version__.startswith(results["machine"]["torch"])

    rows = {name: [entry["row"] for entry in part["rows"]] for name, part in parts.items()}
    without, with_branch, cost = rows["step-moco"]
    assert with_branch["tflop_per_s"] > 0
    assert without["share_of_ceiling_percent"] > 0
    assert cost["cost_percent"] == pytest.approx([100 * (with_branch["ms"][0] / without["ms"][0] - 1)])
    assert [row["of"] for row in rows["views"]] == ["pixels to the device", "SimCLR, 2 x 32", "DINO, 2 x 32 + 2 x 16"]
    assert [row["images"] for row in rows["loader"]] == ["in files", "in device memory"]
    assert all(len(row["images_per_s_later_epochs"]) == 2 for row in rows["loader"])
    assert [row["result"] for row in rows["pipeline-simclr"]] == ["not installed", "ok"]
    assert [row["result"] for row in rows["pipeline-dino"]] == ["not installed"]
    assert rows["recipe"][0]["result"] == "stopped and saved"
    resumed = rows["resume"][0]
    assert resumed["steps_of_both"] > 0
    assert resumed["largest_difference_of_losses"] == 0  # bit-equal on the CPU

    assert (tmp_path / "gpu.md").read_text() in printed
    assert "| MoCo v3, ViT-S/16 + branch | off | 4 |" in printed
    assert "| tests | 0 | skipped: no CUDA |" in printed
    assert "aten::" in (tmp_path / "kernels.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.log", "gpu.md", "kernels.txt"]


@pytest.mark.slow
def test_the_lease_measures_what_is_missing(tmp_path: Path) -> None:
    write_camvid(tmp_path / "real", {"train": 40, "val": 0, "test": 4})
    for count in (2, 0):
        run_benchmark(
            "gpu.py",
            *["--preset", "toy", "--parts", "lease", "--real"],
            str(tmp_path / "real"),
            "--out",
            str(tmp_path / "out"),
        )
        part = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]["lease"]
        assert part["status"] == "ok", (tmp_path / "out" / "gpu.log").read_text()
        assert len(part["rows"]) == count
        for entry in part["rows"]:
            assert entry["row"]["evaluation"] == "miou-labels"
            assert "miou 0." in entry["row"]["metrics"]
    assert "2 of 2 results already exist" in (tmp_path / "out" / "gpu.log").read_text()
    assert list((tmp_path / "out" / "lease" / "real-toy").iterdir())


def test_without_real_images_the_lease_is_skipped(gpu: ModuleType, tmp_path: Path) -> None:
    context = gpu.Context(gpu.SCALES["toy"], tmp_path, tmp_path, tmp_path, tmp_path / "rows", time.monotonic())
    with pytest.raises(Exception, match="no real images: --real FOLDER") as skipped:
        gpu.PARTS["lease"].run(context)
    assert type(skipped.value).__name__ == "Skip"


@pytest.mark.parametrize("part", OTHER_METHODS)
def test_the_steps_of_the_other_methods_are_measured(gpu: ModuleType, tmp_path: Path, part: str) -> None:
    gpu.PARTS[part].run(
        gpu.Context(gpu.SCALES["toy"], tmp_path, tmp_path, tmp_path, tmp_path / "rows", time.monotonic())
    )
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert {row["table"] for row in rows} == {"step"} | ({"branch"} if part == "step-moby" else set())
    assert all(row["row"]["tflop_per_s"] > 0 for row in rows if row["table"] == "step")


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = tmp_path / "pid"

    def fail(context: object) -> None:
        raise ValueError("broken on purpose")

    def hang(context: object) -> None:
        context.emit("views", of="before the hang", ms=1.5)  # type: ignore[attr-defined]
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pid_file.write_text(str(sleeper.pid))
        time.sleep(600)

    def pass_(context: object) -> None:
        context.emit("views", of="after the hang", ms=[3.0, 1.0, 2.0])  # type: ignore[attr-defined]

    parts = {"fails": gpu.Part(60, fail), "hangs": gpu.Part(3, hang), "passes": gpu.Part(60, pass_)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "MIN_SECONDS", 1.0)
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    results = gpu.run_parts([*parts], "toy", tmp_path, work, out, time.monotonic() + 600)

    status = {name: (part["status"], part["note"]) for name, part in results["parts"].items()}
    assert status == {
        "fails": ("failed", "exit code 1: ValueError: broken on purpose"),
        "hangs": ("overran", "killed after 3 s"),
        "passes": ("ok", ""),
    }
    assert has_ended(int(pid_file.read_text()))
    assert json.loads((out / "gpu.json").read_text()) == results
    text = (out / "gpu.md").read_text()
    assert "| before the hang | 1.5 |" in text  # what was measured before the kill is kept
    assert "| after the hang | 2 (1 to 3) |" in text
    assert "broken on purpose" in (out / "gpu.log").read_text()


def test_parts_are_left_out_when_the_time_is_up(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"late": gpu.Part(60, print)})
    results = gpu.run_parts(["late"], "toy", tmp_path, tmp_path, tmp_path, time.monotonic())
    assert results["parts"]["late"]["status"] == "left out"
    assert "| late | 0 | left out: no time left |" in (tmp_path / "gpu.md").read_text()


def test_images_are_repeated_by_links(gpu: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.JPEG", "c.txt"):
        (folder / name).write_text(name)
    links = gpu.link_images(folder, tmp_path / "links", 5)
    assert [path.read_text() for path in sorted(links.iterdir())] == ["a.jpg", "b.JPEG", "a.jpg", "b.JPEG", "a.jpg"]


def test_rows_of_several_rounds_become_one_with_median_and_range(gpu: ModuleType) -> None:
    from gpu_parts.tables import table

    rounds = [{"contender": name, "batch": 8, "images_per_s": rate} for rate in (10.0, 30.0) for name in ("a", "b")]
    assert table([*rounds, {"contender": "c", "result": "failed"}]) == [
        "| contender | batch | images per s | result |",
        "|---|---|---|---|",
        "| a | 8 | 20 (10 to 30) |  |",
        "| b | 8 | 20 (10 to 30) |  |",
        "| c |  |  | failed |",
    ]


def test_repre_is_compared_with_the_fastest_rival(gpu: ModuleType) -> None:
    from gpu_parts.contests import compare

    class Rows:
        rows: ClassVar[list[tuple[str, dict[str, Any]]]] = []

        def emit(self, table: str, **row: Any) -> None:
            self.rows.append((table, row))

    rivals = {
        "slow": {"images_per_s": 5.0, "memory_gib": 1.0},
        "fast": {"images_per_s": 10.0, "memory_gib": 8.0},
    }
    compare(Rows(), "dino", "repre", {"images_per_s": 30.0, "memory_gib": 6.0}, rivals)
    ratio = {"contender": "repre", "best_rival": "fast", "times_as_fast": 3.0, "times_its_memory": 0.75}
    assert Rows.rows == [("ratio", {"method": "dino"} | ratio)]


def test_a_smaller_card_is_imitated(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_parts.runs import limit_memory

    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 2 * 2**30)
    limit_memory(12.0)
    assert fractions == [12 / 80]
    assert torch.cuda.mem_get_info() == (10 * 2**30, 12 * 2**30)


def has_ended(pid: int) -> bool:
    """Whether a process ends within a minute; a zombie that nobody reaps has ended, too."""
    status = Path(f"/proc/{pid}/status")
    for _ in range(600):
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False
