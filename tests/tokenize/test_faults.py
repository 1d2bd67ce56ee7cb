"""`pealm tokenize` and faults: killed workers, full disks, damaged files; one line each, and the same command resumes."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pealm_data.shards import _Shard
from pealm_records import readers

PLUGIN = """
from dataclasses import dataclass
from pealm_core import TokenizerSpec, hookimpl
from pealm_records import readers
readers.RANGE = 4000

class Bytes:
    vocab_size, eot_id = 257, 256
    def encode(self, text):
        return list(text.encode())
    def decode(self, ids):
        return bytes(ids).decode()

@hookimpl
def pealm_tokenizers():
    return [TokenizerSpec(name="bytes", summary="x", factory=Bytes)]
"""
SIZE = ["--tokenizer", "bytes", "--input.val-fraction", "0.1", "--shard-size", "5000"]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "RANGE", 4000)


@pytest.fixture
def texts() -> list[str]:
    return [f"{i} " + "a rose is a rose " * (i % 9 + 1) for i in range(300)]


@pytest.fixture
def docs(texts: list[str], tmp_path: Path) -> Path:
    """Records that are cut into some parts."""
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def tokenize(pealm: Any, local: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Run the command: `tokenize(source, "out")` in this process, `tokenize(..., new=True)` starts another."""
    plugin = local("bytes_plugin", PLUGIN)

    def run(source: Path, out: str, *more: object, new: bool = False, **options: Any) -> Any:
        words = ["--plugin", plugin, "tokenize", "--input.records", source, *SIZE, "--out", tmp_path / out, *more]
        if new:
            command = [sys.executable, "-m", "pealm", *map(str, words)]
            return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
        return pealm(*words)

    return run


def content(folder: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    meta = json.loads(files.pop("meta.json"))
    return {**files, "meta": json.dumps(meta["splits"]).encode()}


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def keep_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work folder stays, so that a test sees what was done again."""
    monkeypatch.setattr("pealm_data.folder.Folder.finish", lambda *_: None)


def test_a_broken_line_is_named_and_after_its_repair_nothing_is_done_again(
    docs: Path, tokenize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tokenize(docs, "whole").code == 0
    good = docs.read_text()
    lines = good.splitlines(keepends=True)
    docs.write_text("".join([*lines[:250], lines[250][:-9] + "\n", *lines[251:]]))
    done = tokenize(docs, "out", "--workers", 1)
    *_, last = done.err.splitlines()
    assert done.code == 2 and last.startswith(f"pealm: {docs}, line 251 is not JSON")
    out = tmp_path / "out"
    shards, pieces = times(out, "*.npy"), times(out / ".tokenize", "0*.json")
    assert len(shards) > 2 and len(pieces) > 4
    docs.write_text(good)
    with pytest.MonkeyPatch.context() as patch:
        keep_pieces(patch)
        assert tokenize(docs, "out", "--workers", 1).code == 0
    assert {**times(out, "*.npy"), **shards} == times(out, "*.npy")
    assert {**times(out / ".tokenize", "0*.json"), **pieces} == times(out / ".tokenize", "0*.json")
    assert tokenize(docs, "out").code == 0
    assert content(out) == content(tmp_path / "whole")


def test_other_text_where_tokens_are_in_shards_is_refused(docs: Path, tokenize: Any, tmp_path: Path) -> None:
    good = docs.read_text()
    docs.write_text(good[:-9])
    assert tokenize(docs, "out", "--workers", 1).code == 2
    docs.write_text(good.replace('"0 a', '"7 a'))
    done = tokenize(docs, "out")
    assert done.code == 2 and "the input has changed where its tokens are in shards already" in done.err


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_a_truncated_file_is_named_and_replaced(suffix: str, texts: list[str], tokenize: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        some, path = texts[100 * number : 100 * number + 100], source / f"{number}{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"text": some}), path, row_group_size=20)
        else:
            path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in some).encode()))
    assert tokenize(source, "whole").code == 0
    last = source / f"2{suffix}"
    good = last.read_bytes()
    middle = len(good) // 3
    hole = good[:middle] + b"\0" * 99 + good[middle + 99 :]  # without the end of a parquet file, no work is started
    last.write_bytes(hole if suffix == ".parquet" else good[:-30])
    done = tokenize(source, "out", "--workers", 1)
    *_, line = done.err.splitlines()
    assert done.code == 2 and str(last) in line, done.err
    assert ("is truncated" if suffix != ".parquet" else "is not a readable parquet file") in line
    shards = times(tmp_path / "out", "*.npy")
    assert len(shards) > 2
    last.write_bytes(good)
    assert tokenize(source, "out").code == 0
    assert {**times(tmp_path / "out", "*.npy"), **shards} == times(tmp_path / "out", "*.npy")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_full_disk_in_the_middle(docs: Path, tokenize: Any, tmp_path: Path) -> None:
    assert tokenize(docs, "whole").code == 0
    limit = (9_000, 9_000)  # bytes of a file: pieces fit, shards do not
    full = tokenize(
        docs, "out", "--workers", 1, new=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    _, err = full.communicate()
    *_, last = err.splitlines()
    assert full.returncode == 2 and "can't be written: File too large; make room, and the same command" in last
    pieces = times(tmp_path / "out" / ".tokenize", "0*.json")
    assert pieces and not list((tmp_path / "out").glob("*.npy")) and not list((tmp_path / "out").rglob("*aside*"))
    with pytest.MonkeyPatch.context() as patch:
        keep_pieces(patch)
        assert tokenize(docs, "out", "--workers", 1).code == 0
    after = times(tmp_path / "out" / ".tokenize", "0*.json")
    assert {**after, **pieces} == after
    assert tokenize(docs, "out").code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_dropping_a_shard_on_a_full_disk_hides_no_error_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / ".val-00000.npy.aside").symlink_to("/dev/full")
    _Shard(tmp_path / "val-00000.npy", "uint16").drop()
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(stat.parent.name))
        except OSError:
            pass
    return pids


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the worker processes")
def test_a_killed_worker_is_one_line(docs: Path, tokenize: Any, tmp_path: Path) -> None:
    assert tokenize(docs, "whole").code == 0
    os.mkfifo(pipe := tmp_path / "gate")  # a worker waits here, so that it can be killed
    waiting = {**os.environ, "PEALM_TEST_GATE": str(pipe)}
    code = PLUGIN.replace("return list(text.encode())", "wait(text); return list(text.encode())") + (
        "\nimport os\ndef wait(text):\n"
        "    if text.startswith('150 ') and (gate := os.environ.get('PEALM_TEST_GATE')):\n        open(gate).read()\n"
    )
    (tmp_path / "bytes_plugin.py").write_text(code)
    run = tokenize(docs, "out", "--workers", 2, new=True, env=waiting)
    with pipe.open("w"):  # opens once a worker reads
        workers = [pid for pid in children(run.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        _, err = run.communicate()
    *_, last = err.splitlines()
    assert run.returncode == 1 and last.startswith(f"pealm: {tmp_path / 'out'}: a worker process died"), err
    assert tokenize(docs, "out", "--workers", 2).code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_parts_of_several_machines_join_in_one_folder(docs: Path, tokenize: Any, tmp_path: Path) -> None:
    """Two into one folder, one elsewhere, which is copied: no document is missing, and no name is taken twice."""
    assert tokenize(docs, "whole").code == 0
    for part, out in (("3/3", "elsewhere"), ("2/3", "joined"), ("1/3", "joined")):
        done = tokenize(docs, out, "--part", part, "--workers", 1)
        assert done.code == 0, done.err
    joined = tmp_path / "joined"
    assert not (joined / ".tokenize").exists() and "splits" not in json.loads((joined / "meta.json").read_text())
    names = {path.name for path in joined.glob("*.npy")}
    assert {"train-000000.npy", "val-000000.npy", "train-010000.npy", "val-010000.npy"} <= names
    for path in (tmp_path / "elsewhere").glob("*"):
        if path.suffix in (".npy", ".offsets") or path.name.startswith("part-"):
            assert not (joined / path.name).exists()
            (joined / path.name).write_bytes(path.read_bytes())
    assert "complete already" in tokenize(docs, "joined", "--part", "3/3").out
    whole, splits = (json.loads((tmp_path / out / "meta.json").read_text())["splits"] for out in ("whole", "joined"))
    for split in ("train", "val"):
        assert all(splits[split][key] == whole[split][key] for key in ("tokens", "documents"))
        assert documents(joined, split) == documents(tmp_path / "whole", split)
    for line, message in (
        (["--part", "1/2"], "which is divided differently"),
        (["--part", "1/3", "--limit", "99"], "was started with another limit"),
        ([], "which is divided differently"),
    ):
        done = tokenize(docs, "joined", *line)
        assert done.code == 2 and message in done.err, done.err
    done = tokenize(docs, "new", "--part", "99/99")
    assert done.code == 2 and "--part 99/99: the input has only" in done.err and "; use fewer machines" in done.err
    assert not (tmp_path / "new").exists()


def documents(folder: Path, split: str) -> list[bytes]:
    """Return a split's documents, sorted."""
    groups: dict[int, list[Any]] = {}
    for path in sorted(folder.glob(f"{split}-*.npy")):
        groups.setdefault(int(path.stem.rpartition("-")[2]) // 10_000, []).append(np.load(path))
    every = []
    for arrays in groups.values():
        ids = np.concatenate(arrays)
        every += [part[1:].astype("u1").tobytes() for part in np.split(ids, np.flatnonzero(ids == 256)) if len(part)]
    return sorted(every)


def test_a_run_names_shards_that_changed_since_it_was_started(
    docs: Path, tokenize: Any, pealm: Any, tmp_path: Path
) -> None:
    bpe = ["--tokenizer", "bpe", "--tokenizer.vocab-size", "300", "--workers", "1"]
    for out, records in (("shards", docs), ("others", docs)):
        fraction = "0.1" if out == "shards" else "0.2"
        line = ["--input.records", records, "--input.val-fraction", fraction, *bpe, "--out", tmp_path / out]
        assert pealm("tokenize", *line).code == 0
    tiny = ["--steps", "2", "--batch-size", "2", "--eval-tokens", "100", "--block-size", "16"]
    run = tmp_path / "run"
    train = ["train", "char-bigram", "--input.npy-shards", tmp_path / "shards", *tiny, "--out", run]
    assert pealm(*train).code == 0
    for name in ("train-00000", "val-00000"):
        (tmp_path / "shards" / f"{name}.npy").write_bytes((tmp_path / "others" / f"{name}.npy").read_bytes())
    done = pealm("train", "--out", run, "--steps", "4")
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert f"{run}: the input's text or tokenizer has changed since the run was started" in done.err
