"""Several processes: equal results for 1, 2 and 4, changes of their number, the death of one, torchrun's restarts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repre.config import RunConfig
from repre.data.views.view_recipes import dino_views
from repre.models.encoder import Encoder
from repre.training import loop
from repre.types import Features
from tests.faults.common import (
    FRAMEWORKS,
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    load_weights,
    logged_steps,
    make_photos,
    tiny_run,
)
from tests.ranks import rank_environments

TOLERANCE = 1e-5
"""Largest difference of weights after 24 steps in float64, relative to the largest weight of a tensor. Views are computed
in float32, and their rounding depends on how many images are computed at once."""
METRICS_TOLERANCE = 1e-6
"""Largest relative difference of metrics."""
SPLIT_METRICS_TOLERANCE = 1e-5
"""The same with weights that are split over the processes."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    for framework in [] if short else FRAMEWORKS:  # tests/frameworks/test_two_processes.py has the short version
        yield _same_for_any_number(folder, framework, (2, 4))
    yield _changing_number(folder, [1, 2] if short else [2, 4, 1, 2])
    for number in [] if short else [signal.SIGTERM, signal.SIGUSR1]:  # the row above sends one too
        yield _stop_signal(folder, number)
    for framework in ["dino"] if short else FRAMEWORKS:
        yield _split_weights(folder, framework, stages=2 if short else 4)
    yield _incomplete_batch(folder)
    yield _dying_process(folder, victims=(1,) if short else (0, 1))
    yield _torchrun_restarts(folder, kill_at=(6,) if short else (6, 15))


# ------------------------------------------------------------------------------------------------ starting processes


def start_group(
    config: RunConfig,
    folder: Path,
    count: int,
    *,
    before: Callable[[], object] | None = None,
    on_rank: Mapping[int, Callable[[], object]] | None = None,
) -> list[ForkedCommand]:
    """Starts the processes of one run as torchrun would."""
    arguments, name = cli_arguments(config, folder), Path(config.out).name
    return start_ranks(arguments, name, folder, count, before=before, on_rank=on_rank)


def start_ranks(
    arguments: list[str],
    name: str,
    folder: Path,
    count: int,
    *,
    before: Callable[[], object] | None = None,
    on_rank: Mapping[int, Callable[[], object]] | None = None,
    environment: dict[str, str] | None = None,
) -> list[ForkedCommand]:
    """Starts the processes of one command as torchrun would.

    Args:
        name: begin of the names of their output files in `folder`.
        before: called in every process before the command.
        on_rank: the same for single ranks, instead of `before`.
        environment: further variables of all of them.
    """
    return [
        ForkedCommand(
            arguments,
            folder / f"{name}.{count}.{rank}.{time.monotonic_ns()}.txt",
            before=(on_rank or {}).get(rank, before),
            environment=variables | (environment or {}),
        )
        for rank, variables in enumerate(rank_environments(count))
    ]


def run_group(config: RunConfig, folder: Path, count: int, *, before: Callable[[], object] | None = None) -> list[int]:
    """Runs the processes of one run to the end and returns their exit codes."""
    return [command.wait() for command in start_group(config, folder, count, before=before)]


def run_stages(config: RunConfig, folder: Path, stages: Sequence[tuple[int, bool]]) -> list[int]:
    """Runs one run in stages, in float64; SIGTERM to one process ends each stage but the last. Returns all exit codes.

    Args:
        stages: number of processes, and whether the weights are split over them.
    """
    codes = []
    for number, (count, shard) in enumerate(stages, start=1):
        stage = replace(config, runtime=replace(config.runtime, shard=shard))
        commands = start_group(stage, folder, count, before=use_float64)
        if number < len(stages):
            wait_for_step(config, 5 * number, commands=commands)
            commands[-1].signal(signal.SIGTERM)
        codes += [command.wait() for command in commands]
    return codes


def use_float64() -> None:
    """Makes this process compute in float64, so that differences larger than its rounding are errors."""
    torch.set_default_dtype(torch.float64)
    make_views = loop.make_views

    def double_views(*args: Any, **kwargs: Any) -> Any:
        views = make_views(*args, **kwargs)
        return replace(views, images=[x.double() for x in views.images], targets=[x.double() for x in views.targets])

    loop.make_views = double_views
    forward = Encoder.forward

    def double_forward(encoder: Encoder, x: torch.Tensor, **options: Any) -> Features:
        return forward(encoder, x.to(next(encoder.parameters()).dtype), **options)  # the monitors make their own views

    Encoder.forward = double_forward  # type: ignore[method-assign]


def config_for_processes(out: Path, framework: str = "moco-v3", **changes: Any) -> RunConfig:
    """Returns a tiny run with one validation. DINO's views all have one size, because timm resamples position embeddings
    in float32."""
    views = {"views": dino_views(32, 32, 1)} if framework == "dino" else {}
    config = tiny_run(out, framework, **(views | changes))
    return replace(config, runtime=replace(config.runtime, eval_every_epochs=3))


def wait_for_step(
    config: RunConfig, step: int, *, commands: Sequence[ForkedCommand] = (), timeout: float = 120.0
) -> None:
    """Waits until a run has logged a step.

    Args:
        commands: processes of the run.

    Raises:
        RuntimeError: a process failed.
        TimeoutError: the run did not reach the step in `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for command in commands:
            if command.poll():
                raise RuntimeError(f"exit code {command.poll()}: {command.output()[-2000:]}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            if logged_steps(config.out)[-1] >= step:
                return
        time.sleep(0.01)
    raise TimeoutError(f"{config.out} did not reach step {step} in {timeout} s")


def weight_difference(first: RunConfig, second: RunConfig) -> float:
    """Returns the largest difference of a weight relative to the largest weight of its tensor."""
    a, b = load_weights(first.out), load_weights(second.out)
    return max(
        float((a[name] - b[name]).abs().max() / a[name].abs().max().clamp(min=1e-3))
        for name in a
        if a[name].is_floating_point()
    )


def metric_difference(first: RunConfig, second: RunConfig) -> float:
    """Returns the largest relative difference of a metric at any step; timings do not count."""
    a, b = (
        [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
        for config in (first, second)
    )
    return max(
        abs(x[name] - y[name]) / max(abs(x[name]), 1e-3)
        for x, y in zip(a, b, strict=True)
        for name in x
        if name not in ("images_per_s", "data_wait") and x[name] is not None
    )


# ------------------------------------------------------------------------------------------------ rows of the matrix


def _same_for_any_number(folder: Path, framework: str, counts: tuple[int, ...]) -> Row:
    single = config_for_processes(folder / f"{framework}-1", framework)
    codes = run_group(single, folder, 1, before=use_float64)
    weights = metrics = 0.0
    for count in counts:
        config = config_for_processes(folder / f"{framework}-{count}", framework)
        codes += run_group(config, folder, count, before=use_float64)
        weights = max(weights, weight_difference(single, config))
        metrics = max(metrics, metric_difference(single, config))
    return Row(
        "Processes",
        f"{framework} in 1, {' and '.join(map(str, counts))} processes with the same global batch, float64, 24 steps",
        len(counts),
        f"weights (including teacher, queue, center and decoder) differ by at most {weights:.1e}, metrics of any step by "
        f"{metrics:.1e}",
        "nothing",
        not any(codes) and weights < TOLERANCE and metrics < METRICS_TOLERANCE,
    )


def _changing_number(folder: Path, counts: list[int]) -> Row:
    reference = config_for_processes(folder / "reference")
    config = config_for_processes(folder / "changing")
    codes = run_group(reference, folder, 1, before=use_float64)
    codes += run_stages(config, folder, [(count, False) for count in counts])
    weights, metrics = weight_difference(reference, config), metric_difference(reference, config)
    complete = has_each_step_once(config.out)
    return Row(
        "Processes",
        f"a run with {', then '.join(map(str, counts))} processes; SIGTERM to one of them ends each stage",
        len(counts) - 1,
        f"compared with one uninterrupted process, weights differ by at most {weights:.1e}, metrics by {metrics:.1e}; each "
        f"step once: {complete}",
        "nothing",
        set(codes) == {0, 143} and weights < TOLERANCE and metrics < METRICS_TOLERANCE and complete,
    )


def _split_weights(folder: Path, framework: str, *, stages: int) -> Row:
    single = config_for_processes(folder / f"{framework}-1", framework)
    config = config_for_processes(folder / f"{framework}-split", framework)
    codes = [] if Path(single.out).exists() else run_group(single, folder, 1, before=use_float64)
    codes += run_stages(config, folder, [(2, True), (1, True), (2, False), (2, True)][:stages])
    weights, metrics = weight_difference(single, config), metric_difference(single, config)
    complete = has_each_step_once(config.out)
    return Row(
        "Processes",
        f"{framework} with weights split over two processes (FSDP2), then on one, then not split on two, then split again",
        3,
        f"compared with one uninterrupted process, weights differ by at most {weights:.1e}, metrics by {metrics:.1e}; each "
        f"step once: {complete}",
        "nothing",
        set(codes) <= {0, 143} and weights < TOLERANCE and metrics < SPLIT_METRICS_TOLERANCE and complete,
    )


def _two_process_reference(folder: Path) -> RunConfig:
    """Returns an uninterrupted run of two processes; runs it only once."""
    config = config_for_processes(folder / "two")
    if not Path(config.out).exists():
        assert not any(run_group(config, folder, 2))
    return config


def _stop_signal(folder: Path, number: signal.Signals) -> Row:
    reference, config = _two_process_reference(folder), config_for_processes(folder / f"two-{number.name}")
    commands = start_group(config, folder, 2)
    wait_for_step(config, 7, commands=commands)
    commands[1].signal(number)
    signaled = time.monotonic()
    codes = [command.wait() for command in commands]
    seconds = time.monotonic() - signaled
    resumed_codes = run_group(config, folder, 2)
    equal = bit_equal(reference, config)
    return Row(
        "Processes",
        f"{number.name} to one of two processes; then the same two commands again",
        1,
        f"both saved and ended within {seconds:.1f} s with codes {codes[0]} and {codes[1]}; then bit-equal: {equal}",
        "nothing",
        128 + number in codes
        and 0 not in codes
        and resumed_codes == [0, 0]
        and equal
        and has_each_step_once(config.out),
    )


def _incomplete_batch(folder: Path) -> Row:
    """The last images of an epoch, if they fill no batch, are left out by every process."""
    data = str(make_photos(folder / "uneven", 61))
    single, config = (config_for_processes(folder / f"uneven-{count}", data=data) for count in (1, 2))
    codes = run_group(single, folder, 1, before=use_float64) + run_group(config, folder, 2, before=use_float64)
    weights, complete = weight_difference(single, config), has_each_step_once(config.out, 21)
    return Row(
        "Processes",
        "61 images in batches of 8 on 1 and 2 processes",
        1,
        f"all ended with codes {codes}; 21 steps each: {complete}; weights differ by at most {weights:.1e}",
        "nothing",
        not any(codes) and complete and weights < TOLERANCE,
    )


def _dying_process(folder: Path, *, victims: tuple[int, ...]) -> Row:
    reference = _two_process_reference(folder)
    times = explained = equal = complete = 0
    slowest = 0.0
    for victim in victims:
        config = config_for_processes(folder / f"dying-{victim}")
        commands = start_group(config, folder, 2)
        wait_for_step(config, 9, commands=commands)
        commands[victim].signal()
        killed = time.monotonic()
        codes = [command.wait(120) for command in commands]
        slowest, times = max(slowest, time.monotonic() - killed), times + 1
        output = commands[1 - victim].output().replace("\n", " ")
        explained += (
            codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1 and "another process of this run" in output
        )
        equal += run_group(config, folder, 2) == [0, 0] and bit_equal(reference, config)
        complete += has_each_step_once(config.out)
    return Row(
        "Processes",
        "SIGKILL to one of two processes, first to one, then to the other; then the same commands again",
        times,
        f"the other process ended within {slowest:.1f} s with code 1 and a message that explains it, {explained} times; "
        f"then {equal} bit-equal, {complete} with each step once",
        "the current step",
        explained == equal == complete == times,
    )


def _torchrun_restarts(folder: Path, *, kill_at: tuple[int, ...]) -> Row:
    """Uses the real launcher, in processes that are not forked."""
    reference, config = _two_process_reference(folder), config_for_processes(folder / "elastic")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    arguments = [*launcher, "-m", "repre.cli", *cli_arguments(config, folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for step in kill_at:
            wait_for_step(config, step)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            time.sleep(3)
        output = process.communicate(timeout=300)[0]
    equal = Path(config.out, "summary.json").is_file() and bit_equal(reference, config)
    complete = has_each_step_once(config.out)
    return Row(
        "Processes",
        "torchrun --max-restarts=2 with two processes, one of which is killed twice",
        len(kill_at),
        f"restarted each time ({output.count('resuming from step')} times from a checkpoint), ended with code "
        f"{process.returncode}; bit-equal to an uninterrupted run: {equal}; each step once: {complete}",
        "the current step",
        process.returncode == 0 and equal and complete,
    )
