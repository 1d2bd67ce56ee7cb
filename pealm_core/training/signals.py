"""Signals that ask a run to save and end."""

import signal
import time
from types import FrameType, TracebackType

# Ctrl-C, what schedulers send before they kill (Slurm's early warning is SIGUSR1), and a terminal that was closed.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
REPEAT_SECONDS = 2.0


class Signals:
    """While active, note the first of these signals in `number`. A second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self, *, launched: bool) -> None:
        """launched: torchrun started this process; it repeats a Ctrl-C that the terminal has sent already."""
        self.number, self._launched, self._time = 0, launched, 0.0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        for name in NAMES:
            number = getattr(signal, name, None)  # Windows lacks two of them
            if number is None or signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
                continue
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: whoever runs us handles signals
                break
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        repeated = self._launched and time.monotonic() - self._time < REPEAT_SECONDS
        if self.number and number == signal.SIGINT and not repeated:
            raise KeyboardInterrupt(number)  # with an argument: not a hook's own
        self.number, self._time = self.number or number, time.monotonic()
