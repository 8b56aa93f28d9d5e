"""Workers in scripts without a main guard, whatever method multiprocessing uses, and how scripts end after an error."""

import subprocess
import sys
from pathlib import Path

import pytest

from repre.data.scenes import ScenesConfig
from repre.data.tools.write import write_scenes

ROOT = Path(__file__).parents[3]
NO_FORK = """
import repre.data.loading.workers, repre.utils.hidden_main, repre.utils.shared_memory
for module in (repre.data.loading.workers, repre.utils.hidden_main, repre.utils.shared_memory):
    module.FORK = False
"""
CHECK = """
import multiprocessing, sys
multiprocessing.set_start_method(sys.argv[2], force=True)
import repre
print("once", flush=True)
print(repre.check_data(sys.argv[1], workers=2).count)
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(out, {"train": 12, "val": 6}, config=ScenesConfig(size=32))
    return out


def run(program: str, *arguments: object, file: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a program from a file, or from standard input."""
    if file is not None:
        file.write_text(program, encoding="utf-8")
    command = [sys.executable, str(file or "-"), *map(str, arguments)]
    given = None if file is not None else program
    return subprocess.run(command, input=given, timeout=120, check=False, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "preamble", "from_file"), [("forkserver", "", True), ("spawn", NO_FORK, False)])
def test_a_script_needs_no_main_guard(
    method: str, preamble: str, from_file: bool, scenes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "script.py" if from_file else None
    done = run(preamble + CHECK, scenes / "train" / "images", method, file=file)
    assert (done.stdout, done.returncode) == ("once\n12\n", 0), done.stderr


ERROR_WHILE_WORKERS_RUN = """
from repre.data.loading.workers import in_workers
from tests.data.loading.test_workers import Items, Numbers

for item in in_workers(Items(Numbers()), list(range(24)) * 10, workers=2):
    raise {error}("deliberate")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("error", "preamble"), [("KeyboardInterrupt", ""), ("ZeroDivisionError", NO_FORK)])
def test_one_traceback_of_an_error_while_workers_run(error: str, preamble: str) -> None:
    done = run(preamble + ERROR_WHILE_WORKERS_RUN.format(error=error))
    assert done.returncode != 0
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert done.stderr.rstrip().endswith(f"{error}: deliberate")


REFUSED_MASK = """
import sys
from PIL import Image
from repre.cli.main import main

scenes = sys.argv[1]
Image.new("L", (7, 7)).save(scenes + "/train/masks/000007.png")
data = "pairs:" + scenes + "/{split}/images," + scenes + "/{split}/masks"
encoder = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
out = ["--out", scenes + "/results"]
sys.exit(main(["eval", "segment", "--encoder", encoder, "--data", data, "--runtime.workers=2", *out]))
"""


@pytest.mark.slow
def test_a_refused_mask_ends_workers_without_a_traceback(scenes: Path) -> None:
    done = run(REFUSED_MASK, scenes)
    assert done.returncode == 2
    assert "has 7 x 7 pixels" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (scenes / "results").exists()
