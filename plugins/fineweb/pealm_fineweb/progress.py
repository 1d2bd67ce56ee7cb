"""What a preparation shows: a live line on a terminal, lines that stay elsewhere and for every shard."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Meter:
    """Progress towards `total`, in any unit, with the time left.

    The live line is there from the first update on, as a download before it has a bar of its own, and until the end
    of `with meter:`.
    """

    def __init__(self, total: float) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}"), console=self.console, transient=True
        )
        self._task = self._live.add_task("", total=1.0)
        self._total = total
        self._first: tuple[float, int, float] | None = None  # done, tokens, time of the first update
        self._text = ""

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False)

    def update(self, done: float, tokens: int) -> None:
        """done: how much of the total; tokens: how many so far. The first call says where it begins."""
        if self._first is None:
            self._first = done, tokens, time.monotonic()
            if self.console.is_terminal:
                self._live.start()
        done_before, tokens_before, begun = self._first
        share, seconds = min(1.0, done / self._total), max(1e-9, time.monotonic() - begun)
        self._text = f"{100 * share:.0f}%  {tokens:,} tokens  {(tokens - tokens_before) / seconds:,.0f} tokens/s"
        if done > done_before:
            left = max(0, int((self._total - done) / (done - done_before) * seconds))
            self._text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self._live.update(self._task, completed=share, description=self._text)

    def shard(self, name: str) -> None:
        """A shard is on the disk."""
        self.say(f"{name}  {self._text}")
