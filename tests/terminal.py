"""What a program writes to a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence


def output_on_terminal(
    command: Sequence[str], *, columns: int | None = None, environment: Mapping[str, str] | None = None
) -> bytes:
    """Runs a program with output and errors on a terminal and returns everything that it writes there.

    Args:
        columns: width of the terminal; None leaves it unset.
        environment: of the program; None: that of the tests.
    """
    controller, terminal = pty.openpty()
    if columns is not None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment):
        os.close(terminal)
        printed = b""
        try:
            while part := os.read(controller, 65536):
                printed += part
        except OSError:  # Linux reports the end of the process like this
            pass
    os.close(controller)
    return printed
