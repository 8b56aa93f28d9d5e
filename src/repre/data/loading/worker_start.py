"""What a worker process does before its first item: it ties its life to its parent, and leaves signals and output to it."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

PR_SET_PDEATHSIG = 1


def leave_signals_and_output_to_parent() -> None:
    """Ignores the signals that ask a run to stop, and lets go of the standard output.

    Ctrl-C, a scheduler and `timeout` signal the whole process group, but the main process has to save before workers end.
    What reads the output of a command (`repre ... | tee`) ends when the last process that holds it ends; a worker has
    nothing to print there.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def end_with_parent(parent: int, *, by_main_thread: bool) -> None:
    """Ends this process when its parent has ended, however it ended and whatever this process does at that moment.

    Without it a worker whose parent was killed waits for ever to hand over an item: its siblings hold the other end of the
    pipe too, so it never breaks.

    Args:
        parent: the process that uses the items; under forkserver another one than that which forked this process.
        by_main_thread: whether the parent's main thread started this process.
    """
    if sys.platform == "linux" and by_main_thread and os.getppid() == parent:
        # At once, and also while C code runs. Linux sends it when the thread that forked ends, so only for the main thread.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """Waits for the end of the parent, then ends this process: by a descriptor of the process where the system has them, and
    by the pipe that multiprocessing leaves open between the two."""
    process = multiprocessing.parent_process()
    ends: list[int] = [] if process is None else [process.sentinel]
    try:
        ends.append(os.pidfd_open(parent))
    except ProcessLookupError:
        os._exit(1)
    except (OSError, AttributeError):  # an old kernel, another system
        pass
    wait(ends)
    os._exit(1)
