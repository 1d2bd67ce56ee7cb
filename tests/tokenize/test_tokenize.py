"""`pealm tokenize`: the same shards for any number of workers and kills, with their tokenizer."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pealm_core import load
from pealm_records import readers

TINY = ["--steps", "2", "--batch-size", "2", "--eval-tokens", "500", "--block-size", "16", "--micro-batch-size", "2"]
GPT2 = ["--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "16"]
BPE = ["--tokenizer", "bpe", "--tokenizer.vocab-size", "300"]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of records that is cut into several parts."""
    monkeypatch.setattr(readers, "RANGE", 8000)
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "and",
        "runs",
        "away",
        "from",
        "here",
    ]
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(words, 40)) + f" {i}"}) for i in range(400)]
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join(lines))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_tokenize(pealm: Callable[..., Any], source: Path, out: Path, *more: object) -> dict[str, bytes]:
    options = ["--input.records", source, "--input.val-fraction", "0.05", *BPE, "--shard-size", "1500"]
    result = pealm("tokenize", *options, "--out", out, *more)
    assert result.code == 0, result.err
    return content(out)


def test_the_shards_are_the_same_for_any_number_of_workers(pealm: Any, docs: Path, tmp_path: Path) -> None:
    one = run_tokenize(pealm, docs, tmp_path / "one", "--workers", 1)
    assert one == run_tokenize(pealm, docs, tmp_path / "two", "--workers", 2)
    assert {"meta.json", "tokenizer/tokenizer.json", "train-00003.npy", "train-00003.offsets", "val-00000.npy"} <= {
        *one
    }
    meta = json.loads(one["meta.json"])
    assert meta["tokenizer"].items() >= {"name": "bpe", "vocab-size": 300, "pattern": "gpt2"}.items()
    ids = {
        s: np.concatenate([np.load(p) for p in sorted((tmp_path / "one").glob(f"{s}-*.npy"))])
        for s in ("train", "val")
    }
    for split, facts in meta["splits"].items():
        assert (len(ids[split]), ids[split].dtype) == (facts["tokens"], np.uint16)
        assert np.count_nonzero(ids[split] == 299) == facts["documents"]
    assert sum(facts["documents"] for facts in meta["splits"].values()) == 400
    starts = np.fromfile(tmp_path / "one" / "train-00001.offsets", "<u8").astype(int)
    assert np.flatnonzero(np.load(tmp_path / "one" / "train-00001.npy") == 299).tolist() == starts.tolist()


def test_parquet_and_jsonl_give_the_same_shards(pealm: Any, docs: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [json.loads(line)["text"] for line in docs.read_text().splitlines()]
    pq.write_table(pa.table({"text": texts}), tmp_path / "docs.parquet", row_group_size=50)
    shards = [
        run_tokenize(pealm, path, tmp_path / path.suffix[1:], "--workers", 2)
        for path in (docs, tmp_path / "docs.parquet")
    ]
    for files in shards:
        assert json.loads(files.pop("meta.json"))["splits"]["train"]["tokens"] > 10_000
    assert shards[0] == shards[1]


def test_models_train_on_shards_with_their_tokenizer(pealm: Any, docs: Path, tmp_path: Path) -> None:
    run_tokenize(pealm, docs, shards := tmp_path / "shards")
    for model, sizes in (
        ("gpt2", GPT2),
        ("sprout", GPT2),
    ):
        run = tmp_path / model
        done = pealm("train", model, "--input.npy-shards", shards, *TINY, *sizes, "--out", run)
        assert done.code == 0, done.err
        lm = load(run)
        assert lm.tokenizer.vocab_size == 300
        assert content(run / "best" / "tokenizer") == content(shards / "tokenizer")
    # A text with the tokenizer of the shards, of a run and of a checkpoint.
    book = tmp_path / "book.txt"
    book.write_text("the lazy dog runs " * 200)
    for number, folder in enumerate((shards, tmp_path / "gpt2", tmp_path / "gpt2" / "best")):
        run = tmp_path / f"run{number}"
        done = pealm("train", "char-bigram", "--input.text", book, "--tokenizer-dir", folder, *TINY, "--out", run)
        assert done.code == 0, done.err
        assert content(run / "best" / "tokenizer") == content(shards / "tokenizer")
        assert pealm("train", "--out", run, "--steps", "3").code == 0
    done = pealm("train", "char-bigram", "--input.text", book, "--tokenizer-dir", shards, "--tokenizer", "char")
    assert done.code == 2 and "has the tokenizer 'bpe', not 'char'" in done.err
    done = pealm("train", "gpt2", "--input.npy-shards", shards, "--tokenizer", "char", *TINY, *GPT2)
    assert done.code == 2 and "has the tokenizer 'bpe', not 'char'" in done.err
    done = pealm("tokenize", "--input.text", book, "--tokenizer-dir", shards, "--out", tmp_path / "more")
    assert done.code == 0, done.err
    assert content(tmp_path / "more" / "tokenizer") == content(shards / "tokenizer")


def test_killed_at_any_moment_the_same_command_resumes(pealm: Any, docs: Path, tmp_path: Path) -> None:
    whole = run_tokenize(pealm, docs, tmp_path / "whole")
    code = """
        import os, sys
        from pathlib import Path
        from pealm_data import shards
        from pealm_records import readers
        readers.RANGE = 8000
        flush, killed = shards.ShardWriter._flush, int(sys.argv.pop())
        def dying(writer, **position):
            name = flush(writer, **position)
            if writer.split == "train" and writer.now.shards == killed:
                os.kill(os.getpid(), 9)
            return name
        shards.ShardWriter._flush = dying
        from pealm_core.cli import main
        main(sys.argv[1:])
    """
    out, options = tmp_path / "out", ["--input.records", docs, "--input.val-fraction", "0.05", *BPE]
    for shard in (1, 3):
        words = ["tokenize", *options, "--shard-size", "1500", "--workers", "1", "--out", out, shard]
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, words)], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    refused = pealm("train", "gpt2", "--input.npy-shards", out, *TINY, *GPT2)
    assert refused.code == 2 and "is incomplete" in refused.err
    char = ["--input.records", docs, "--input.val-fraction", "0.05", "--tokenizer", "char"]
    other = pealm("tokenize", *char, "--shard-size", "1500", "--out", out)
    assert other.code == 2 and "was started with another tokenizer: 'bpe', not 'char'; give" in other.err
    other = pealm("tokenize", *options, "--shard-size", "1000", "--out", out)
    assert other.code == 2 and "was started with another shard size: 1500, not 1000" in other.err
    assert run_tokenize(pealm, docs, out, "--workers", 2) == whole
    assert all((out / name).stat().st_mtime_ns == when for name, when in written.items())
    assert "complete already" in pealm("tokenize", *options, "--shard-size", "1500", "--out", out).out
    other = pealm("tokenize", "--input.records", docs, "--tokenizer", "char", "--out", out)
    assert other.code == 2 and "has token shards already" in other.err


def test_a_limit_and_a_source_that_changes(pealm: Any, docs: Path, tmp_path: Path) -> None:
    files = run_tokenize(pealm, docs, tmp_path / "a", "--limit", 4000)
    counts = json.loads(files["meta.json"])["splits"]
    assert counts["train"]["tokens"] == 4000 and 0 < counts["val"]["tokens"] <= 400
    done = pealm("tokenize", "--input.records", docs, "--input.val-fraction", "1e-9", *BPE, "--out", tmp_path / "b")
    assert done.code == 2 and "no validation text; it may need a larger --input.val-fraction" in done.err
    run_tokenize(pealm, docs, tmp_path / "b")  # nothing but a tokenizer was there
    docs.write_text('{"text": null}\n')
    done = pealm("tokenize", "--input.records", docs, "--tokenizer-dir", tmp_path / "b", "--out", tmp_path / "c")
    assert done.code == 2 and done.err.endswith("pealm: the input has no text\n")


def test_a_dead_worker_is_one_line(pealm: Any, docs: Path, tmp_path: Path, local: Callable[..., Path]) -> None:
    plugin = local(
        "dying",
        """
        import os
        from dataclasses import dataclass
        from pealm_core import DatasetSpec, TokenizerSpec, hookimpl

        @dataclass(frozen=True)
        class Part:
            name: str
            size: int = 1
            def documents(self):
                if os.environ.get("DIE") == self.name:
                    os._exit(9)
                yield self.name

        class Data:
            def parts(self, split):
                return [Part(f"{split}{i}") for i in range(4)]
            def documents(self, split):
                return (document for part in self.parts(split) for document in part.documents())

        class Bytes:
            vocab_size = 256
            def encode(self, text):
                return list(text.encode())
            def decode(self, ids):
                return bytes(ids).decode()

        @hookimpl
        def pealm_datasets():
            return [DatasetSpec(name="dying", summary="x", factory=Data)]

        @hookimpl
        def pealm_tokenizers():
            return [TokenizerSpec(name="bytes", summary="x", factory=Bytes)]
        """,
    )
    words = [
        "--plugin",
        plugin,
        "tokenize",
        "--input.dying",
        "--tokenizer",
        "bytes",
        "--workers",
        2,
        "--out",
        tmp_path / "o",
    ]
    os.environ["DIE"] = "train2"
    try:
        done = pealm(*words)
    finally:
        del os.environ["DIE"]
    assert done.code == 1 and "a worker process died" in done.err
    assert pealm(*words).code == 0
    assert bytes(np.load(tmp_path / "o" / "train-00000.npy").astype(np.uint8)) == b"train0train1train2train3"


def test_masks_and_parts_that_continue(pealm: Any, tmp_path: Path, local: Callable[..., Path]) -> None:
    plugin = local(
        "talk",
        """
        from dataclasses import dataclass
        from pealm_core import DatasetSpec, Segment, hookimpl

        @dataclass(frozen=True)
        class Part:
            name: str
            texts: tuple
            continues: bool = False
            size: int = 1
            def documents(self):
                return iter(self.texts)

        class Talk:
            specials = ("<|user|>",)
            def parts(self, split):
                ask = (Segment(special="<|user|>", learn=False), Segment("hi", learn=False), Segment("yo"))
                return [Part("a", ("one ", "two ")), Part("b", ("more", "three"), continues=True), Part("c", (ask,))]
            def documents(self, split):
                yield from ("one ", "two more", "three", self.parts(split)[2].texts[0])

        @hookimpl
        def pealm_datasets():
            return [DatasetSpec(name="talk", summary="x", factory=Talk)]
        """,
    )
    words = ["--plugin", plugin, "tokenize", "--input.talk", *BPE, "--shard-size", 20, "--out"]
    for workers in (1, 2):
        done = pealm(*words, tmp_path / f"{workers}", "--workers", workers)
        assert done.code == 0, done.err
    assert content(tmp_path / "1") == content(tmp_path / "2")
    paths = sorted((tmp_path / "1").glob("train-*.npy"))
    ids = np.concatenate([np.load(path) for path in paths])
    masks = b"".join(path.with_suffix(".mask").read_bytes() for path in paths)
    starts = [
        len(np.load(paths[0])) * n + int(s)
        for n, path in enumerate(paths)
        for s in np.fromfile(path.with_suffix(".offsets"), "<u8")
    ]
    size = json.loads((tmp_path / "1" / "meta.json").read_text())["vocab_size"]
    eot, user = size - 2, size - 1
    assert starts == np.flatnonzero(ids == eot).tolist() and len(starts) == 4
    ask = np.flatnonzero(ids == user).item()
    assert masks == bytes(0 if ask - 1 <= i <= ask + 2 else 1 for i in range(len(ids)))
