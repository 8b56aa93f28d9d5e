"""Work that ranks share: results, errors, deaths and signals on any of them."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.data.io.index_files import read_index, write_index
from repre.errors import RunError, UserError
from repre.utils import rank_link
from repre.utils.dist import world_size
from repre.utils.rank_link import pack, portable, unpack
from repre.utils.rank_stream import from_rank_0, in_order
from repre.utils.signals import Interrupted
from repre.utils.together import led_by_rank_0, my_share, of_rank, together, waiting_ranks
from tests.ranks import call_on_ranks

CPU = torch.device("cpu")


def numbers(count: int) -> list[tuple[int, int]]:
    """Turns of two items each; what rank 0 gets must be in order. Says which rank made each."""
    rank, size = my_share()
    assert world_size() == size
    return list(in_order([(number, rank), (-number, rank)] for number in range(rank, count, size)))


def shout(text: str) -> str:
    return from_rank_0(text if my_share()[0] else text.upper())


def outcomes(command: Callable[[], Any], folder: Path, *, ranks: int = 3) -> list[Any]:
    """How `led_by_rank_0` ends on every rank."""
    return call_on_ranks(ranks, lambda rank: led_by_rank_0(command), folder)


def test_all_ranks_work_and_rank_0_gets_everything_in_order(tmp_path: Path) -> None:
    def command() -> Any:
        assert (world_size(), my_share(), waiting_ranks(), os.environ["RANK"]) == (1, (0, 1), 2, "0")
        counts = [together(CPU, numbers, count) for count in (0, 1, 3, 7)]
        return counts, together(CPU, shout, "heard"), together(CPU, nested)

    for outcome in outcomes(command, tmp_path):
        counts, heard, inner = outcome.result
        for count, found in zip((0, 1, 3, 7), counts):
            assert found == [pair for number in range(count) for pair in ((number, number % 3), (-number, number % 3))]
        assert heard == "HEARD"
        assert inner == (0, 3)


def nested() -> tuple[int, int]:
    """A call inside a call is a plain one."""
    assert of_rank("x") == "x (1 of 3 ranks)"
    return together(CPU, my_share)


def test_without_other_ranks_a_function_is_called() -> None:
    assert led_by_rank_0(lambda: together(CPU, numbers, 2)) == [(0, 0), (0, 0), (1, 0), (-1, 0)]
    assert (my_share(), waiting_ranks(), of_rank("x")) == ((0, 1), 0, "x")


def fail(on: int) -> None:
    """One rank fails, the others wait for it in the midst of what they do."""
    if my_share()[0] == on:
        raise UserError(f"rank {on} does not like this")
    numbers(50)


@pytest.mark.parametrize("on", [0, 1])
def test_an_error_on_one_rank_is_the_error_of_all(tmp_path: Path, on: int) -> None:
    for outcome in outcomes(partial(together, CPU, fail, on), tmp_path):
        assert (outcome.error, outcome.message, outcome.code) == ("UserError", f"rank {on} does not like this", 2)


@pytest.mark.parametrize("on", [0, 1, 2])
def test_ranks_work_again_after_an_error_that_was_handled(tmp_path: Path, on: int) -> None:
    def command() -> Any:
        with pytest.raises(UserError):
            together(CPU, fail, on)
        return together(CPU, numbers, 1)

    assert [outcome.result for outcome in outcomes(command, tmp_path)] == [[(0, 0), (0, 0)]] * 3


def die(on: int) -> None:
    if my_share()[0] == on:
        os.kill(os.getpid(), signal.SIGKILL)
    numbers(50)


@pytest.mark.parametrize("on", [0, 1])
def test_the_death_of_a_rank_ends_all(tmp_path: Path, on: int) -> None:
    found = outcomes(partial(together, CPU, die, on), tmp_path)
    assert found[on].signal == signal.SIGKILL
    for rank in {0, 1, 2} - {on}:
        assert found[rank].error == "RunError"
        assert "another process of this run ended" in found[rank].message


def test_a_rank_that_dies_before_it_is_connected_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_link, "CONNECT", timedelta(seconds=2))
    open_group = rank_link.Ranks.open_group

    def dying(ranks: rank_link.Ranks, device: torch.device) -> None:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        open_group(ranks, device)

    monkeypatch.setattr(rank_link.Ranks, "open_group", dying)
    found = outcomes(partial(together, CPU, numbers, 3), tmp_path, ranks=2)
    assert found[1].signal == signal.SIGKILL
    assert "another process of this run ended" in found[0].message


def slow(seconds: float) -> list[int]:
    """What rank 0 gets from a rank that takes its time."""
    rank, size = my_share()
    time.sleep(seconds * rank)
    found = list(in_order([[number] for number in range(rank, 2, size)]))
    time.sleep(seconds * rank)
    return found


def test_the_limit_to_connect_is_none_for_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_link, "CONNECT", timedelta(seconds=1))
    found = outcomes(partial(together, CPU, slow, 2.0), tmp_path, ranks=2)
    assert [outcome.result for outcome in found] == [[0, 1], [0, 1]]


def stop(on: int) -> None:
    """A signal comes to one rank while the others are busy or wait."""
    if my_share()[0] == on:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    together_done.append(on)


together_done: list[int] = []


def test_a_signal_to_one_rank_ends_all_with_its_code(tmp_path: Path) -> None:
    for outcome in outcomes(partial(together, CPU, stop, 2), tmp_path):
        assert (outcome.error, outcome.code) == ("RunError", 128 + signal.SIGTERM)
        assert "run the same command again" in outcome.message


def test_a_command_without_shared_work_runs_on_rank_0_alone(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def command() -> int:
        with open(ran, "a") as file:
            file.write(os.environ["RANK"])
        return 7

    assert [outcome.result for outcome in outcomes(command, tmp_path)] == [7, 7, 7]
    assert ran.read_text() == "0"


def test_exit_codes_of_system_exit_are_those_of_all(tmp_path: Path) -> None:
    def command() -> None:
        raise SystemExit(2)

    assert [(outcome.error, outcome.code) for outcome in outcomes(command, tmp_path, ranks=2)] == [
        ("SystemExit", 2)
    ] * 2


def test_two_commands_in_one_process(tmp_path: Path) -> None:
    def both(rank: int) -> list[Any]:
        return [led_by_rank_0(partial(together, CPU, numbers, count)) for count in (1, 2)]

    assert [len(result) for result in call_on_ranks(2, both, tmp_path)[1].result] == [2, 4]


def test_other_machines_get_the_content_of_mapped_files(tmp_path: Path) -> None:
    """A list of files is mapped from the cache, which another machine may not have."""
    path = tmp_path / "list.index"
    write_index(path, {"ends": np.arange(5)}, {})
    opened = read_index(path)
    assert opened is not None
    ends = opened[0]["ends"]
    by_name, by_value = (pack({"ends": ends, "plain": 3}, by_value=value) for value in (False, True))
    assert isinstance(unpack(by_name)["ends"], np.memmap)
    path.unlink()
    received = unpack(by_value)
    assert type(received["ends"]) is np.ndarray
    assert received["ends"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError):
        unpack(by_name)


def test_errors_that_cannot_be_sent_keep_text_and_code() -> None:
    class Local(Exception):
        """Another process cannot find this class."""

    plain = portable(Local("what happened"))
    assert isinstance(plain, RunError)
    assert str(plain) == "Local: what happened"
    assert plain.code == 1
    interrupted = portable(Interrupted("stopped", code=143))
    assert isinstance(interrupted, RunError)
    assert (str(interrupted), interrupted.code, interrupted.kind) == (
        "stopped",
        143,
        "signal",
    )
    error = UserError("as it is")
    assert portable(error) is error
