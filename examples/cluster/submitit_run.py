"""A pre-training run through submitit, which queues it again after a time limit or a preemption.

    python examples/cluster/submitit_run.py --folder jobs --gpus 8 -- vit-small-moco-v3 --data photos --out runs/photos

Needs `pip install submitit`. The run saves every few minutes (--runtime.checkpoint-minutes) and goes on from there.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import submitit


class Pretrain:
    """What every task runs; submitit calls `checkpoint` where the job has to leave, and queues what that gives."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __call__(self) -> int:
        from repre.cli.main import main

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ.get("SLURM_RESTART_COUNT", "0")
        code = main(["pretrain", *self.words])
        if code:
            raise SystemExit(code)
        return code

    def checkpoint(self) -> Any:
        """The same run again: it goes on from its last checkpoint by itself."""
        return submitit.helpers.DelayedSubmission(Pretrain(self.words))


def submit(words: list[str], *, folder: Path, gpus: int, hours: float, cluster: str | None) -> Any:
    """Queues the run on one node of `gpus` tasks; `cluster` is found by submitit, or "local", or "debug"."""
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(
        name="repre",
        nodes=1,
        tasks_per_node=max(1, gpus),
        gpus_per_node=gpus,
        timeout_min=int(60 * hours),
    )
    return executor.submit(Pretrain(words))


def main() -> None:
    parser = argparse.ArgumentParser(description="Queues repre pretrain through submitit.")
    parser.add_argument("--folder", type=Path, default=Path("jobs"), help="where submitit keeps logs and states")
    parser.add_argument("--gpus", type=int, default=1, help="tasks, each with a GPU")
    parser.add_argument("--hours", type=float, default=12.0, help="time limit of the job")
    parser.add_argument("--cluster", default=None, help="slurm, local or debug; found by itself without it")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="-- and what follows `repre pretrain`")
    given = parser.parse_args()
    words = given.words[1:] if given.words[:1] == ["--"] else given.words
    job = submit(words, folder=given.folder, gpus=given.gpus, hours=given.hours, cluster=given.cluster)
    print(f"job {job.job_id}; its words: {job.paths.stdout}")


if __name__ == "__main__":
    main()
