"""Progress of `pealm tokenize`: a live line in a terminal, and a line for every shard."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Meter:
    """Progress towards `total`, in any unit, with the time left; used as `with Meter(total) as meter`."""

    def __init__(self, total: float) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}"), console=self.console, transient=True
        )
        self._task = self._live.add_task("", total=1.0)
        self._total, self._text = total, ""
        self._first: tuple[float, int, float] | None = None  # done, tokens and time of the first update

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere it would print an empty line
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, markup=False)

    def update(self, done: float, tokens: int) -> None:
        """Show how much of the total is done, and the number of tokens so far."""
        if self._first is None:
            self._first = done, tokens, time.monotonic()
            if self.console.is_terminal:  # not before: a download at the start shows its own bar
                self._live.start()
        start, tokens_before, then = self._first
        fraction, seconds = min(1.0, done / max(1.0, self._total)), max(1e-9, time.monotonic() - then)
        self._text = f"{100 * fraction:.0f}%  " * bool(self._total) + f"{tokens:,} tokens"
        if done > start:
            left = max(0, int((self._total - done) / (done - start) * seconds))
            self._text += f"  {(tokens - tokens_before) / seconds:,.0f} tokens/s"
            self._text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self._live.update(self._task, completed=fraction, description=self._text)

    def shard(self, name: str) -> None:
        """Print that a shard is on disk."""
        self.say(f"{name}  {self._text}")
