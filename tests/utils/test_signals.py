"""A signal asks; work that may be dropped is dropped at once, everything else is left whole."""

import os
import signal

import pytest

from repre.utils.signals import StopNow, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) == before


def test_only_what_may_be_dropped_is_dropped() -> None:
    done = []
    with StopRequest() as stop:
        with pytest.raises(StopNow), stop.breaks():  # noqa: PT012 - what follows the signal must not run
            os.kill(os.getpid(), signal.SIGUSR1)
            done.append("dropped")
        os.kill(os.getpid(), signal.SIGUSR1)
        done.append("kept")
        with pytest.raises(StopNow), stop.breaks():  # asked already: not begun
            done.append("dropped")
        with stop.breaks(False):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("kept")
    assert done == ["kept", "kept"]


def test_what_catches_every_exception_lets_the_stop_pass() -> None:
    assert not issubclass(StopNow, Exception)


def test_a_second_ctrl_c_leaves_at_once() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
