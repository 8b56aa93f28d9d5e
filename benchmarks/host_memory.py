"""Host memory: of the loader by workers and batch size, and of every process of a training with whole and split weights.

    python benchmarks/host_memory.py loader photos/
    python benchmarks/host_memory.py ranks photos/

Loader: eight batches of canvases of 3 x 504 x 504, as a training of 224 px on a GPU requests them. It gives the seconds to
the first batch, the largest memory of the process and all its workers (proportional set size) beyond that before the loader,
what of it the workers share, the bytes in /dev/shm, and the bound that `loader.in_flight_gib` sets to what is shared.

Ranks: `repre pretrain` with a ViT-B/16 and MoCo v3, views of 64 px, a batch of 8, without validations, for four steps. It
gives the largest resident set (VmHWM) of every process, and the resident set in the last step, before the run is saved.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from machine import describe_machine, machine

from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader

HERE = Path(__file__).parent
SAMPLE_SECONDS = 0.1
CANVAS = 504
"""Side of the canvases of views of 224 px."""
BATCHES = 8
SETTINGS = (
    *("--views.size", "64", "--batch-size", "8", "--runtime.workers", "0", "--runtime.device", "cpu"),
    *(
        "--runtime.no-monitors",
        "--optim.warmup-fraction",
        "0",
        "--loader.cache",
        "off",
        "--runtime.checkpoint-minutes",
        "1000",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("loader", "ranks", "one"):
        command = commands.add_parser(name)
        command.add_argument("data", help="a folder of images; ranks uses the first 16")
        command.add_argument("--out", type=Path, default=HERE / "results")
        if name == "ranks":
            command.add_argument("--processes", type=int, nargs="*", default=[2, 4])
            command.add_argument("--recipe", default="vit-base-moco-v3")
        else:
            command.add_argument("--workers", type=int, nargs="*", default=[0, 2, 4])
            command.add_argument("--batches", type=int, nargs="*", default=[64, 256, 1024])
    args = parser.parse_args()
    if args.command == "one":
        print(json.dumps(load(args.data, args.workers[0], args.batches[0])))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure_loader(args) if args.command == "loader" else measure_ranks(args)
    results = {"machine": machine("cpu"), "rows": rows}
    (args.out / f"host-memory-{args.command}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{describe_machine(results['machine'])}")


# -------------------------------------------------------------------------------------------------------------- loader


def measure_loader(args: argparse.Namespace) -> list[dict[str, Any]]:
    print("| workers | batch | first batch, s | memory, GiB | of it shared, GiB | bound, GiB | /dev/shm, KiB |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for workers in args.workers:
        for batch in args.batches:
            command = [sys.executable, __file__, "one", args.data, "--workers", str(workers), "--batches", str(batch)]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                raise SystemExit(process.stderr[-3000:])
            row = {"workers": workers, "batch": batch} | json.loads(process.stdout.splitlines()[-1])
            rows.append(row)
            memory = " | ".join(f"{row[name] / 2**30:.2f}" for name in ("memory", "shared", "bound"))
            print(f"| {workers} | {batch} | {row['seconds']:.1f} | {memory} | {row['shm'] // 1024} |", flush=True)
    return rows


def load(data: str, workers: int, batch: int) -> dict[str, float]:
    """Requests batches of a loader, and gives seconds and bytes."""
    source = open_source(data, canvas=CANVAS, labels=False)
    epochs = -(-BATCHES * batch // (len(source) // batch * batch))
    loader = Loader(source, batch_size=batch, epochs=epochs, seed=0, canvas=CANVAS, workers=workers, log=lambda _: None)
    before, sampler = family_memory()["Pss"], Sampler()
    begin = time.monotonic()
    batches = iter(loader)
    next(batches)
    seconds = time.monotonic() - begin
    for _ in islice(batches, BATCHES - 1):
        pass
    largest = sampler.stop()
    bound = loader.cut.slots * loader.cut.slot_bytes
    return {
        "seconds": seconds,
        "memory": largest["Pss"] - before,
        "shared": largest["Pss_Shmem"],
        "bound": bound,
        "shm": largest["shm"],
    }


class Sampler:
    """The largest memory of this process and its children while it runs, as `family_memory` gives it."""

    def __init__(self) -> None:
        self._largest: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for name, value in family_memory().items():
                self._largest[name] = max(value, self._largest.get(name, 0))

    def stop(self) -> dict[str, int]:
        """Ends the sampling and returns the largest values."""
        self._ended.set()
        self._thread.join()
        return self._largest


def family_memory() -> dict[str, int]:
    """Proportional set size of this process and its children, what of it is shared, and what lies in /dev/shm, in bytes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    status = os.statvfs("/dev/shm")
    total = {"Pss": 0, "Pss_Shmem": 0, "shm": (status.f_blocks - status.f_bfree) * status.f_frsize}
    for pid in [str(os.getpid()), *children]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in total:
                total[name] += 1024 * int(value.split()[0])
    return total


# --------------------------------------------------------------------------------------------------------------- ranks


def measure_ranks(args: argparse.Namespace) -> list[dict[str, Any]]:
    print("| processes | weights | largest memory of each process, GiB | in the last step, GiB |")
    print("|---|---|---|---|")
    rows = []
    for processes in args.processes:
        for weights in ("whole", "split"):
            with tempfile.TemporaryDirectory() as folder:
                row = {"processes": processes, "weights": weights} | train(
                    args, processes, weights == "split", Path(folder)
                )
            rows.append(row)
            cells = (", ".join(f"{value:.2f}" for value in row[name]) for name in ("peak_gib", "step_gib"))
            print(f"| {processes} | {weights} | {' | '.join(cells)} |", flush=True)
    return rows


def train(args: argparse.Namespace, processes: int, split: bool, folder: Path) -> dict[str, list[float]]:
    """Trains four steps in several processes, and gives the GiB of each."""
    photos = folder / "photos"
    photos.mkdir()
    for file in sorted(Path(args.data).iterdir())[:16]:
        (photos / file.name).symlink_to(file.resolve())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = folder / "run"
    command = [sys.executable, "-m", "repre.cli", "pretrain", args.recipe, "--data", str(photos), "--out", str(run)]
    command += ["--epochs", "2", *SETTINGS, *(["--runtime.shard"] if split else [])]
    started = []
    for rank in range(processes):
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        environment |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
        environment |= {name: str(processes) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        with open(folder / f"{rank}.txt", "w") as output:
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
    peaks, steps = [0] * processes, [0] * processes
    while any(process.poll() is None for process in started):
        training = not (run / "checkpoints" / "last.pt").exists() and not list(run.glob("checkpoints/.*"))
        for rank, process in enumerate(started):
            peak, now = resident(process.pid)
            peaks[rank] = max(peaks[rank], peak)
            steps[rank] = now if training and now else steps[rank]
        time.sleep(SAMPLE_SECONDS)
    if any(process.returncode for process in started):
        raise SystemExit((folder / "0.txt").read_text()[-3000:])
    return {"peak_gib": [peak / 2**20 for peak in peaks], "step_gib": [step / 2**20 for step in steps]}


def resident(pid: int) -> tuple[int, int]:
    """The largest and the present resident set of a process in KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields.get(name, "0").split()[0]) for name in ("VmHWM", "VmRSS"))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
