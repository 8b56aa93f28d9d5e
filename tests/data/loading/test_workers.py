"""Worker processes: they die with the name of their file, end with the process, and leave signals to the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import AvifImagePlugin
from torch.utils.data import Dataset

from repre.data.io.sources import Source
from repre.data.labels.crops import CropSteps
from repre.data.labels.windows import WindowsConfig, WindowSet
from repre.data.loading import workers
from repre.data.loading.loader import Loader
from repre.data.loading.workers import in_workers, load_tracked
from repre.data.tools.check import check
from repre.errors import RunError, UserError

ROOT = Path(__file__).parents[3]
DEATH = r"a worker process died .*the last file that it opened is number 7\. .*remove it"


class Numbers:
    """Image i is filled with i."""

    spec, channels, labels, classes = "numbers", 3, None, []

    def __len__(self) -> int:
        return 24

    def load(self, index: int) -> np.ndarray:
        return np.full((4, 5, 3), index, np.uint8)

    def describe(self, index: int) -> str:
        return f"number {index}"


class Deadly(Numbers):
    """Image 7 kills the process that decodes it, as a faulty decoder or a full memory does."""

    def load(self, index: int) -> np.ndarray:
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index)


class DeadlyMasks(Deadly):
    """The same with a label for every pixel."""

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        image = super().load(index)
        return image, image[..., 0]

    def fingerprint(self) -> str:
        return ""


class Items(Dataset[object]):
    """Item i is image i of a source."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> object:
        return load_tracked(self.source, index)


def train() -> Iterator[object]:
    return iter(Loader(Deadly(), batch_size=6, epochs=1, seed=0, canvas=8, workers=2))


def cut_windows() -> Iterator[object]:
    windows = WindowSet(DeadlyMasks(), WindowsConfig(size=4), mean=torch.zeros(3, 1, 1))
    return in_workers(windows, range(24), workers=2)


def cut_crops() -> Iterator[object]:
    crops = CropSteps(
        DeadlyMasks(),
        list(range(24)),
        WindowsConfig(size=4),
        scale=(1.0, 2.0),
        batch_size=4,
        steps_per_epoch=6,
        seed=0,
        mean=torch.zeros(3, 1, 1),
    )
    return in_workers(crops, range(6), workers=2)


def inspect() -> Iterator[object]:
    yield check(Deadly(), workers=2)


@pytest.mark.parametrize("make", [train, cut_windows, cut_crops, inspect])
def test_the_death_of_a_worker_names_its_file(make: Callable[[], Iterator[object]]) -> None:
    with pytest.raises(RunError, match=DEATH):
        list(make())


def test_a_death_names_the_file_wherever_the_main_process_is() -> None:
    """An evaluation computes features while its workers decode ahead."""

    def evaluate() -> None:
        for _ in in_workers(Items(Deadly()), range(5, 24), workers=1):
            time.sleep(20)

    with pytest.raises(RunError, match=DEATH):
        evaluate()


def test_a_worker_that_dies_before_it_opens_a_file() -> None:
    class AtOnce(Dataset[object]):
        def __getitem__(self, index: int) -> object:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match="it had not opened a file"):
        list(in_workers(AtOnce(), range(2), workers=1))


def test_long_and_strange_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deadly, "describe", lambda self, index: f"\udcff{index}" + 2000 * "ä")
    with pytest.raises(RunError, match=r"opened is .*7ä{400,}"):
        list(in_workers(Items(Deadly()), range(5, 24), workers=1))


class FailingLoader(Iterator[object]):
    """In the place of torch's DataLoader; raises these errors one after the other."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self, *_: object, **__: object) -> "FailingLoader":
        return self

    def __next__(self) -> object:
        raise self.errors.pop(0)


def test_a_worker_that_dies_while_it_sends_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    death = RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")
    loader = FailingLoader(ConnectionResetError(104, "reset"), death)
    monkeypatch.setattr("repre.data.loading.workers.DataLoader", loader)
    with pytest.raises(RunError, match="a worker process died"):
        next(in_workers(Items(Numbers()), range(4), workers=1))


@pytest.mark.parametrize(
    "message", ["shapes differ", "Caught RuntimeError in DataLoader worker process 0.\nshapes differ"]
)
def test_other_errors_are_not_taken_for_the_death_of_a_worker(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repre.data.loading.workers.DataLoader", FailingLoader(RuntimeError(message)))
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        next(in_workers(Items(Numbers()), range(4), workers=1))


class WithError(Dataset[object]):
    """Item 2 is an error, the others are their numbers."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> object:
        return self.error if index == 2 else index


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [UserError, RunError])
def test_errors_that_are_items_are_raised_as_they_are(kind: type[Exception], workers: int) -> None:
    items = in_workers(WithError(kind("no mask of a.png")), range(4), workers=workers)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(kind, match=r"^no mask of a.png$"):
        next(items)


class Threads(Dataset[int]):
    def __getitem__(self, _: int) -> int:
        return AvifImagePlugin.DEFAULT_MAX_THREADS


def test_a_worker_decodes_with_one_thread() -> None:
    assert list(in_workers(Threads(), range(2), workers=1)) == [1, 1]
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 0, "the main process keeps all"


class OwnProcess(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return os.getpid()


def test_workers_ignore_the_signals_that_ask_a_run_to_stop() -> None:
    processes = in_workers(OwnProcess(), range(200), workers=1)
    worker = next(processes)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker, number)
    assert set(processes) == {worker}


def run(program: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program]
    return subprocess.run(command, timeout=120, check=False, cwd=ROOT, capture_output=True, text=True)


LEFT_OPEN = """
from repre.data.loading import workers
from repre.data.loading.workers import in_workers
from tests.data.loading.test_workers import Items, Numbers

items = in_workers(Items(Numbers()), range(24), workers=2)
next(items)
"""


def test_open_workers_do_not_keep_the_process_from_ending() -> None:
    done = run(LEFT_OPEN)
    assert done.returncode == 0
    assert "died" not in done.stderr


DEATH_INSIDE_DEL = """
import multiprocessing, time
from repre.data.loading import workers
from repre.data.loading.workers import in_workers
from repre.errors import RunError
from tests.data.loading.test_workers import Items, Numbers

class Witness:
    def __del__(self):
        multiprocessing.active_children()[0].kill()
        time.sleep(20)
        print("the error of torch did not reach __del__")

class Broken:
    def __del__(self):
        raise ValueError("its own error")

items = in_workers(Items(Numbers()), list(range(24)) * 100, workers=2)
next(items)
Witness()
Broken()
try:
    list(items)
except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_death_where_no_exception_can_leave_is_raised_by_the_next_item() -> None:
    done = run(DEATH_INSIDE_DEL)
    assert done.stdout.startswith("a worker process died")
    assert "DataLoader worker" not in done.stderr
    assert "its own error" in done.stderr


# ------------------------------------------------------------------------------------- the parent, and long waits


class Large(Dataset[torch.Tensor]):
    """Items that hold the process of their worker and fill any pipe."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((100_000,), os.getpid())


def consume_and_die(slot_gib: float) -> None:
    """Kills this process while its workers are stuck in handing over items; prints which processes they are."""
    workers.IN_FLIGHT_GIB = slot_gib
    items = in_workers(Large(), list(range(24)) * 100, workers=2)
    print(*{next(items)[0].item() for _ in range(8)}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


SPAWNED = """
import multiprocessing, sys
import repre.data.loading.workers as workers
import repre.utils.shared_memory as memory
from tests.data.loading.test_workers import consume_and_die

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    workers.FORK = memory.FORK = False
    consume_and_die(1e-6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("slot_gib", "in_thread"), [(2.0, False), (1e-6, False), (1e-6, True)])
def test_workers_end_when_their_parent_is_killed(slot_gib: float, in_thread: bool) -> None:
    output, own_output = os.pipe()
    if (process := os.fork()) == 0:
        os.dup2(own_output, 1)
        os.close(output)
        os.close(own_output)
        sys.stdout = os.fdopen(1, "w")
        if in_thread:
            threading.Thread(target=consume_and_die, args=(slot_gib,)).start()
            time.sleep(100)
        consume_and_die(slot_gib)
    os.close(own_output)
    with open(output) as file:
        pids = file.read()  # ends when nobody holds the output any more
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert_they_end(pids)


@pytest.mark.slow  # Python and torch start anew for each worker
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_end_when_their_parent_is_killed(tmp_path: Path, start: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(SPAWNED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(program), start]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == -signal.SIGKILL
    assert_they_end(output)


def assert_they_end(pids: str) -> None:
    until = time.monotonic() + 30
    processes = [int(pid) for pid in pids.split()]
    assert len(processes) == 2
    while any(map(is_running, processes)):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Stuck(Dataset[object]):
    """Every item but the first takes for ever, as a file on a disk that does not answer."""

    def __getitem__(self, index: int) -> object:
        if index:
            load_tracked(Numbers(), index)
            time.sleep(1000)
        return os.getpid()


def test_a_wait_for_data_says_what_it_waits_for_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seconds in (("TICK", 0.05), ("FIRST_WORD", 0.1), ("LONGEST_WAIT", 0.4)):
        monkeypatch.setattr(f"repre.data.loading.workers.{name}", seconds)
    items = in_workers(Stuck(), range(2), workers=1)
    worker = next(items)
    with pytest.raises(RunError, match=r"no data came for .* opened last: number 1\. .*run the same command again"):
        next(items)
    assert "no data for 0 s; the workers are reading number 1" in capsys.readouterr().err
    assert not is_running(worker)


def test_workers_that_nobody_needs_end_though_they_are_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch waits for each of them for 5 s, and then sends a signal that they ignore."""
    monkeypatch.setattr("repre.data.loading.worker_pool.GRACE", 0.05)
    items = in_workers(Stuck(), range(24), workers=2)
    worker = next(items)
    items.close()  # type: ignore[attr-defined]
    assert not is_running(worker)
