"""What plugins can't do while their code runs: end the process, or print to stdout.

`os._exit` raises SystemExit instead, which is reported as a defect.

`os._exit(0)` would make a command that did nothing look successful. What calls the system itself can't be caught.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress


@contextmanager
def no_exit() -> Iterator[None]:
    """Let `os._exit` raise SystemExit in the body, but not in a process that the body forks."""
    exit_now, process = os._exit, os.getpid()

    def refuse(status: int) -> None:
        if os.getpid() != process:
            exit_now(status)
        raise SystemExit(f"os._exit({status}) was called")

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = exit_now


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send what is printed in the body to stderr, also by native code and processes: stdout is for results."""
    own = -1
    with suppress(OSError):  # one of them is closed
        own = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if own >= 0:
            os.dup2(own, 1)
            os.close(own)
