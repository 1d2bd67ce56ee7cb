"""What tensors take of a CPU's memory: more than their sizes, since freed blocks rarely fit the next ones exactly."""

from bisect import bisect_left, insort
from collections.abc import Iterable

ALIGNED, HEADER, LEAST = 64, 16, 32  # bytes: of torch's tensors, of a chunk's sizes, of a chunk
PIN = 64  # bytes of something small beside a tensor, such as a node of autograd
MAPPED = 2**25  # bytes from which on glibc asks the system for each block, and returns it


class Heap:
    """A model of glibc's malloc: the best fitting free chunk, else what is free at the end, else more memory there.

    Free neighbours are joined, unless something small lies between them: with each tensor, something small is made.

    >>> heap = Heap()
    >>> for key, size in ((1, 1000), (2, 1000), (1, 0), (2, 0), (3, 1500)):  # 3 fits into neither gap
    ...     heap.change(key, size)
    >>> heap.peak
    3904
    """

    def __init__(self) -> None:
        self.peak = self._end = self._top = self._mapped = 0  # from top to end, all is free
        self._spare = 0  # pins whose tensor was freed
        self._used: dict[int, tuple[int, int]] = {}  # (start, size) by key; start -1: mapped
        self._free: list[tuple[int, int]] = []  # (size, start), sorted
        self._starts: dict[int, int] = {}  # of free blocks: their size
        self._ends: dict[int, int] = {}  # of free blocks: their start

    def change(self, key: int, size: int) -> None:
        """Take a block of so many bytes; 0: free it."""
        if size == 0:
            self._release(*self._used.pop(key))
            self._spare += 1
            return
        self._spare, pin = max(0, self._spare - 1), 0 if self._spare else PIN
        if size >= MAPPED:
            self._used[key] = (-1, size)
            self._mapped += size
        else:
            self._used[key] = self._take(size, pin)
        self.peak = max(self.peak, self._end + self._mapped)

    def _take(self, size: int, pin: int) -> tuple[int, int]:
        """Take a chunk whose content is aligned: glibc takes a larger one and frees the rest."""
        chunk = -(-(size + 8) // 16) * 16
        wanted = chunk + ALIGNED + LEAST
        place = bisect_left(self._free, (wanted, 0))
        if place < len(self._free):
            whole, start = self._free[place]
            self._remove(start)
        else:  # none is large enough
            start, whole = self._top, wanted + pin
            self._top = start + whole
            self._end = max(self._end, self._top)
        begin = -(-(start + HEADER) // ALIGNED) * ALIGNED - HEADER
        if 0 < begin - start < LEAST:
            begin += ALIGNED
        if begin > start:
            self._insert(start, begin - start)
        rest = start + whole - begin - chunk - pin
        if rest < LEAST:
            return begin, chunk + max(0, rest)
        self._release(begin + chunk + pin, rest)
        return begin, chunk

    def _release(self, start: int, size: int) -> None:
        if start < 0:
            self._mapped -= size
            return
        if (before := self._ends.get(start)) is not None:
            size, start = size + start - before, before
            self._remove(before)
        if (after := self._starts.get(start + size)) is not None:
            self._remove(start + size)
            size += after
        if start + size == self._top:
            self._top = start
        else:
            self._insert(start, size)

    def _insert(self, start: int, size: int) -> None:
        insort(self._free, (size, start))
        self._starts[start], self._ends[start + size] = size, start

    def _remove(self, start: int) -> None:
        size = self._starts.pop(start)
        del self._ends[start + size]
        self._free.pop(bisect_left(self._free, (size, start)))


def peak(events: Iterable[tuple[int, int]]) -> int:
    """Return the most bytes that are taken after (key, size) events; size 0 frees a block."""
    heap = Heap()
    for key, size in events:
        heap.change(key, size)
    return heap.peak
