"""The cluster launchers, without a cluster: scripts replace srun and scontrol."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOY = [
    *("quickstart", "--data", "scenes:64:32", "--epochs", "6", "--batch-size", "8", "--views.size", "32"),
    *("--framework.hidden-dim", "32", "--framework.out-dim", "16"),
    *("--encoder.model-args.embed-dim", "24", "--encoder.model-args.depth", "2"),
    *("--runtime.workers", "0", "--runtime.device", "cpu"),
    *("--runtime.log-every", "1", "--runtime.monitor-samples", "16"),
]
"""Arguments of `repre pretrain` for a toy run."""

SRUN = """#!/usr/bin/env bash
# Starts two tasks. Forwards USR1 to both, as Slurm does with `--signal`. Exits with the largest exit code.
pids=()
trap 'kill -USR1 "${pids[@]}"' USR1
for number in 0 1; do
  SLURM_PROCID=$number SLURM_LOCALID=$number SLURM_NTASKS=2 "$@" & pids+=($!)
done
largest=0
for pid in "${pids[@]}"; do
  while true; do
    wait "$pid"; code=$?
    kill -0 "$pid" 2>/dev/null || break   # a trap interrupts `wait`
  done
  ((code > largest)) && largest=$code
done
exit $largest
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" >> requeued ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Environment variables of a Slurm job, with the replaced srun and scontrol on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "OMP_NUM_THREADS": "1", "PATH": path}
    return os.environ | variables | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.slow
def test_a_slurm_job_is_queued_again_and_resumes(tmp_path: Path, slurm: dict[str, str]) -> None:
    command = ["bash", str(ROOT / "examples/cluster/slurm.sh"), *TOY, "--out", "run"]
    metrics = tmp_path / "run/metrics.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, env=slurm, start_new_session=True) as job:
        end = time.monotonic() + 120
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
            assert time.monotonic() < end
            assert job.poll() is None, "the job ended by itself"
            time.sleep(0.05)
        srun = subprocess.run(["pgrep", "-f", str(tmp_path / "bin/srun")], capture_output=True, text=True, check=True)
        os.kill(int(srun.stdout.split()[0]), signal.SIGUSR1)
        assert job.wait(timeout=120) == 0
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]]
    assert not (tmp_path / "run/summary.json").exists()
    resumed = subprocess.run(command, cwd=tmp_path, env=slurm | {"SLURM_RESTART_COUNT": "1"}, timeout=300, check=False)
    assert resumed.returncode == 0
    assert (tmp_path / "run/summary.json").is_file()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]], "a finished run is queued again"


@pytest.mark.slow
def test_a_mistake_is_not_queued_again(tmp_path: Path, slurm: dict[str, str]) -> None:
    command = ["bash", str(ROOT / "examples/cluster/slurm.sh"), "no-such-recipe"]
    assert subprocess.run(command, cwd=tmp_path, env=slurm, timeout=120, check=False).returncode == 2
    assert not (tmp_path / "requeued").exists()


@pytest.mark.slow
def test_submitit_runs_the_job_and_queues_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    spec = importlib.util.spec_from_file_location("submitit_run", ROOT / "examples/cluster/submitit_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "submitit_run", module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "examples/cluster"), *sys.path]))
    out = tmp_path / "run"
    job = module.submit([*TOY, "--out", str(out)], folder=tmp_path / "jobs", gpus=0, hours=1.0, cluster="local")
    assert job.result() == 0, job.stderr()
    assert (out / "summary.json").is_file()
    queued = module.Pretrain(["quickstart"]).checkpoint()
    assert isinstance(queued, submitit.helpers.DelayedSubmission)
    assert queued.function.arguments == ["quickstart"]
