"""From parquet files to token shards, with worker processes; killed, it goes on where it was.

The stream of a part is its files' documents in order, each after an end-of-text token, cut into shards wherever one
is full. Workers only decide who tokenizes a piece of it, never what comes where.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pealm_core import PealmError, UserError
from pealm_fineweb.config import ENCODING, END_OF_TEXT, SHARD_SIZE, VOCAB_SIZE
from pealm_fineweb.progress import Meter
from pealm_fineweb.source import HubSource, LocalSource, SourceFile
from pealm_fineweb.stream import Files, Opened, tokens_of
from pealm_fineweb.worker import gpt2, start
from pealm_fineweb.writer import ShardWriter, State, atomically, read_state, state_path

SHARD_BYTES_PER_SOURCE_BYTE = 0.8  # FineWeb-Edu: 10 billion tokens of two bytes from 28.5 GB of parquet, rounded up


@dataclass(frozen=True)
class Plan:
    """What to prepare: part `part` of `parts`, at most `limit` tokens of it; source None is the hub."""

    out: Path
    source: Path | None = None
    part: int = 1
    parts: int = 1
    limit: int | None = None
    shard_size: int = SHARD_SIZE
    workers: int | None = None

    @property
    def tokens_per_shard(self) -> int:
        """With a limit a tenth of it at most, so that a trial has more than a val shard."""
        return self.shard_size if self.limit is None else min(self.shard_size, max(1, self.limit // 10))


def prepare(plan: Plan) -> None:
    """Do what is left to do of a plan. Raises PealmError."""
    path, work = state_path(plan.out, plan.part, plan.parts), plan.out / f".part-{plan.part}-of-{plan.parts}"
    settings = {"parts": plan.parts, "limit": plan.limit, "shard_size": plan.tokens_per_shard}
    state = read_state(path)
    _check_folder(plan, path, state, settings)
    if state is not None and state.done:
        print(f"{plan.out}: {path.stem} is prepared already, {state.tokens:,} tokens in {state.shards:,} shards")
        return
    with _locked(work):
        source = LocalSource(plan.source) if plan.source is not None else HubSource(work)
        files = _files_of_part(plan, source.files())
        listed = [[file.name, file.size, file.mark] for file in files]
        if state is not None and state.files != listed:
            raise UserError(f"{path}: the source's files have changed since it was begun; give another --out")
        state = state or State(settings, listed)
        _check_disk(plan, state, files, source.downloads)
        gpt2()  # a missing vocabulary is told once, before any worker looks for it
        state.save(path)
        meta = {"tokenizer": "tiktoken", "encoding": ENCODING, "vocab_size": VOCAB_SIZE, "eot_id": END_OF_TEXT}
        with atomically(plan.out / "meta.json") as file:
            file.write(json.dumps(meta, indent=1).encode())
        writer = ShardWriter(plan.out, work, plan.part, plan.tokens_per_shard, plan.limit, state)
        meter = Meter(plan.limit or sum(file.size for file in files))
        if not writer.full():
            _fill(plan, source, files, writer, meter)
        if plan.parts == 1 and writer.count < 2:
            raise UserError(
                f"all {writer.tokens:,} tokens fit into the val shard, which leaves none to train on; "
                f"remove {plan.out} and give --shard-size {max(1, writer.tokens // 10)}"
            )
        for name in writer.finish():
            meter.shard(name)
        meter.say(f"{plan.out}: {writer.tokens:,} tokens in {writer.state.shards:,} shards")
        shutil.rmtree(work, ignore_errors=True)


def _fill(
    plan: Plan, source: HubSource | LocalSource, files: list[SourceFile], writer: ShardWriter, meter: Meter
) -> None:
    """Tokenize what is left of the files into the writer."""
    workers, begun, skip = plan.workers or cores(), writer.state, writer.state.offset
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start)
    # With a limit the file at hand may well be the last.
    stream = Files(source, files, begun.file, begun.row, prefetch=plan.limit is None, say=meter.say)

    def progress(file: Opened, row: int) -> None:
        share = row / max(1, file.rows)
        size = sum(other.size for other in files[: file.place]) + share * files[file.place].size
        meter.update(writer.tokens if plan.limit else size, writer.tokens)

    def begin(file: Opened) -> None:
        name, size = files[file.place].name, files[file.place].size
        meter.say(f"{name}  file {file.place + 1} of {len(files)}, {size / 1e6:,.1f} MB")
        if file.place == begun.file:
            progress(file, begun.row)

    try:
        with meter:
            for file, piece, tokens in tokens_of(stream, pool, max(32, 4 * workers), begin):
                if piece is None or tokens is None:
                    writer.end_file(file.place)
                    source.release(file.path)
                    continue
                shards, skip = list(writer.add(tokens, file.place, piece.row, skip)), 0
                progress(file, piece.row + len(tokens.ends))
                for name in shards:
                    meter.shard(name)
                if writer.full():
                    return
    except BrokenProcessPool as error:
        raise PealmError(
            f"{plan.out}: a worker process died, perhaps for want of memory; run the same again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _files_of_part(plan: Plan, files: list[SourceFile]) -> list[SourceFile]:
    """Every parts-th file."""
    if plan.parts > len(files):
        raise UserError(f"--part {plan.part}/{plan.parts}: the source has only {len(files)} files to share")
    return files[plan.part - 1 :: plan.parts]


def _check_folder(plan: Plan, path: Path, state: State | None, settings: dict[str, int | None]) -> None:
    """Raise UserError where the folder holds something else."""
    if state is not None:
        for key, value in settings.items():
            if state.settings.get(key) != value:
                raise UserError(
                    f"{path} was begun with {key} = {state.settings.get(key)}, not {value}; go on with the same, "
                    f"or give another --out"
                )
        return
    others = [other.stem for other in plan.out.glob("part-*-of-*.json")]
    if wrong := [name for name in others if not name.endswith(f"-of-{plan.parts}")]:
        raise UserError(f"{plan.out} holds {wrong[0]}, which is cut another way; give another --out")
    if not others and any(plan.out.glob("edufineweb_*.npy")):
        raise UserError(f"{plan.out} holds shards that were not prepared here; give another --out")


def _check_disk(plan: Plan, state: State, files: list[SourceFile], downloads: bool) -> None:
    """Raise UserError where what is left to write won't fit."""
    left = files[state.file :]
    need = SHARD_BYTES_PER_SOURCE_BYTE * sum(file.size for file in left)
    if plan.limit is not None:
        need = min(need, 2.0 * (plan.limit - state.tokens))
    if downloads:
        at_once = 2 if plan.limit is None else 1  # the file at hand and the next one
        need += sum(sorted(file.size for file in left)[-at_once:])
    free = shutil.disk_usage(plan.out).free
    if need > free:
        raise UserError(
            f"{plan.out} needs about {need / 1e9:,.1f} GB, and its disk has {free / 1e9:,.1f} GB free; "
            f"give another --out, a --limit, or a --part"
        )


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the part's folder. Raises UserError where another process has it, or it can't be made."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        folder = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{work} can't be made: {error.strerror}; give another --out") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{work.parent}: another process prepares this part right now") from None
        try:
            yield
        finally:
            with suppress(OSError):  # nothing was begun: leave nothing
                work.rmdir()
                work.parent.rmdir()
    finally:
        os.close(folder)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
