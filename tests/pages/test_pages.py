"""Every command on every page is run, page by page, in the order of the page, at toy size.

A page gets a fresh copy of a folder in which everything that pages name is there (`sandbox.py`). The options of the page
stay in the line; those that cost time get smaller values (`toys.py`). A new page or command is found by itself.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import timm
import torch
from timm.models import _builder

from repre.config import load_yaml
from repre.models.repre import build_model
from tests.data.io.remote_servers import s3_server
from tests.pages import reading, running, sandbox
from tests.pages.reading import ROOT, Step
from tests.pages.running import Failed, in_sandbox, words
from tests.pages.toys import smaller, split

NOT_RUN = {
    "docs/architecture.md: class Framework(nn.Module)": "a sketch of the contract; the class is in frameworks/base.py",
    "docs/howto/camvid.md: from pathlib import Path": "sorts SegNet's copy of CamVid, which is not here",
    "docs/export.md: python -m experiments.export_differences": "exports three encoders of full size, which takes minutes",
    "docs/performance.md: python benchmarks/host_memory.py": "trains a ViT-B in up to four processes, which takes 10 GiB",
    "docs/export.md: import csv\n\nimport fiftyone": "needs FiftyOne, which brings a database server",
}
"""Page and beginning of what is not run, with the reason."""

COVERED = {
    "python -m experiments.run": "experiments/test_run.py::test_the_commands_of_the_page_work_in_their_own_process",
    "python -m experiments.tables": "experiments/test_run.py::test_the_commands_of_the_page_work_in_their_own_process",
    "python -m experiments.small_data": "experiments/test_small_data.py",
    "python -m experiments.self_distillation": "experiments/test_self_distillation.py",
    "python -m tests.fuzz": "fuzz/test_fuzz.py",
    "python benchmarks/sources.py": "benchmarks/test_benchmarks.py::test_sources_measures_scale_and_speed",
    "python benchmarks/pipeline.py": "benchmarks/test_benchmarks.py::test_pipeline_runs_contenders_and_saves_their_views",
    "python benchmarks/step.py": "benchmarks/test_benchmarks.py::test_step_measures_time_memory_and_ceiling",
    "python benchmarks/feeding.py": "benchmarks/test_benchmarks.py::test_feeding_compares_reading_loading_and_views",
    "python benchmarks/fidelity.py": "benchmarks/test_benchmarks.py",
    "python examples/search.py": "examples/test_examples.py::test_search_finds_the_copy",
    "python examples/continue_from_public.py": "examples/test_examples.py",
    "python docs/make_": "test_docs.py::test_the_settings_page_is_what_the_classes_say",
    "sbatch examples/cluster/slurm.sh": "examples/test_cluster.py::test_a_slurm_job_is_queued_again_and_resumes",
    "python examples/cluster/submitit_run.py": "examples/test_cluster.py::test_submitit_runs_the_job_and_queues_it_again",
}
"""Beginning of programs that other tests, in `tests/`, run at toy size."""

ELSEWHERE = {"docs/api/": "site/test_api_examples.py"}
"""Beginning of the names of pages that other tests, in `tests/`, run."""

PAGES = {page.relative_to(ROOT).as_posix(): page for page in reading.pages() if reading.steps(page)}
PAGES = {name: page for name, page in PAGES.items() if not name.startswith(tuple(ELSEWHERE))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the pages get copies of."""
    folder = tmp_path_factory.mktemp("pages") / "world"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            sandbox.fill(folder)
        sandbox.know_sums(patch, folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
def done() -> set[tuple[str, ...]]:
    """What has been run: a command stands on several pages, but for the name of its output."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_works(
    page: str, world: Path, done: set[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(shutil.copytree(world, tmp_path / "here"))
    monkeypatch.chdir(here)
    run = PageRun(page, done, monkeypatch)
    failures = run.failures()
    assert not failures, "\n\n".join(failures)


class PageRun:
    """Runs the steps of a page."""

    def __init__(self, page: str, done: set[tuple[str, ...]], patch: pytest.MonkeyPatch) -> None:
        self.steps, self.done, self.patch = reading.steps(PAGES[page]), done, patch
        self.seen = ""
        self.names: dict[str, Any] = {}
        self.program = self._program()

    def failures(self) -> list[str]:
        found = []
        for step in self.steps:
            try:
                if not self._is_elsewhere(step):
                    self._run(step)
                    self.seen += f"{in_sandbox(step.text)}\n"
            except Failed as error:
                found.append(str(error))
        return found

    def _program(self) -> Path | None:
        """The file that a page's Python blocks make, if the page runs one that the project does not have."""
        names = [
            words(step.text)[1] for step in self.steps if not step.python and re.match(r"python [\w/]+\.py", step.text)
        ]
        own = {name for name in names if not (ROOT / name).exists()}
        if not own:
            return None
        (name,) = own
        Path(name).write_text("\n\n".join(step.text for step in self.steps if step.python), encoding="utf-8")
        return Path(name)

    def _is_elsewhere(self, step: Step) -> bool:
        """Whether this is not run here, for a reason that the tables name, or was run on another page."""
        if any(f"{step.page}: {step.text}".startswith(start) for start in NOT_RUN):
            return True
        if any(step.text.startswith(start) for start in COVERED):
            return True
        return step.python and self.program is not None

    def _run(self, step: Step) -> None:
        if step.python:
            running.run_python(step, self.names or self._names(), self.patch)
            return
        command = words(in_sandbox(step.text))
        program = self.program is not None and command[:2] == ["python", str(self.program)]
        if command[0] not in ("repre", "torchrun") and not program:
            raise Failed(
                f"{step}\nis no command of repre: name the test that runs it in COVERED of tests/pages/test_pages.py"
            )
        arguments = command[command.index("repre.cli") + 1 :] if command[0] == "torchrun" else command[1 + program :]
        options = dict(split(arguments)[1])
        key = self._key(command[: len(command) - len(arguments)], arguments)
        later = [other.text for other in self.steps if other.line > step.line]
        if key in self.done and not any(out in text for out in options.get("--out", []) for text in later):
            return
        self.done.add(key)
        self._make_room(arguments)
        names = re.findall(r"\bvit_\w+(?:\.\w+)?", step.text) or ["vit_small_patch16_224"]
        weights = partial(sandbox.published, names[0], toy="hub" in command)
        self.patch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: weights())
        started = time.time()
        with self._bucket(command):
            if command[0] == "torchrun":
                running.run_torchrun(step, command)
            elif program:
                running.run_file(step, command)
            else:
                running.run_repre(step, smaller(arguments))
        out = options.get("--out") if " ".join(arguments) not in self.seen else None  # else it resumes
        if arguments[0] == "pretrain" and out and Path(out[0], "summary.json").stat().st_mtime < started:
            raise Failed(f"{step}\ntrained nothing: {out[0]} is the finished run of an earlier command of the page")

    def _key(self, launcher: list[str], arguments: list[str]) -> tuple[str, ...]:
        """What a command does, whatever its output is called and, of torchrun, beyond the command that it starts."""
        if launcher[0] == "torchrun":
            return ("torchrun", *arguments[: 2 if arguments[0] == "eval" else 1])
        plain, options = split(smaller(["--encoder" if word == "--run" else word for word in arguments]))
        return (*launcher, *plain, *(str(option) for option in sorted(options) if option[0] != "--out"))

    def _make_room(self, arguments: list[str]) -> None:
        """What the page has not named yet is not there when one of its commands makes it."""
        for out in dict(split(arguments)[1]).get("--out", []):
            if out not in self.seen and Path(out).is_dir() and sum(out in word for word in arguments) == 1:
                shutil.rmtree(out)

    @contextmanager
    def _bucket(self, command: list[str]) -> Iterator[None]:
        """A bucket on this machine for `s3://bucket/photos/`."""
        if not any(word.startswith("s3://bucket/") for word in command):
            yield
            return
        with s3_server():
            client = boto3.client("s3")
            client.create_bucket(Bucket="bucket")
            for path in Path("photos").iterdir():
                client.put_object(Bucket="bucket", Key=f"photos/{path.name}", Body=path.read_bytes())
            yield

    def _names(self) -> dict[str, Any]:
        """Names that the README takes from the reader's own loop, and the library of its first block."""
        config = load_yaml(Path("runs/photos/config.yaml"))
        parts = build_model(
            encoder=config.encoder,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=config.reconstruction,
            seed=0,
        )
        first, second = torch.randn(2, 4, 3, 32, 32)
        self.names = {"timm": timm, "framework": parts.framework, "decoder": parts.decoder}
        self.names |= {"first_view": first, "second_view": second}
        return self.names


def test_every_reason_not_to_run_is_about_something_on_a_page() -> None:
    found = [f"{step.page}: {step.text}" for page in PAGES.values() for step in reading.steps(page)]
    for start in NOT_RUN:
        assert any(text.startswith(start) for text in found), f"no page has {start!r} any more: take it out of NOT_RUN"
    print("\n".join(f"not run: {start.splitlines()[0]}: {reason}" for start, reason in NOT_RUN.items()))


def test_every_test_that_covers_a_program_exists_and_the_program_has_the_options_of_the_page() -> None:
    texts = [step.text for page in PAGES.values() for step in reading.steps(page) if not step.python]
    for start, test in {**COVERED, **ELSEWHERE}.items():
        file, _, name = f"tests/{test}".partition("::")
        assert (ROOT / file).is_file(), test
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
        commands = [text for text in texts if text.startswith(start)]
        assert commands or start in ELSEWHERE, f"no page has {start!r} any more: take it out of COVERED"
        for command in commands:
            program = words(command)[2 if " -m " in command else 1]
            path = ROOT / (program if "/" in program else program.replace(".", "/") + ".py")
            source = (path if path.is_file() else path.with_suffix("") / "__main__.py").read_text(encoding="utf-8")
            for option, _values in split(words(command.partition(" -- ")[0])[2:])[1]:
                assert option[2:].replace("-", "_") in source or option in source, (
                    f"{command}: no {option} in {path.name}"
                )
