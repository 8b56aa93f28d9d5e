"""A pre-training run through submitit, which queues it again after a time limit or a preemption.

    python examples/cluster/submitit_run.py --folder jobs --gpus 8 -- vit-small-moco-v3 --data photos --out runs/photos

Needs `pip install submitit`. The run saves every few minutes (--runtime.checkpoint-minutes) and resumes from there.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import submitit


class Pretrain:
    """`repre pretrain` with its arguments, as submitit calls it in every task."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def __call__(self) -> int:
        from repre.cli.main import main

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ.get("SLURM_RESTART_COUNT", "0")
        code = main(["pretrain", *self.arguments])
        if code:
            raise SystemExit(code)
        return code

    def checkpoint(self) -> Any:
        """Returns the job to queue after a time limit or a preemption: the same run, which resumes by itself."""
        return submitit.helpers.DelayedSubmission(Pretrain(self.arguments))


def submit(arguments: list[str], *, folder: Path, gpus: int, hours: float, cluster: str | None) -> Any:
    """Queues the run on one node, with one task per GPU.

    Args:
        arguments: the arguments of `repre pretrain`.
        folder: folder for submitit's logs and states.
        cluster: "slurm", "local" or "debug"; None lets submitit choose.
    """
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(
        name="repre",
        nodes=1,
        tasks_per_node=max(1, gpus),
        gpus_per_node=gpus,
        timeout_min=int(60 * hours),
    )
    return executor.submit(Pretrain(arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description="Queues repre pretrain through submitit.")
    parser.add_argument("--folder", type=Path, default=Path("jobs"), help="folder for submitit's logs and states")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs, each with a task")
    parser.add_argument("--hours", type=float, default=12.0, help="time limit of the job")
    parser.add_argument("--cluster", default=None, help="slurm, local or debug; by default submitit chooses")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and the arguments of `repre pretrain`")
    args = parser.parse_args()
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    job = submit(arguments, folder=args.folder, gpus=args.gpus, hours=args.hours, cluster=args.cluster)
    print(f"job {job.job_id}; its output: {job.paths.stdout}")


if __name__ == "__main__":
    main()
