"""Several processes: one training for 1, 2 and 4 of them, a change of their number, deaths of one, torchrun's restarts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repre.config import RunConfig
from repre.data.views.render import dino_views
from repre.training import loop
from tests.faults.common import FRAMEWORKS, Life, Row, command, equal, photos, small, steps, weights, whole

TOLERANCE = 1e-5
"""Of weights after 24 steps in float64, relative to the largest weight of a tensor: views are computed in float32, whose
rounding depends on how many images are computed at once."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    for framework in ["moby"] if short else FRAMEWORKS:
        yield _as_one(folder, framework, (2,) if short else (2, 4))
    yield _changing(folder, [1, 2] if short else [2, 4, 1, 2])
    for number in (signal.SIGTERM, signal.SIGUSR1):
        yield _asked(folder, number)
    for framework in ["dino"] if short else FRAMEWORKS:
        yield _split(folder, framework)
    yield _uneven(folder)
    yield _dying(folder)
    yield _torchrun(folder)


def group(config: RunConfig, folder: Path, count: int, *, before: Callable[[], object] | None = None) -> list[Life]:
    """The processes of one run, as torchrun would start them."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    made, words = [], command(config, folder)
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        printed = folder / f"{Path(config.out).name}.{count}.{rank}.{time.monotonic_ns()}.txt"
        more = {name: str(value) for name, value in place.items()}
        made.append(Life(words, printed, before=before, **more))
    return made


def double() -> None:
    """Everything in float64, so that what differs is more than rounding."""
    torch.set_default_dtype(torch.float64)
    real = loop.make_views

    def made(*given: Any, **more: Any) -> Any:
        views = real(*given, **more)
        return replace(views, images=[x.double() for x in views.images], targets=[x.double() for x in views.targets])

    loop.make_views = made


def plain(out: Path, framework: str = "moco-v3", **changes: Any) -> RunConfig:
    """DINO's small views have the side of the large ones here: timm resamples positions in float32."""
    views = {"views": dino_views(32, 32, 1)} if framework == "dino" else {}
    config = small(out, framework, **(views | changes))
    return replace(config, runtime=replace(config.runtime, eval_every_epochs=3))


def _apart(one: RunConfig, other: RunConfig) -> float:
    a, b = weights(one.out), weights(other.out)
    return max(
        float((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-3)) for k in a if a[k].is_floating_point()
    )


def _metrics_apart(one: RunConfig, other: RunConfig) -> float:
    files = [[json.loads(line) for line in (Path(c.out) / "metrics.jsonl").open()] for c in (one, other)]
    skipped = {"images_per_s", "data_wait"}
    return max(
        abs(a[name] - b[name]) / max(abs(a[name]), 1e-3)
        for a, b in zip(*files, strict=True)
        for name in a
        if name not in skipped and a[name] is not None
    )


def _as_one(folder: Path, framework: str, counts: tuple[int, ...]) -> Row:
    alone = plain(folder / f"{framework}-1", framework)
    codes = [life.wait() for life in group(alone, folder, 1, before=double)]
    far = far_metrics = 0.0
    for count in counts:
        config = plain(folder / f"{framework}-{count}", framework)
        codes += [life.wait() for life in group(config, folder, count, before=double)]
        far, far_metrics = max(far, _apart(alone, config)), max(far_metrics, _metrics_apart(alone, config))
    return Row(
        "Processes",
        f"{framework} in 1, {' and '.join(map(str, counts))} processes with the same global batch, float64, 24 steps",
        len(counts),
        f"weights (teacher, queue, center and decoder among them) differ by at most {far:.1e}, metrics of any step by "
        f"{far_metrics:.1e}",
        "nothing",
        not any(codes) and far < TOLERANCE and far_metrics < 1e-6,
    )


def _in_turn(config: RunConfig, folder: Path, lives: list[tuple[int, bool]]) -> list[int]:
    """One run in several lives, each but the last ended by SIGTERM to one of its processes; all exit codes.

    Args:
        lives: of each, how many processes, and whether the weights are split over them.
    """
    codes = []
    for number, (count, split) in enumerate(lives, start=1):
        now = replace(config, runtime=replace(config.runtime, shard=split))
        processes = group(now, folder, count, before=double)
        if number < len(lives):
            _wait_for(config, 5 * number)
            processes[-1].signal(signal.SIGTERM)
        codes += [life.wait() for life in processes]
    return codes


def _changing(folder: Path, counts: list[int]) -> Row:
    """A run that is stopped and goes on with another number of processes, several times."""
    straight, config = plain(folder / "straight"), plain(folder / "changing")
    codes = [life.wait() for life in group(straight, folder, 1, before=double)]
    codes += _in_turn(config, folder, [(count, False) for count in counts])
    far, far_metrics = _apart(straight, config), _metrics_apart(straight, config)
    return Row(
        "Processes",
        f"a run that goes on with {', then '.join(map(str, counts))} processes, stopped by SIGTERM to one of them",
        len(counts) - 1,
        f"against one process that was never stopped, weights differ by at most {far:.1e}, metrics by {far_metrics:.1e}; "
        f"each step once: {whole(config.out)}",
        "nothing",
        set(codes) == {0, 143} and far < TOLERANCE and far_metrics < 1e-6 and whole(config.out),
    )


def _split(folder: Path, framework: str) -> Row:
    """Weights split over two processes, from the middle on over one, then over two again without splitting."""
    alone, config = plain(folder / f"{framework}-1", framework), plain(folder / f"{framework}-split", framework)
    codes = []
    if not Path(alone.out).exists():
        codes += [life.wait() for life in group(alone, folder, 1, before=double)]
    codes += _in_turn(config, folder, [(2, True), (1, True), (2, False), (2, True)])
    far, far_metrics = _apart(alone, config), _metrics_apart(alone, config)
    return Row(
        "Processes",
        f"{framework} with weights split over two processes (FSDP2), then on one, then whole on two, then split again",
        3,
        f"against one process that was never stopped, weights differ by at most {far:.1e}, metrics by {far_metrics:.1e}; "
        f"each step once: {whole(config.out)}",
        "nothing",
        set(codes) <= {0, 143} and far < TOLERANCE and far_metrics < 1e-5 and whole(config.out),
    )


def _wait_for(config: RunConfig, step: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if steps(config.out)[-1] >= step:
                return
        time.sleep(0.01)
    raise TimeoutError(f"no step {step}")


def _asked(folder: Path, number: signal.Signals) -> Row:
    straight, config = plain(folder / "two"), plain(folder / f"two-{number.name}")
    if not Path(straight.out).exists():
        assert not any(life.wait() for life in group(straight, folder, 2))
    lives = group(config, folder, 2)
    _wait_for(config, 7)
    lives[1].signal(number)
    sent = time.monotonic()
    codes = [life.wait() for life in lives]
    took = time.monotonic() - sent
    again = [life.wait() for life in group(config, folder, 2)]
    same = equal(straight.out, config.out)
    return Row(
        "Processes",
        f"{number.name} to one of two processes; the same two commands again",
        1,
        f"both saved and ended within {took:.1f} s with codes {codes[0]} and {codes[1]}; afterwards bit-equal: {same}",
        "nothing",
        128 + number in codes and 0 not in codes and again == [0, 0] and same and whole(config.out),
    )


def _uneven(folder: Path) -> Row:
    """The last images of an epoch that fill no batch are left out, on every process alike."""
    data = str(photos(folder / "uneven", 61))
    one, two = (plain(folder / f"uneven-{n}", data=data) for n in (1, 2))
    codes = [life.wait() for n, config in ((1, one), (2, two)) for life in group(config, folder, n, before=double)]
    far = _apart(one, two)
    return Row(
        "Processes",
        "61 images in batches of 8 on 1 and 2 processes",
        1,
        f"all ended with codes {codes}; 21 steps each: {whole(two.out, 21)}; weights differ by at most {far:.1e}",
        "nothing",
        not any(codes) and whole(two.out, 21) and far < TOLERANCE,
    )


def _dying(folder: Path) -> Row:
    straight = plain(folder / "two")
    times = codes_ok = same = once = 0
    slowest = 0.0
    for victim in (0, 1):
        config = plain(folder / f"dying-{victim}")
        lives = group(config, folder, 2)
        _wait_for(config, 9)
        lives[victim].signal()
        sent = time.monotonic()
        codes = [life.wait(120) for life in lives]
        slowest, times = max(slowest, time.monotonic() - sent), times + 1
        said = lives[1 - victim].words().replace("\n", " ")
        codes_ok += (
            codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1 and "another process of this run" in said
        )
        again = [life.wait() for life in group(config, folder, 2)]
        same += again == [0, 0] and equal(straight.out, config.out)
        once += whole(config.out)
    return Row(
        "Processes",
        "SIGKILL to one of two processes, the first and the second in turn; the same commands again",
        times,
        f"the other ended within {slowest:.1f} s with code 1 and said why, {codes_ok} times; {same} bit-equal afterwards, "
        f"{once} with each step once",
        "the step in hand",
        codes_ok == same == once == times,
    )


def _torchrun(folder: Path) -> Row:
    """The real launcher, in processes of its own."""
    straight, config = plain(folder / "two"), plain(folder / "elastic")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    words += ["-m", "repre.cli", *command(config, folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for step in (6, 15):
            _wait_for(config, step)
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            time.sleep(3)
        printed = run.communicate(timeout=300)[0]
    same = Path(config.out, "summary.json").is_file() and equal(straight.out, config.out)
    return Row(
        "Processes",
        "torchrun --max-restarts=2 with two processes, of which one is killed twice",
        2,
        f"restarted both times ({printed.count('going on from step')} times from a checkpoint), ended with code "
        f"{run.returncode}; bit-equal to a run without deaths: {same}; each step once: {whole(config.out)}",
        "the step in hand",
        run.returncode == 0 and same and whole(config.out),
    )
