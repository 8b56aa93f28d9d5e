"""Runs of the command line: the published recipe on this card and on smaller ones, a kill and a resume, fp16."""

import json
import re
import signal
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_parts.context import RECIPES, Context, run_config
from gpu_parts.processes import Forked, wait_for

from repre.cli.main import main as repre_main
from repre.config import RunConfig, RuntimeConfig, dump_yaml, load_yaml
from repre.training.run_folder import RunFolder

CONTEXT_GIB = 0.6
"""Memory of a card that CUDA itself needs."""
CAPPED_STEPS = 4
"""Steps on a smaller card."""
FP16_STEPS = 6
RUN_SECONDS, SAVE_SECONDS = 75.0, 30.0
"""Time of one run, and then for it to save and end."""
OVERLAP = 5
"""Steps that a run takes after a checkpoint before it is killed."""
STOPPED = 128 + signal.SIGTERM
"""Exit code of a run that saved and ended because it was asked to."""


class Outcome(NamedTuple):
    """A run that was stopped."""

    rows: list[dict[str, Any]]
    """Its metrics, one row per step."""
    code: int | None
    """Exit code; None if it had to be killed."""
    peak_gib: float
    """Peak memory of the device, with what the allocator keeps."""
    seconds: float
    """Seconds until the first step was done."""
    output: str
    """What it printed."""


# ------------------------------------------------------------------------------------------------ the published recipe


def run_recipe(context: Context) -> None:
    """Runs the published recipe as it stands, then on cards of less memory, and compares the losses."""
    scale = context.scale
    arguments = recipe_arguments(context)
    whole = run_until(context, arguments, context.work / "recipe", step=scale.recipe_steps)
    emit_recipe(context, "this card", whole, whole, context.work / "recipe")
    for gib in scale.cards_gib if scale.device == "cuda" else ():
        out = context.work / f"recipe-{gib:g}"
        capped = run_until(context, arguments, out, step=CAPPED_STEPS, limit_gib=gib - CONTEXT_GIB)
        emit_recipe(context, f"{gib:g} GB", capped, whole, out)


def recipe_arguments(context: Context) -> list[str]:
    """Arguments of the command line, without the folder of the run."""
    options = ["--data", str(context.images), "--runtime.log-every", "1"]
    if context.scale.device == "cuda":
        return ["pretrain", RECIPES["moco-v3"], *options]
    config = run_config(context.scale, "moco-v3", branch=True, compiled="off")
    return [
        "pretrain",
        "--config",
        write_config(context, replace(config, batch_size=context.scale.recipe_batch)),
        *options,
    ]


def emit_recipe(context: Context, card: str, run: Outcome, whole: Outcome, out: Path) -> None:
    """Adds the row of a run of the recipe."""
    if not run.rows:
        context.emit("recipe", card=card, result=describe(run))
        return
    config = load_yaml(out / "config.yaml")
    rates = [row["images_per_s"] for row in run.rows[len(run.rows) // 2 :]]
    context.emit(
        "recipe",
        card=card,
        result=describe(run),
        batch=config.batch_size,
        micro_batch=config.compute.micro_batch,
        steps=len(run.rows),
        images_per_s=statistics.median(rates),
        peak_gib=run.peak_gib,
        first_step_s=run.seconds,
        loss=f"{run.rows[0]['loss']:.4f} to {run.rows[-1]['loss']:.4f}",
        largest_difference_of_losses=largest_difference(run.rows, whole.rows),
    )


def largest_difference(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Largest relative difference between the losses of steps that both runs took."""
    losses = {row["step"]: row["loss"] for row in others}
    return max(
        (abs(row["loss"] / losses[row["step"]] - 1) for row in rows if row["step"] in losses), default=float("nan")
    )


# ------------------------------------------------------------------------------------------------ kill, resume, fp16


def kill_and_resume(context: Context) -> None:
    """Kills a run some steps after a checkpoint, resumes it and compares the steps that both took."""
    out, scale = context.work / "killed", context.scale
    config = short_run(context, scale.modes[-1], checkpoint_minutes=0.05 if scale.device == "cuda" else 0.02)
    arguments = ["pretrain", "--config", write_config(context, config)]
    process = start(arguments, out, limit_gib=0.0)
    wait_for(RunFolder(out).last.is_file, process, seconds=context.seconds_left)
    saved_at = len(read_rows(out))
    reached = wait_for(lambda: len(read_rows(out)) >= saved_at + OVERLAP, process, seconds=context.seconds_left)
    process.kill()
    print(process.output(), flush=True)
    before = read_rows(out)
    name = "SIGKILL, then the same command"
    if not reached:
        context.emit("resume", of=name, result=f"ended before the kill: {process.output()[-200:]}")
        return
    killed_at = before[-1]["step"]
    resumed = run_until(context, arguments, out, step=killed_at + OVERLAP)
    found = re.search(r"resuming from step (\d+)", resumed.output)
    start_step = int(found[1]) if found else killed_at
    again = [row for row in resumed.rows if row["step"] > start_step]
    context.emit(
        "resume",
        of=name,
        result=describe(resumed),
        killed_at_step=killed_at,
        resumed_from_step=start_step,
        steps_of_both=sum(row["step"] <= killed_at for row in again),
        largest_difference_of_losses=largest_difference(again, before),
    )


def run_fp16(context: Context) -> None:
    """Compares the first losses of a run in fp16 with those of the same run in bf16."""
    context.require_cuda()
    outcomes = {}
    for precision in ("bf16", "fp16"):
        config = short_run(context, "off", checkpoint_minutes=15.0)
        config = replace(config, compute=replace(config.compute, precision=precision))  # type: ignore[arg-type]
        arguments = ["pretrain", "--config", write_config(context, config)]
        outcomes[precision] = run_until(context, arguments, context.work / precision, step=FP16_STEPS)
    fp16, bf16 = outcomes["fp16"], outcomes["bf16"]
    context.emit(
        "resume",
        of="fp16 beside bf16",
        result=describe(fp16),
        steps_of_both=len(fp16.rows),
        largest_difference_of_losses=largest_difference(fp16.rows, bf16.rows),
    )


def short_run(context: Context, compiled: str, *, checkpoint_minutes: float) -> RunConfig:
    """MoCo v3 with the branch; it is stopped long before its end."""
    config = run_config(context.scale, "moco-v3", branch=True, compiled=compiled)
    runtime = RuntimeConfig(
        device=context.scale.device,
        workers=context.scale.workers,
        log_every=1,
        checkpoint_minutes=checkpoint_minutes,
        eval_every_epochs=10**6,
        monitors=False,
    )
    return replace(config, data=str(context.images), epochs=1000, runtime=runtime)


# ------------------------------------------------------------------------------------------------ running


def run_until(context: Context, arguments: list[str], out: Path, *, step: int, limit_gib: float = 0.0) -> Outcome:
    """Runs a command in a folder until it has taken a step, then asks it to stop.

    Args:
        limit_gib: memory of the device that it may use; 0 for all of it.
    """
    started = time.monotonic()
    process = start(arguments, out, limit_gib=limit_gib)
    known = len(read_rows(out))
    limit = min(RUN_SECONDS, context.seconds_left)
    wait_for(lambda: len(read_rows(out)) > known, process, seconds=limit)
    seconds = time.monotonic() - started
    wait_for(
        lambda: bool(rows := read_rows(out)) and rows[-1]["step"] >= step,
        process,
        seconds=started + limit - time.monotonic(),
    )
    process.signal(signal.SIGTERM)
    code = process.wait(min(SAVE_SECONDS, context.seconds_left))
    if code is None:
        process.kill()
    print(process.output(), flush=True)
    peak = out.with_suffix(".peak")
    peak_gib = float(peak.read_text()) if peak.is_file() else 0.0
    return Outcome(read_rows(out), code, peak_gib, seconds, process.output())


def start(arguments: list[str], out: Path, *, limit_gib: float) -> Forked:
    """Starts a command with a folder to write to."""
    command = partial(limited_command, [*arguments, "--out", str(out)], limit_gib, out.with_suffix(".peak"))
    return Forked(command, out.with_suffix(f".{time.monotonic_ns()}.log"))


def limited_command(arguments: list[str], limit_gib: float, peak: Path) -> int:
    """Runs the command line, with less memory of the device if there is a limit, and writes the peak of that memory."""
    if limit_gib:
        limit_memory(limit_gib)
    try:
        return repre_main(arguments)
    finally:
        if torch.cuda.is_initialized():
            peak.write_text(str(torch.cuda.max_memory_reserved() / 2**30))


def limit_memory(gib: float) -> None:
    """Makes the device look and behave as if it had less memory."""
    limit = int(gib * 2**30)
    real_info = torch.cuda.mem_get_info
    torch.cuda.set_per_process_memory_fraction(limit / real_info()[1])

    def smaller_info(device: Any = None) -> tuple[int, int]:
        free, _ = real_info(device)
        return min(free, limit - torch.cuda.memory_reserved(device)), limit

    torch.cuda.mem_get_info = smaller_info


def write_config(context: Context, config: RunConfig) -> str:
    """Writes a config for `--config` and returns its path."""
    path = context.work / f"{time.monotonic_ns()}.yaml"
    path.write_text(dump_yaml(config))
    return str(path)


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The metrics that a run has written so far, without a line that is not complete."""
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def describe(run: Outcome) -> str:
    """How a run ended."""
    if run.code == STOPPED:
        return "stopped and saved"
    lines = run.output.strip().splitlines() or [""]
    return f"exit code {run.code}: {lines[-1][:200]}"
