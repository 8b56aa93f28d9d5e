"""Ranks that would train different runs are refused on all ranks, with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from repre.training.rank_check import check_ranks_agree
from repre.utils.signals import Interrupted
from tests.training.test_loop import config, stop_at

Ranks = list[tuple[RunConfig, Source, int]]


def files(*names: str) -> FileSource:
    return FileSource("photos", LocalFiles(Path("photos"), Names.of(names)), channels=3, canvas=None)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ranks], None]:
    """Checks ranks that run one after the other: each is shown what the ones before it and it itself gather."""

    def run(ranks: Ranks) -> None:
        gathered: list[Any] = []

        def gather(items: list[Any]) -> list[Any]:
            gathered.extend(items)
            return gathered

        monkeypatch.setattr(rank_check, "gather_objects", gather)
        for of_rank, source, step in ranks:
            check_ranks_agree(of_rank, source, step=step)

    return run


def test_ranks_of_one_run_pass(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    other = replace(one, runtime=replace(one.runtime, workers=3))
    check([(one, files("a", "b"), 9), (other, files("a", "b"), 9)])
    check([(one, open_source("scenes:8:32"), 0)] * 3)


def test_an_out_that_is_not_shared_is_refused(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"rank 2 would .* begins at step 0, rank 0 at step 9\. The machines must share"
    ):
        check([(one, files("a"), 9), (one, files("a"), 9), (one, files("a"), 0)])


def test_other_files_are_refused(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    with pytest.raises(UserError, match=r"rank 1 would .* has 1 images of .*, rank 0 has 2, and the lists differ"):
        check([(one, files("a", "b"), 0), (one, files("a"), 0)])
    with pytest.raises(UserError, match="the lists differ"):
        check([(one, files("a", "b"), 0), (one, files("a", "c"), 0)])
    with pytest.raises(UserError, match="the lists differ"):
        check([(one, open_source("scenes:8:32"), 0), (one, open_source("scenes:9:32"), 0)])


def test_other_settings_are_refused(tmp_path: Path, check: Callable[[Ranks], None]) -> None:
    one = config(tmp_path / "run")
    with pytest.raises(UserError, match=r"rank 1 would .* settings differ \(seed: 1 here, 0 there\)"):
        check([(one, files("a"), 0), (replace(one, seed=1), files("a"), 0)])


def test_a_run_compares_the_step_that_it_resumes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, probe=stop_at(3))
    monkeypatch.setattr(rank_check, "gather_objects", lambda items: [*items, {**items[0], "step": 0}])
    with pytest.raises(UserError, match="it begins at step 0, rank 0 at step 3"):
        train(run)
