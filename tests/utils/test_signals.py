"""A signal asks to stop: interruptible work ends at once, all other work continues to its end."""

import os
import signal

import pytest

from repre.utils.signals import StopNow, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_recorded_and_the_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) == before


def test_only_interruptible_work_is_interrupted() -> None:
    done = []
    with StopRequest() as stop:
        with pytest.raises(StopNow), stop.interruptible():  # noqa: PT012 - what follows the signal must not run
            os.kill(os.getpid(), signal.SIGUSR1)
            done.append("interrupted")
        os.kill(os.getpid(), signal.SIGUSR1)
        done.append("completed")
        with pytest.raises(StopNow), stop.interruptible():  # requested already: not started
            done.append("interrupted")
        with stop.interruptible(False):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("completed")
    assert done == ["completed", "completed"]


def test_handlers_of_exceptions_do_not_catch_the_stop() -> None:
    assert not issubclass(StopNow, Exception)


def test_a_second_ctrl_c_exits_at_once() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
