"""`pealm tokens` and `pealm data`."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

BPE = ["--tokenizer", "bpe", "--tokenizer.vocab-size", "270"]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Records, of which two are the same."""
    path = tmp_path / "docs.jsonl"
    texts = [f"a rose is a rose is a rose {i % 99}" for i in range(100)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


@pytest.fixture
def shards(pealm: Any, docs: Path, tmp_path: Path) -> Path:
    words = ["--input.records", docs, "--input.val-fraction", "0.1", *BPE]
    assert pealm("tokenize", *words, "--out", tmp_path / "shards").code == 0
    return tmp_path / "shards"


def test_tokens_of_a_text_with_ids(pealm: Any, docs: Path, shards: Path) -> None:
    done = pealm("tokens", "a rose!", "--tokenizer-dir", shards)
    pieces, ids, *_ = done.out.splitlines()
    assert done.code == 0 and pieces.split() == ["a", "·rose", "!"] and ids.split()[-1] == "0", done.err
    assert [pieces.index(piece) for piece in pieces.split()] == [m.start() for m in re.finditer(r"\S+", ids)]
    assert "3 tokens, 2.33 bytes per token, of 270" in done.out
    assert "'<|endoftext|>'" in pealm("tokens", "--vocab", "--tokenizer-dir", shards).out
    assert pealm("tokens", "a rose", "--input.records", docs, *BPE).code == 0
    done = pealm("tokens", "a\n\t\x1b[31mb", "--input.records", docs, *BPE)
    assert "\x1b" not in done.out and "⏎" in done.out and "⇥" in done.out
    for line, message in (
        (["a"], "needs a tokenizer"),
        (["a", "--tokenizer", "char"], "learns its vocabulary"),
        (["--tokenizer-dir", shards], "needs a text"),
        (["--tokenizer-dir", shards, "--file", docs.with_name("x")], "x can't be read: No such file"),
        (["a", "--compare", "bpe,280"], "'280' is not KEY=VALUE"),
        (["a", "--compare", "nothing"], "unknown tokenizer 'nothing'"),
        (["\u00fc", "--compare", "char", "--input.records", docs], "char: character"),
    ):
        done = pealm("tokens", *line)
        assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_several_tokenizers_are_compared(pealm: Any, docs: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a rose is a rose")
    names = ["--compare", shards, "bpe,vocab-size=257", "char"]
    done = pealm("tokens", "--file", tmp_path / "a.txt", *names, "--input.records", docs)
    head, *rows = done.out.splitlines()
    assert done.code == 0 and head.split() == ["tokenizer", "tokens", "bytes", "per", "token", "vocabulary"], done.err
    assert [row.split() for row in rows] == [
        [str(shards), "5", "3.20", "270"],
        ["bpe,vocab-size=257", "16", "1.00", "257"],
        ["char", "16", "1.00", "17"],
    ]
    assert len({len(row) for row in rows}) == 1


def test_lines_fit_the_terminal_and_have_colours_unless_they_are_unwanted(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.cells import cell_len

    from pealm_core import load_saved_tokenizer
    from pealm_data.terminal import cut, echo
    from pealm_data.tokens import rows

    tokenizer = load_saved_tokenizer(shards)
    text = "漢字 a rose is a rose \U0001f98a" * 5
    ids = [int(i) for i in tokenizer.encode(text)]
    for width in (20, 80):
        lines = [re.sub(r"\x1b\[\d+m", "", line) for line in rows(tokenizer, ids, width)]
        assert all(cell_len(line.rstrip()) <= width for line in lines)
        assert [int(i) for line in lines[1::3] for i in line.split()] == ids
    assert cut("漢字と仮名", 6) == "漢字…" and cut("abc", 3) == "abc"
    import click

    @click.command()
    def coloured() -> None:
        echo(next(rows(tokenizer, ids[:3], 80)))

    for value, expected in ((None, True), ("1", False)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if value:
            monkeypatch.setenv("NO_COLOR", value)
        assert ("\x1b[" in CliRunner().invoke(coloured, color=True).output) == expected
    assert "\x1b[" not in CliRunner().invoke(coloured).output  # as in a pipe


def test_data_shows_documents_lengths_and_duplicates(pealm: Any, docs: Path, shards: Path) -> None:
    for line in (
        ["--input.records", docs, "--input.val-fraction", "0.1"],
        ["--input.npy-shards", shards],
        [shards],
    ):
        done = pealm("data", *line)
        assert done.code == 0, done.err
        assert re.search(r"^ +\d+ \| a rose is a rose is a rose \d+$", done.out, re.M)
        assert "  1 is a duplicate of another document" in done.out
        assert "0 validation documents are in the training split as well" in done.out
        train, val = done.out.split("\nval:")
        counts = [sum(int(row) for row in re.findall(r" to [\d,]+ +(\d+)  #", part)) for part in (train, val)]
        assert sum(counts) == 100 and train.count(" | ") == 10 and val.count(" | ") == min(10, counts[1])
    assert "tokens in 1 shard" in done.out and "ids 1" in done.out and ", all in the vocabulary of 270" in done.out
    done = pealm("data")
    assert done.code == 2 and "needs one input" in done.err


def test_data_finds_ids_outside_the_vocabulary_and_copies_in_validation(pealm: Any, shards: Path) -> None:
    ids = np.load(shards / "train-00000.npy")
    starts = np.fromfile(shards / "train-00000.offsets", "<u8").astype(int)
    val = ids[starts[3] : starts[5]]  # two documents of the training split
    np.save(shards / "val-00000.npy", val)
    np.array([0, starts[4] - starts[3]], "<u8").tofile(shards / "val-00000.offsets")
    ids[7], ids[9] = 280, 65535
    np.save(shards / "train-00000.npy", ids)
    done = pealm("data", shards)
    assert done.code == 0, done.err
    assert "2 ids outside the vocabulary of 270: the first is 280, token 7 of shard 0" in done.out
    assert "2 validation documents are in the training split as well" in done.out


def test_a_document_that_continues_in_the_next_shard_is_one(pealm: Any, docs: Path, tmp_path: Path) -> None:
    words = ["--input.records", docs, "--input.val-fraction", "0.1", *BPE]
    whole, many = tmp_path / "whole", tmp_path / "many"
    assert pealm("tokenize", *words, "--out", whole).code == 0
    assert pealm("tokenize", *words, "--out", many, "--shard-size", "20").code == 0
    same = [
        [line for line in pealm("data", folder).out.splitlines() if "shard" not in line] for folder in (whole, many)
    ]
    assert same[0] == same[1]


def test_shards_of_other_programs(pealm: Any, tmp_path: Path) -> None:
    (folder := tmp_path / "shards").mkdir()
    ids = np.array([256, *b"one", 256, *b"two", 256, *b"one"], "<u2")
    for split in ("train", "val"):
        ids.tofile(folder / f"{split}.bin")
    done = pealm("data", folder)
    assert done.code == 0 and "where documents start is not known" in done.out, done.err
    assert "ids 101 to 256; the vocabulary is not known" in done.out and " 0 | 256 111 110 101 256" in done.out
    from pealm_bpe.config import BPEConfig
    from pealm_bpe.tokenizer import BPETokenizer

    (tokenizer := BPETokenizer(BPEConfig(vocab_size=257))).fit(["a"])
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    meta = {"format": 1, "dtype": "uint16", "vocab_size": 257, "tokenizer": {"name": "bpe", "vocab-size": 257}}
    (folder / "meta.json").write_text(json.dumps(meta))
    ids = np.array([tokenizer.eot_id if i == 256 else tokenizer.encode(chr(i))[0] for i in ids.tolist()], "<u2")
    for split in ("train", "val"):
        ids.tofile(folder / f"{split}.bin")
    done = pealm("data", folder)
    assert "3 documents, 12 tokens in all" in done.out and "1 is a duplicate" in done.out and "2 | two" in done.out
