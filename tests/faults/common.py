"""Shared parts: a tiny run, forked processes that are cheap to start and to kill, comparisons of runs.

A `ForkedCommand` is `repre ...` in a forked process. Its modules are loaded already; everything else happens as in a
process that a shell started. Killing it is a real SIGKILL, nothing is simulated.
"""

import json
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from repre.cli import main as cli
from repre.config import RunConfig, RuntimeConfig, dump_yaml
from repre.data.scenes import Scenes, ScenesConfig
from repre.data.views.view_recipes import MaskConfig, dino_views, moco_v3_views, simmim_views
from repre.frameworks import (
    BYOLConfig,
    DINOConfig,
    FrameworkConfig,
    MoBYConfig,
    MoCoV3Config,
    PixelsConfig,
    SimCLRConfig,
)
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.training.optim import OptimConfig

for _name in ("timm", "torchvision", "torch.utils.tensorboard", "sympy", "repre.training.loop", "repre.api.runs"):
    import_module(_name)  # commands import these when they need them; here it is done once for all forked processes

FRAMEWORKS: dict[str, FrameworkConfig] = {
    "moco-v3": MoCoV3Config(hidden_dim=24, out_dim=16),
    "dino": DINOConfig(hidden_dim=24, bottleneck_dim=8, prototypes=32, freeze_last_layer=0.0),
    "moby": MoBYConfig(hidden_dim=24, out_dim=16, queue=32),
    "byol": BYOLConfig(hidden_dim=24, out_dim=16),
    "simclr": SimCLRConfig(hidden_dim=24, out_dim=16),
    "pixels": PixelsConfig(),
}
RUNTIME = RuntimeConfig(
    device="cpu", workers=0, log_every=1, eval_every_epochs=2, checkpoint_minutes=0.0, monitor_samples=8, trackers=()
)
"""Saves a checkpoint after every step, so that a kill loses little and often hits a checkpoint."""
STEPS = 24
"""Steps of a tiny run."""


MOST_SECONDS = 5.0
"""Within which a command ends that was asked to stop."""


@dataclass
class Row:
    """One row of the fault matrix."""

    area: str
    """Kind of fault, in words."""
    fault: str
    """What was broken."""
    times: int
    """How often it was broken."""
    happened: str
    """What happened."""
    lost: str
    """The most that was lost."""
    passed: bool
    """Whether what happened is what the documentation promises."""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    """Further values for results.json."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for results.json."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------------- tiny runs


def make_photos(folder: Path, count: int = 64) -> Path:
    """Writes embedded scenes as PNG files unless the folder exists, and returns the folder."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        scenes = Scenes(count, config=ScenesConfig(size=32))
        for index in range(count):
            Image.fromarray(scenes.load(index)).save(folder / f"{index:03d}.png")
    return folder


def tiny_run(out: Path, framework: str = "moco-v3", **changes: Any) -> RunConfig:
    """Returns a run of `STEPS` steps: a ViT of 32 channels with the branch, on 64 images in a folder beside `out`.

    Args:
        changes: fields of the config to replace.
    """
    views = dino_views(32, 16, 1) if framework == "dino" else moco_v3_views(32)
    if framework == "pixels":
        views = replace(simmim_views(), size=32, mask=MaskConfig(kind="random", patch=8))
    encoder = EncoderConfig(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        model_args={"embed_dim": 32, "depth": 2, "num_heads": 2},
        drop_path=0.2,
    )
    config = RunConfig(
        data=str(make_photos(out.parent / "photos")),
        out=str(out),
        epochs=3,
        batch_size=8,
        encoder=encoder,
        framework=FRAMEWORKS[framework],
        decoder=DecoderConfig(dim=16),
        views=views,
        optim=OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1),
        runtime=RUNTIME,
    )
    return replace(config, **changes)


def cli_arguments(config: RunConfig, folder: Path) -> list[str]:
    """Writes a config into `folder` and returns the arguments of `repre` that start or resume its run."""
    path = folder / f"{Path(config.out).name}.yaml"
    path.write_text(dump_yaml(config))
    return ["pretrain", "--config", str(path), "--out", config.out]


# ------------------------------------------------------------------------------------------------------- processes


def renew_thread_pool() -> None:
    """Has a forked process make torch's pool of threads anew, in its main thread.

    After a fork torch drops the parent's pool at the first use and makes another one. Two threads of autograd that come at
    once may see neither, and the process ends with "Invalid thread pool!".
    """
    torch.set_num_threads(torch.get_num_threads())


class ForkedCommand:
    """`repre ARGUMENTS` in a forked process; its output goes to a file.

    Args:
        arguments: the arguments of `repre`.
        output_file: file for the output.
        before: called in the new process before the command, to break something there.
        environment: environment variables of the process.
    """

    def __init__(
        self,
        arguments: list[str],
        output_file: Path,
        *,
        before: Callable[[], object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.output_file = output_file
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                file = os.open(output_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(file, 1)
                os.dup2(file, 2)
                sys.stdout, sys.stderr = (  # those of the parent have a buffer, or belong to pytest
                    os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2)
                )
                os.environ.update(environment or {})
                renew_thread_pool()
                if before is not None:
                    before()
                code = cli.main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the process."""
        os.kill(self.pid, number)

    def stop(self, number: int) -> tuple[int, float]:
        """Sends a signal and waits; returns the exit code as a shell gives it, and the seconds that ending took."""
        self.signal(number)
        signaled = time.monotonic()
        code = self.wait()
        return 128 - code if code < 0 else code, time.monotonic() - signaled

    def wait(self, timeout: float = 300.0) -> int:
        """Waits for the process and returns its exit code, negative for the signal that killed it.

        Raises:
            TimeoutError: the process did not end in `timeout` seconds; it was killed.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.signal()
                os.waitpid(self.pid, 0)
                raise TimeoutError(
                    f"the process did not end in {timeout} s; its output ends with: {self.output()[-500:]}"
                )
            time.sleep(0.005)
        return code

    def poll(self) -> int | None:
        """Returns the exit code, negative for the signal that killed the process; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def output(self) -> str:
        """Returns what the process printed so far."""
        return self.output_file.read_text(errors="replace") if self.output_file.exists() else ""


def run_command(config: RunConfig, folder: Path, *, before: Callable[[], object] | None = None) -> tuple[int, str]:
    """Starts or resumes a run in a forked process and waits for it; returns exit code and output.

    Args:
        before: see `ForkedCommand`.
    """
    output_file = folder / f"{Path(config.out).name}.{time.monotonic_ns()}.txt"
    command = ForkedCommand(cli_arguments(config, folder), output_file, before=before)
    code, output = command.wait(), command.output()
    if "Traceback" in output:
        print(output[-3000:], file=sys.stderr)
    return code, output


def reference_run(out: Path, **changes: Any) -> RunConfig:
    """Runs a tiny run that nothing breaks, to compare others with, and returns its config."""
    config = tiny_run(out, **changes)
    code, output = run_command(config, out.parent)
    assert code == 0, output[-2000:]
    return config


def run_in_fork(work: Callable[[], Any]) -> Any:
    """Calls a function in a forked process; returns its result, or the exit code if the process was killed or failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            renew_thread_pool()
            with open(write_end, "wb") as pipe:
                pickle.dump(work(), pipe)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as file:
        content = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return pickle.loads(content) if code == 0 else code


# ------------------------------------------------------------------------------------------------------- comparing


def load_weights(out: Path | str) -> dict[str, torch.Tensor]:
    """Returns the model's state dict in the last checkpoint of a run."""
    checkpoint = torch.load(Path(out) / "checkpoints/last.pt", weights_only=True)
    weights: dict[str, torch.Tensor] = checkpoint["model"]
    return weights


def weights_are_finite(out: Path | str) -> bool:
    """Whether all weights in the last checkpoint of a run are finite."""
    return all(bool(value.isfinite().all()) for value in load_weights(out).values())


def bit_equal(first: RunConfig, second: RunConfig) -> bool:
    """Whether two runs ended with bit-equal weights and byte-equal exported encoders."""
    a, b = load_weights(first.out), load_weights(second.out)
    encoders = [(Path(run.out) / "encoder/model.safetensors").read_bytes() for run in (first, second)]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) and encoders[0] == encoders[1]


def logged_steps(out: Path | str) -> list[int]:
    """Returns the steps in metrics.jsonl. Every line must be complete."""
    return [json.loads(line)["step"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def has_each_step_once(out: Path | str, total: int = STEPS) -> bool:
    """Whether metrics.jsonl has every step exactly once."""
    return logged_steps(out) == list(range(1, total + 1))
