"""Ranks that would train different runs are refused on all ranks, with the reason."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repre.config import RunConfig
from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.io.sources import Source, open_source
from repre.errors import UserError
from repre.training import rank_check
from repre.training.loop import train
from repre.training.rank_check import check_files_agree, check_ranks_agree
from repre.utils.signals import Interrupted
from tests.training.test_loop import config, stop_at

Ranks = list[tuple[RunConfig, int]]


def files(*names: str) -> FileSource:
    return FileSource("photos", LocalFiles(Path("photos"), Names.of(names)), channels=3, canvas=None)


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Callable[[], None]]], None]:
    """Calls the checks of ranks one after the other: each is shown what the ones before it and it itself gather."""

    def run(checks: list[Callable[[], None]]) -> None:
        gathered: list[Any] = []

        def gather(items: list[Any]) -> list[Any]:
            gathered.extend(items)
            return gathered

        monkeypatch.setattr(rank_check, "gather_objects", gather)
        for check in checks:
            check()

    return run


@pytest.fixture
def check(in_turn: Callable[[list[Callable[[], None]]], None]) -> Callable[[Ranks], None]:
    return lambda ranks: in_turn([partial(check_ranks_agree, of_rank, step=step) for of_rank, step in ranks])


def test_ranks_of_one_run_pass(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    other = replace(one, runtime=replace(one.runtime, workers=3))
    check([(one, 9), (other, 9)])


def test_an_out_that_is_not_shared_is_refused(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"rank 2 would .* begins at step 0, rank 0 at step 9\. The machines must share"
    ):
        check([(one, 9), (one, 9), (one, 0)])


def test_other_files_are_refused(tmp_path: Path, in_turn: Callable[[list[Callable[[], None]]], None]) -> None:
    one = config(tmp_path / "run")

    def check(*sources: Source) -> None:
        in_turn([partial(check_files_agree, one, source) for source in sources])

    check(files("a", "b"), files("a", "b"))
    check(*[open_source("scenes:8:32")] * 3)
    with pytest.raises(UserError, match=r"rank 1 has 1 images of .*, rank 0 has 2, and the lists differ"):
        check(files("a", "b"), files("a"))
    with pytest.raises(UserError, match=r"rank 2 .* the lists differ"):
        check(files("a", "b"), files("a", "b"), files("a", "c"))
    with pytest.raises(UserError, match="the lists differ"):
        check(open_source("scenes:8:32"), open_source("scenes:9:32"))


def test_other_settings_are_refused(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    with pytest.raises(UserError, match=r"rank 1 would .* settings differ \(seed: 1 here, 0 there\)"):
        check([(one, 0), (replace(one, seed=1), 0)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "code_digest",
            lambda: "changed",
            r"it runs repre .*, rank 0 runs repre .* with other code\. Install the same",
        ),
        ("torch", SimpleNamespace(__version__="1.0"), r"it runs repre .*, torch 1\.0, rank 0 runs repre .*, torch 2.*"),
    ],
)
def test_other_code_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    message: str,
    in_turn: Callable[[list[Callable[[], None]]], None],
) -> None:
    one = config(tmp_path / "run")

    def changed() -> None:
        monkeypatch.setattr(rank_check, name, value)
        check_ranks_agree(one, step=0)

    with pytest.raises(UserError, match=message):
        in_turn([partial(check_ranks_agree, one, step=0), changed])


def test_a_run_compares_the_step_that_it_resumes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))

    def with_another_step(items: list[Any]) -> list[Any]:
        return [*items, {**items[0], "step": 0} if isinstance(items[0], dict) else items[0]]

    monkeypatch.setattr(rank_check, "gather_objects", with_another_step)
    with pytest.raises(UserError, match="it begins at step 0, rank 0 at step 3"):
        train(run)
