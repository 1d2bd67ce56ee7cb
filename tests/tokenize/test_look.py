"""`pealm tokens` and `pealm data`."""

import json
from pathlib import Path
from typing import Any

import pytest

BPE = ["--tokenizer", "bpe", "--tokenizer.vocab-size", "280"]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Records, of which two are the same."""
    path = tmp_path / "docs.jsonl"
    texts = [f"a rose is a rose is a rose {i % 99}" for i in range(100)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def test_tokens_of_a_text_with_ids(pealm: Any, docs: Path, tmp_path: Path) -> None:
    words = ["--input.records", docs, "--input.val-fraction", "0.1", *BPE]
    assert pealm("tokenize", *words, "--out", tmp_path / "shards").code == 0
    done = pealm("tokens", "a rose!", "--tokenizer-dir", tmp_path / "shards")
    assert done.code == 0 and "' rose':" in done.out and "'!':0" in done.out, done.err
    (tmp_path / "a.txt").write_text("a rose is a rose")
    compare = ["--tokenizer-dir", tmp_path / "shards", "--compare", tmp_path / "shards"]
    done = pealm("tokens", "--file", tmp_path / "a.txt", *compare)
    assert done.out.count("5 tokens, 3.20 bytes per token") == 2, done.out
    assert "'<|endoftext|>'" in pealm("tokens", "--vocab", "--tokenizer-dir", tmp_path / "shards").out
    assert pealm("tokens", "a rose", *words).code == 0
    for line, message in (
        (["a"], "needs a tokenizer"),
        (["a", "--tokenizer", "char"], "learns its vocabulary"),
        (["--tokenizer-dir", tmp_path / "shards"], "needs a text"),
    ):
        done = pealm("tokens", *line)
        assert done.code == 2 and message in done.err


def test_data_shows_documents_lengths_and_duplicates(pealm: Any, docs: Path, tmp_path: Path) -> None:
    words = ["--input.records", docs, "--input.val-fraction", "0.1"]
    assert pealm("tokenize", *words, *BPE, "--out", tmp_path / "shards").code == 0
    for line in (words, ["--input.npy-shards", tmp_path / "shards"]):
        done = pealm("data", *line)
        assert done.code == 0, done.err
        assert "| <|endoftext|>a rose" in done.out or "| a rose is a rose" in done.out
        assert "  1 are duplicates of an earlier document" in done.out
    assert "tokens in 1 shards" in done.out
    done = pealm("data")
    assert done.code == 2 and "needs one input" in done.err
