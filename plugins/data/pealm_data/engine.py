"""From the documents of a dataset to token shards, with worker processes; killed, the same command resumes.

Workers tokenize pieces of the dataset to files of their own; the main process appends these, in order, to the shards.
So the shards depend neither on the number of workers nor on where an earlier run was killed.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pealm_core import PealmError, Tokenizer, UserError
from pealm_data.folder import TOKENIZER, Folder
from pealm_data.parts import SPLITS, of_machine, parts_of
from pealm_data.pool import pickling_error, workers
from pealm_data.progress import Meter
from pealm_data.shards import ShardWriter, State, read_states
from pealm_data.units import Pieces, Unit, path_of, tokenized
from pealm_data.worker import MASK, OFFSETS, TOKENS, Counts, Task, file_of, identity, same_as_before, tokenize_piece

FORMAT = 1  # of meta.json
TOKENS_PER_BYTE = 0.3  # of the input; measured once the first pieces are done
PER_MACHINE = 10_000  # numbers of shards that each of several machines has


@dataclass(frozen=True)
class Plan:
    """What to write. limit: of training tokens; at most a tenth of it for validation.

    part: (i, n) for the i-th of n machines. facts: for meta.json, and must be the same to resume.
    """

    out: Path
    shard_size: int
    limit: int | None
    workers: int
    facts: Mapping[str, Any]
    part: tuple[int, int] = (1, 1)

    def limit_of(self, split: str) -> int | None:
        """Return the most tokens of a split."""
        return self.limit if self.limit is None or split == "train" else max(2, self.limit // 10)


def write_shards(plan: Plan, dataset: Any, tokenizer: Callable[[Path], Tokenizer]) -> None:
    """Write the shards of a plan, or the rest of them. Raises PealmError.

    tokenizer: returns it, loaded from a folder that has its files, or saved there.
    """
    folder = Folder(plan.out, *plan.part, {**plan.facts, "shard_size": plan.shard_size, "limit": plan.limit})
    if folder.is_done():
        folder.count_all()  # of machines whose files were copied into the folder
        print(f"{plan.out} is complete already")
        return
    with folder.locked():
        every, parallel = parts_of(dataset)
        parts = of_machine(every, *plan.part)
        states = read_states(folder.work)
        folder.check_same([*map(identity, parts)], lambda index: _is_unchanged(index, parts, states, folder.work))
        made = tokenizer(plan.out / TOKENIZER)
        dtype = "uint16" if made.vocab_size <= 2**16 else "uint32"
        more = {"format": FORMAT, "dtype": dtype, "vocab_size": made.vocab_size}
        folder.write_meta(more)  # so that whoever opens these shards too early has their tokenizer
        with Meter(sum(part.size for part in parts) if plan.limit is None else plan.limit) as meter:
            count = plan.workers if parallel else 1
            Writing(plan, dataset, parts, folder.work, dtype, meter, states).run(made, count)
            folder.finish()
            tokens, shards = (sum(getattr(state, key) for state in states.values()) for key in ("tokens", "shards"))
            meter.say(f"{plan.out}: {tokens:,} tokens in {shards:,} shards")


class Writing:
    """Tokenizing what remains of the parts, and writing it to shards."""

    def __init__(
        self,
        plan: Plan,
        dataset: Any,
        parts: Sequence[Any],
        work: Path,
        dtype: str,
        meter: Meter,
        states: dict[str, State],
    ) -> None:
        self.plan, self.parts, self.work, self.dtype, self.meter = plan, parts, work, dtype, meter
        self._name = getattr(dataset, "shard_name", None)
        self.limits = {split: plan.limit_of(split) for split in (("train",) if self._name else SPLITS)}
        self.writers = {
            split: ShardWriter(work, split, dtype, plan.shard_size, limit, states, self._namer(split))
            for split, limit in self.limits.items()
        }
        self._in_files: dict[str, list[Path]] = {split: [] for split in self.limits}  # not in complete shards

    def run(self, tokenizer: Tokenizer, count: int) -> None:
        """Write the shards with this number of worker processes. Raises PealmError."""
        first = min(writer.position for writer in self.writers.values())
        ahead = self.plan.limit is None  # with a limit, the current part may well be the last one
        pieces = Pieces(self.parts, first, self.work, self._task, prefetch=ahead, say=self.meter.say)
        total, start = (float(sum(part.size for part in parts)) for parts in (self.parts, self.parts[: first[0]]))
        done, added, train = start, 0, self.writers["train"]
        self._check_disk(first[0], total - start, TOKENS_PER_BYTE)
        self._show(done, 0)
        try:
            function = partial(tokenize_piece, tokenizer=tokenizer)
            if count == 1:
                function = partial(function, report=lambda more: self._show(done, more))
            elif reason := pickling_error(function, self.parts[:1]):
                raise PealmError(f"this input or tokenizer can't be used by several workers ({reason}); --workers 1")
            with workers(function, count, f"{self.plan.out}: ") as submit:
                units = tokenized(pieces, submit, 2 * count if count > 1 else 1)
                for unit, counts in () if self._all_full() else units:
                    done, added = done + unit.size, added + sum(one.tokens for one in counts.values())
                    self._add(unit, counts, done)
                    self._check_disk(unit.part + 1, total - done, added / max(1.0, done - start))
                    reached = train.full and (unit.part, unit.piece) >= train.position
                    if self._all_full() or (reached and all(w.now.tokens for w in self.writers.values())):
                        break
            self._check_splits()
            for writer in self.writers.values():
                for name in writer.finish():
                    self.meter.shard(name)
        finally:
            for writer in self.writers.values():
                writer.close()

    def _all_full(self) -> bool:
        return all(writer.full for writer in self.writers.values())

    def _task(self, piece: Any, path: Path) -> Task:
        return Task(piece, path, self.dtype, self.limits)

    def _show(self, done: float, more: int) -> None:
        tokens = sum(writer.now.tokens for writer in self.writers.values()) + more
        self.meter.update(done if self.plan.limit is None else self.writers["train"].now.tokens + more, tokens)

    def _add(self, unit: Unit, counts: Mapping[str, Counts], done: float) -> None:
        """Append a piece's tokens to the shards, and remove the files of those before once a shard is complete."""
        for split, writer in self.writers.items():
            for name in writer.add((unit.part, unit.piece), unit.task.path, counts.get(split, Counts())):
                self._show(done, 0)
                self.meter.shard(name)
                for path in self._in_files[split]:
                    for suffix in (TOKENS, OFFSETS, MASK):
                        file_of(path, split, suffix).unlink(missing_ok=True)
                self._in_files[split].clear()
            self._in_files[split].append(unit.task.path)
        self._show(done, 0)

    def _namer(self, split: str) -> Callable[[int], Path]:
        """Return what gives the path of a shard by its number."""
        part, machines = self.plan.part

        def path(number: int) -> Path:
            if machines > 1 and number >= PER_MACHINE:
                raise UserError(
                    f"{self.plan.out}: more than {PER_MACHINE:,} shards of one --part; raise --shard-size"
                )
            number += (part - 1) * PER_MACHINE
            name = self._name(number) if self._name else f"{split}-{number:0{5 if machines == 1 else 6}d}"
            return self.plan.out / f"{name}.npy"

        return path

    def _check_splits(self) -> None:
        """Raise UserError if nothing is left for one of the splits."""
        if self.plan.part == (1, 1) and not any(writer.now.tokens for writer in self.writers.values()):
            raise UserError("the input has no text")
        for split, writer in self.writers.items():
            if not writer.now.tokens and self.plan.part == (1, 1):
                what, more = ("validation", "larger") if split == "val" else ("training", "smaller")
                raise UserError(f"the input has no {what} text; it may need a {more} --input.val-fraction")
        train = self.writers["train"]
        if self._name and self.plan.part == (1, 1) and train.count < 2:
            raise UserError(
                f"all {train.now.tokens:,} tokens fit into the first shard, which is for validation; "
                f"give --shard-size {max(1, train.now.tokens // 10)}"
            )

    def _check_disk(self, first: int, source_bytes: float, tokens_per_byte: float) -> None:
        """Raise UserError if the tokens of the parts from `first` on won't fit on the disk."""
        size = np.dtype(self.dtype).itemsize
        need = source_bytes * tokens_per_byte * size
        if self.plan.limit is not None:
            need = min(need, 1.1 * size * self.plan.limit)
        if hasattr(self.parts[0], "remove"):  # the current file and the next one
            need += sum(sorted(part.size for part in self.parts[first:])[-2 if self.plan.limit is None else -1 :])
        free = shutil.disk_usage(self.plan.out).free
        if need > free:
            raise UserError(
                f"{self.plan.out} needs about {_bytes(need)} more, and its disk has {_bytes(free)} free; "
                f"make room, and the same command resumes, or give a --limit"
            )


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _is_unchanged(index: int, parts: Sequence[Any], states: Mapping[str, State], work: Path) -> bool:
    """Whether a part, whose modification time or size has changed, is the same where its tokens are in shards."""
    used = max(((state.part, state.piece, state.offset) for state in states.values()), default=(0, 0, 0))
    if used <= (index, 0, 0):
        return True
    if index >= len(parts):
        return False
    part, pieces = parts[index], []
    pieces = list(part.fetch(work, quiet=True)) if hasattr(part, "fetch") else [part]
    return all(
        same_as_before(Task(piece, path_of(work, index, number if hasattr(part, "fetch") else None), "", {}))
        for number, piece in enumerate(pieces)
        if (index, number, 0) < used
    )
