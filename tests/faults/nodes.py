"""Several machines, as processes with working folders of their own on one: what they do not share, and one that hangs."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from repre.config import RunConfig
from repre.training import loop
from tests.faults.common import (
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    logged_steps,
    make_photos,
    tiny_run,
)
from tests.faults.processes import run_group, start_group, wait_for_step

LIMIT = 6.0
"""Seconds without a sign of life after which processes end, in these runs."""
SLACK = 20.0
"""Seconds that ending may take beyond that, on a busy machine."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    reference = _config(folder / "reference")
    assert not any(run_group(reference, folder, 2))
    yield _separate_folders(folder)
    yield _other_files(folder)
    yield _stopped(folder, reference)
    yield _hanging(folder)
    yield _alone(folder)
    if not short:
        yield _two_agents(folder)


def _config(out: Path, **changes: Any) -> RunConfig:
    config = tiny_run(out, **changes)
    runtime = replace(config.runtime, eval_every_epochs=3, stuck_minutes=LIMIT / 60)
    return replace(config, runtime=runtime)


def _in_nodes(config: RunConfig, nodes: tuple[Path, Path]) -> tuple[RunConfig, dict[int, Callable[[], object]]]:
    """The config with paths relative to the working folder, and what puts each rank into its node."""
    local = replace(config, out="run", data="photos")
    return local, {rank: partial(os.chdir, node) for rank, node in enumerate(nodes)}


def _nodes(folder: Path, name: str) -> tuple[Path, Path]:
    one, other = folder / name / "node0", folder / name / "node1"
    for node in (one, other):
        make_photos(node / "photos")
    return one, other


def _run(
    config: RunConfig, folder: Path, on_rank: Mapping[int, Callable[[], object]]
) -> tuple[list[int], list[ForkedCommand]]:
    commands = start_group(config, folder, 2, on_rank=on_rank)
    return [command.wait() for command in commands], commands


def _said_by_all(commands: list[ForkedCommand], text: str) -> bool:
    outputs = [command.output() for command in commands]
    return all(text in output and "Traceback" not in output for output in outputs)


def _separate_folders(folder: Path) -> Row:
    nodes = _nodes(folder, "separate")
    config, on_rank = _in_nodes(_config(folder / "separate/run"), nodes)
    codes, commands = _run(config, folder / "separate", on_rank)
    refused = codes == [2, 2] and _said_by_all(commands, "does not see rank 0's folder --out run")
    left = [node.name for node in nodes if (node / "run").exists()]
    stage = start_group(config, folder / "separate", 2, on_rank=dict.fromkeys((0, 1), on_rank[0]))
    wait_for_step(replace(config, out=str(nodes[0] / "run")), 9, commands=stage)
    stage[0].signal(signal.SIGTERM)
    codes += [command.wait() for command in stage]
    before = _content(nodes[0])
    resumed, commands = _run(config, folder / "separate", on_rank)
    said = _said_by_all(commands, "it begins at step 0, rank 0 at step")
    unchanged = _content(nodes[0]) == before and not (nodes[1] / "run").exists()
    return Row(
        "Nodes",
        "two machines whose --out is not shared: a new run, and one that is resumed from the folder of rank 0",
        2,
        f"a new run: refused on both with the reason: {refused}, folders left behind: {len(left)}; resumed: "
        f"codes {resumed[0]} and {resumed[1]}, the reason on both: {said}, the run is as it was: {unchanged}",
        "nothing",
        refused and not left and resumed == [2, 2] and said and unchanged,
    )


def _content(node: Path) -> dict[str, bytes]:
    """The checkpoints and metrics of the run in a node."""
    files = sorted([*(node / "run/checkpoints").iterdir(), node / "run/metrics.jsonl"])
    return {file.name: file.read_bytes() for file in files}


def _other_files(folder: Path) -> Row:
    nodes = _nodes(folder, "files")
    config, _ = _in_nodes(_config(folder / "files/run"), nodes)
    config = replace(config, out=str(folder / "files/run"))
    results = []
    for change in ("one less", "another name"):
        shutil.rmtree(nodes[1] / "photos")
        photos = make_photos(nodes[1] / "photos")
        if change == "one less":
            (photos / "007.png").unlink()
        else:
            (photos / "007.png").rename(photos / "007a.png")
        codes, commands = _run(
            config, folder / "files", {rank: partial(os.chdir, node) for rank, node in enumerate(nodes)}
        )
        text = "rank 1 has 63 images of photos, rank 0 has 64" if change == "one less" else "and the lists differ"
        results.append(codes == [2, 2] and _said_by_all(commands, text) and not (folder / "files/run").exists())
    return Row(
        "Nodes",
        "two machines with local files of which one is missing, or has another name, on the second",
        2,
        f"{sum(results)} of 2 refused on both with code 2 and the difference, and no folder was left behind",
        "nothing",
        all(results),
    )


def _stopped(folder: Path, reference: RunConfig) -> Row:
    config = _config(folder / "stopped")
    commands = start_group(config, folder, 2)
    wait_for_step(config, 7, commands=commands)
    commands[1].signal(signal.SIGSTOP)
    stopped = time.monotonic()
    codes = [commands[0].wait()]
    seconds = time.monotonic() - stopped
    output = commands[0].output()
    said = "process 1 on" in output and "no sign of life" in output and "loop.py" in output.partition("The stack")[2]
    commands[1].signal(signal.SIGCONT)
    codes.append(commands[1].wait())
    again = run_group(config, folder, 2)
    equal = again == [0, 0] and bit_equal(config, reference) and has_each_step_once(config.out)
    return Row(
        "Nodes",
        f"SIGSTOP to one of two processes, with a limit of {LIMIT:.0f} s; then SIGCONT; then the same commands again",
        1,
        f"the other one ended after {seconds:.0f} s with code {codes[0]}, named it and printed its own stack: {said}; "
        f"the stopped one ended with code {codes[1]} when it went on; then bit-equal: {equal}",
        "the current step",
        codes == [1, 1] and said and equal and LIMIT * 0.9 <= seconds <= LIMIT + SLACK,
    )


def _hang_at_step_7() -> None:
    """Has this process wait for ever before a step, as a driver or a file system may."""
    calls, real = iter(range(10**6)), loop.train_step

    def never_returns(*args: Any, **keywords: Any) -> Any:
        if next(calls) == 7:
            time.sleep(10**6)
        return real(*args, **keywords)

    loop.train_step = never_returns


def _hanging(folder: Path) -> Row:
    config = _config(folder / "hanging")
    commands = start_group(config, folder, 2, on_rank={1: _hang_at_step_7})
    wait_for_step(config, 7, commands=commands)
    begin = time.monotonic()
    codes = [command.wait() for command in commands]
    seconds = time.monotonic() - begin
    said = all("never_returns" in command.output() for command in commands)
    stacks = "never_returns" in commands[1].output().partition("The stack of this process")[2]
    return Row(
        "Nodes",
        f"one of two processes waits for ever before a step, with a limit of {LIMIT:.0f} s",
        1,
        f"both ended after {seconds:.0f} s with codes {codes[0]} and {codes[1]} and said where each of them stood: {said}, "
        f"with the stack: {stacks}",
        "the current step",
        codes == [1, 1] and said and stacks and seconds <= LIMIT + SLACK,
    )


def _alone(folder: Path) -> Row:
    config = _config(folder / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {name: str(value) for name, value in variables.items()}
    command = ForkedCommand(cli_arguments(config, folder), folder / "alone.txt", environment=environment)
    code, said = command.wait(), "not all 2 processes met at 127.0.0.1" in command.output()
    return Row(
        "Nodes",
        "one of two processes is never started",
        1,
        f"the other one ended with code {code} and said so: {said}",
        "nothing",
        code == 1 and said and "Traceback" not in command.output(),
    )


def _two_agents(folder: Path) -> Row:
    """Uses the real launcher on each of two nodes, in processes that are not forked."""
    nodes = _nodes(folder, "agents")
    shared = _config(folder / "agents/shared")
    apart, _ = _in_nodes(_config(folder / "agents/run"), nodes)
    results = {}
    for name, config in (("shared", shared), ("apart", apart)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = cli_arguments(config, folder / "agents")
        agents = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                    *(f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "repre.cli"),
                    *arguments,
                ],
                cwd=node,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, node in enumerate(nodes)
        ]
        outputs = [agent.communicate(timeout=300)[0] for agent in agents]
        results[name] = [agent.returncode for agent in agents], outputs
    steps = logged_steps(shared.out)
    said = all("does not see rank 0's folder" in output for output in results["apart"][1])
    return Row(
        "Nodes",
        "torchrun on two nodes of one process each, with a shared --out, and with one on each node's own disk",
        2,
        f"shared: ended with codes {results['shared'][0]} after {len(steps)} steps; not shared: codes "
        f"{results['apart'][0]}, with the reason on both: {said}",
        "nothing",
        results["shared"][0] == [0, 0] and len(steps) == 24 and results["apart"][0] == [1, 1] and said,
    )
