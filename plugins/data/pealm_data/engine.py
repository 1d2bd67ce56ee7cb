"""From the documents of a dataset to token shards, with worker processes; killed, the same command resumes.

Workers tokenize parts of the dataset to files of their own; the main process appends these, in order, to the shards.
So the shards depend neither on the number of workers nor on where an earlier run was killed.
"""

import json
import multiprocessing
import os
import pickle
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pealm_core import Dataset, PealmError, Tokenizer, UserError
from pealm_data.folder import META, TOKENIZER, WORK, check_same, locked
from pealm_data.progress import Meter
from pealm_data.shards import ShardWriter, State, read_states
from pealm_data.worker import MASK, OFFSETS, TOKENS, Counts, Part, Task, in_worker, start, tokenize_part, write_file

SPLITS = ("val", "train")  # a missing validation split is noticed before the long one
FORMAT = 1  # of meta.json
COUNTS = ("shards", "tokens", "documents")  # of a split, in meta.json
BYTES_PER_SOURCE_BYTE = 0.6  # of tokens of two bytes; measured once the first parts are done


@dataclass(frozen=True)
class Plan:
    """What to write. limit: of training tokens; a tenth of it for validation. facts: for meta.json, as the input."""

    out: Path
    shard_size: int
    limit: int | None
    workers: int
    facts: Mapping[str, Any]

    def limit_of(self, split: str) -> int | None:
        """Return the most tokens of a split."""
        return self.limit if self.limit is None or split == "train" else max(2, self.limit // 10)


class WholeSplit:
    """A split of a dataset without parts, as its only part."""

    size = 0

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset, self._split, self.name = dataset, split, split

    def documents(self) -> Iterator[Any]:
        """Return the split's documents."""
        return self._dataset.documents(self._split)


def write_shards(plan: Plan, dataset: Any, tokenizer: Callable[[Path], Tokenizer]) -> None:
    """Write the shards of a plan, or what is left of them. Raises PealmError.

    tokenizer: returns it, loaded from a folder that has its files, or saved there.
    """
    work = plan.out / WORK
    if _is_done(plan):
        print(f"{plan.out} is complete already")
        return
    with locked(plan.out, work):
        parts = {split: parts_of(dataset, split) for split in SPLITS}
        settings = _settings(plan, parts)
        check_same(work / "plan.json", settings)
        made = tokenizer(plan.out / TOKENIZER)
        _write_meta(plan, made, {})  # so that whoever opens these shards too early has their tokenizer
        states = read_states(work)
        total = sum(part.size for some in parts.values() for part in some)
        with Meter(total if plan.limit is None else plan.limit) as meter:
            for split in SPLITS:
                if not states.get(split, State()).done:
                    _write_split(plan, split, parts, made, states, meter)
            counts = {
                split: {key: v for key, v in asdict(states[split]).items() if key in COUNTS} for split in SPLITS
            }
            _write_meta(plan, made, {"splits": counts})
            tokens, shards = (sum(count[key] for count in counts.values()) for key in ("tokens", "shards"))
            meter.say(
                f"{plan.out}: {tokens:,} tokens in {shards:,} shards, {counts['val']['tokens']:,} for validation"
            )
    shutil.rmtree(work, ignore_errors=True)


def _write_meta(plan: Plan, tokenizer: Tokenizer, more: Mapping[str, Any]) -> None:
    known = {"format": FORMAT, "dtype": dtype_of(tokenizer), "vocab_size": tokenizer.vocab_size}
    with write_file(plan.out / META) as file:
        file.write(json.dumps({**known, **plan.facts, **more}, indent=1, ensure_ascii=False).encode())


def dtype_of(tokenizer: Tokenizer) -> str:
    """Return the type of a shard's ids."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def parts_of(dataset: Any, split: str) -> Sequence[Part]:
    """Return the independent parts of a split; a dataset without parts is one."""
    parts: Sequence[Part] = list(dataset.parts(split)) if hasattr(dataset, "parts") else []
    return parts or [WholeSplit(dataset, split)]


def _write_split(
    plan: Plan,
    split: str,
    parts: Mapping[str, Sequence[Part]],
    tokenizer: Tokenizer,
    states: dict[str, State],
    meter: Meter,
) -> None:
    own, work, dtype = parts[split], plan.out / WORK, dtype_of(tokenizer)
    before = 0 if split == SPLITS[0] else sum(part.size for part in parts[SPLITS[0]])
    writer = ShardWriter(plan.out, work, split, dtype, plan.shard_size, plan.limit_of(split), states)
    first = writer.now.part
    tasks = [
        Task(part, work / f"{split}-{index:06d}", dtype, plan.limit_of(split))
        for index, part in enumerate(own)
        if index >= first
    ]
    sizes = [part.size for part in own]
    done, written = sum(sizes[:first]), 0
    _check_disk(plan, sum(sizes[first:]), BYTES_PER_SOURCE_BYTE)
    try:
        for index, (task, counts) in enumerate(_tokenized(plan, tasks, tokenizer), first):
            for name in writer.add(index, task.path, counts):
                for old in tasks[: index - first]:
                    _remove(old.path)
                meter.shard(name)
            done, written = done + sizes[index], written + counts.tokens * np.dtype(dtype).itemsize
            ratio = written / max(1, done - sum(sizes[:first]))
            _check_disk(plan, sum(sizes[index + 1 :]), ratio)
            meter.update(before + done if plan.limit is None else writer.now.tokens, writer.now.tokens)
            if writer.full:
                break
        if not writer.now.tokens:
            raise UserError(f"the input has no {'validation' if split == 'val' else 'training'} text")
        for name in writer.finish():
            meter.shard(name)
    finally:
        writer.close()
    for task in tasks:
        _remove(task.path)


def _tokenized(plan: Plan, tasks: Sequence[Task], tokenizer: Tokenizer) -> Iterator[tuple[Task, Counts]]:
    """Yield each task with its result, in order; some tasks ahead of it are worked on at the same time."""
    parallel = plan.workers > 1 and not any(isinstance(task.part, WholeSplit) for task in tasks)
    if not parallel:
        for task in tasks:
            yield task, tokenize_part(task, tokenizer)
        return
    try:
        pickle.dumps((tokenizer, tasks[:1]))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PealmError(
            f"this input or tokenizer can't be used by several workers ({reason}); --workers 1"
        ) from error
    folders = [str(Path(name).parent) for name in os.environ.get("PEALM_PLUGINS", "").split(os.pathsep) if name]
    sys.path += folders  # workers start with this path, so that they can import local plugins
    pool = ProcessPoolExecutor(
        min(plan.workers, len(tasks)), multiprocessing.get_context("spawn"), initializer=start, initargs=(tokenizer,)
    )
    todo, running = deque(tasks), deque[tuple[Task, "Future[Counts]"]]()
    try:
        while todo or running:
            while todo and len(running) < 2 * plan.workers:
                task = todo.popleft()
                running.append((task, pool.submit(in_worker, task)))
            task, result = running.popleft()
            yield task, result.result()
    except BrokenProcessPool as error:
        raise PealmError(
            f"{plan.out}: a worker process died, perhaps out of memory; run the same command with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        del sys.path[len(sys.path) - len(folders) :]


def _is_done(plan: Plan) -> bool:
    """Whether the folder has all shards of this input and tokenizer."""
    with suppress(OSError, ValueError, RecursionError):
        meta = json.loads((plan.out / META).read_text(encoding="utf-8"))
        return not (plan.out / WORK).exists() and {key: meta[key] for key in plan.facts} == dict(plan.facts)
    return False


def _settings(plan: Plan, parts: Mapping[str, Sequence[Part]]) -> dict[str, Any]:
    """Return what must be the same to resume, as JSON."""
    listed = {s: [[p.name, p.size, getattr(p, "version", "")] for p in some] for s, some in parts.items()}
    own = {"shard size": plan.shard_size, "limit": plan.limit, **plan.facts, "files": listed}
    same: dict[str, Any] = json.loads(json.dumps(own))
    return same


def _check_disk(plan: Plan, source_bytes: int, ratio: float) -> None:
    """Raise UserError if the tokens of what is left won't fit on the disk."""
    need = source_bytes * ratio
    if plan.limit is not None:
        need = min(need, 4.4 * plan.limit)
    free = shutil.disk_usage(plan.out).free
    if need > free:
        raise UserError(
            f"{plan.out} needs about {need / 1e9:,.1f} GB more, and its disk has {free / 1e9:,.1f} GB free; make "
            f"room, and the same command resumes, or give a --limit"
        )


def _remove(path: Path) -> None:
    for suffix in (".json", TOKENS, OFFSETS, MASK):
        path.with_suffix(suffix).unlink(missing_ok=True)
