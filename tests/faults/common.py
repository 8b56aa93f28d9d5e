"""What every fault needs: a small run, processes of its own that are cheap to start and to kill, and comparisons.

A life is the command `repre ...` in a forked process: the modules are loaded already, everything else happens as in a
process that a shell started. Killing it is SIGKILL by the kernel, nothing is simulated.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from repre.cli import main as cli
from repre.config import RunConfig, RuntimeConfig, dump_yaml
from repre.data.scenes import Scenes, ScenesConfig
from repre.data.views.render import dino_views, moco_v3_views
from repre.frameworks import BYOLConfig, DINOConfig, FrameworkConfig, MoBYConfig, MoCoV3Config, SimCLRConfig
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.training.optim import OptimConfig

FRAMEWORKS: dict[str, FrameworkConfig] = {
    "moco-v3": MoCoV3Config(hidden_dim=24, out_dim=16),
    "dino": DINOConfig(hidden_dim=24, bottleneck_dim=8, prototypes=32, freeze_last_layer=0.0),
    "moby": MoBYConfig(hidden_dim=24, out_dim=16, queue=32),
    "byol": BYOLConfig(hidden_dim=24, out_dim=16),
    "simclr": SimCLRConfig(hidden_dim=24, out_dim=16),
}
RUNTIME = RuntimeConfig(
    device="cpu", workers=0, log_every=1, eval_every_epochs=2, checkpoint_minutes=0.0, monitor_samples=8, trackers=()
)
"""A checkpoint after every step, so that a kill loses little and hits many of them."""


@dataclass
class Row:
    """One row of the fault matrix."""

    area: str
    fault: str
    times: int
    happened: str
    lost: str
    passed: bool
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def photos(folder: Path, count: int = 64) -> Path:
    """A folder of embedded scenes as PNG files."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        scenes = Scenes(count, config=ScenesConfig(size=32))
        for index in range(count):
            Image.fromarray(scenes.load(index)).save(folder / f"{index:03d}.png")
    return folder


def small(out: Path, framework: str = "moco-v3", **changes: Any) -> RunConfig:
    """24 steps of a ViT of 32 channels on 64 photos beside the run; both branches."""
    views = dino_views(32, 16, 1) if framework == "dino" else moco_v3_views(32)
    encoder = EncoderConfig(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        model_args={"embed_dim": 32, "depth": 2, "num_heads": 2},
        drop_path=0.2,
    )
    made = RunConfig(
        data=str(photos(out.parent / "photos")),
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
    return replace(made, **changes)


def command(config: RunConfig, folder: Path) -> list[str]:
    """The words after `repre` that start this run and go on with it."""
    path = folder / f"{Path(config.out).name}.yaml"
    path.write_text(dump_yaml(config))
    return ["pretrain", "--config", str(path), "--out", config.out]


class Life:
    """`repre WORDS` in a forked process; what it prints goes to a file.

    Args:
        before: called in the new process before the command, to break something there.
    """

    def __init__(
        self, words: list[str], printed: Path, *, before: Callable[[], object] | None = None, **environment: str
    ) -> None:
        self.printed = printed
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(file, 1)
                os.dup2(file, 2)
                os.environ.update(environment)
                if before is not None:
                    before()
                code = cli.main(words)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)

    def signal(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, limit: float = 300.0) -> int:
        """Exit code, negative for the signal that ended it; a life beyond the limit is ended and raises."""
        end = time.monotonic() + limit
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                self.signal()
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"still alive after {limit} s; printed: {self.words()[-500:]}")
            time.sleep(0.005)

    def words(self) -> str:
        return self.printed.read_text(errors="replace") if self.printed.exists() else ""


def live(config: RunConfig, folder: Path, **more: Any) -> tuple[int, str]:
    """One whole life: its exit code and what it printed."""
    printed = folder / f"{Path(config.out).name}.{time.monotonic_ns()}.txt"
    life = Life(command(config, folder), printed, **more)
    code, words = life.wait(), life.words()
    if "Traceback" in words:
        print(words[-3000:], file=sys.stderr)
    return code, words


def weights(out: Path | str) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint holds of the model."""
    found: dict[str, torch.Tensor] = torch.load(Path(out) / "checkpoints/last.pt", weights_only=True)["model"]
    return found


def equal(one: Path | str, other: Path | str) -> bool:
    """Whether two runs ended in bit-equal weights, and the encoders that they hand over are equal byte by byte."""
    a, b = weights(one), weights(other)
    handed = [(Path(out) / "encoder/model.safetensors").read_bytes() for out in (one, other)]
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and handed[0] == handed[1]


def steps(out: Path | str) -> list[int]:
    """The steps of metrics.jsonl; every line has to be whole."""
    return [json.loads(line)["step"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def whole(out: Path | str, total: int = 24) -> bool:
    """Whether the metrics hold each step once."""
    return steps(out) == list(range(1, total + 1))
