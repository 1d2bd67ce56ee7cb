"""`pealm eval --on perplexity`: a whole text, and a dataset's val split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Pealm = Callable[..., Any]


@pytest.fixture
def run(pealm: Pealm, tmp_path: Path, book: Path) -> Path:
    assert pealm("train", "char-bigram", "--input.text", book, "--steps", 20, "--out", tmp_path / "run").code == 0
    return tmp_path / "run"


def test_a_named_text_is_taken_whole_and_the_run_s_own_from_its_val_split(
    pealm: Pealm, run: Path, book: Path, tmp_path: Path
) -> None:
    size, output = book.stat().st_size, tmp_path / "results.json"
    whole = pealm("eval", "--ckpt", run, "--on", "perplexity", "--input.text", book, "--output", output)
    assert whole.code == 0, whole.err
    assert whole.out.splitlines()[-2:] == [
        f"{size:,} tokens, {size:,} bytes, 1 document (whole)",
        f"the model was trained on this text or a part of it: {book}",
    ]
    found = json.loads(output.read_text())
    assert found["n"] == size and found["config"]["input"]["text"] == str(book)
    assert found["metrics"].keys() == {"loss", "perplexity", "bits_per_byte"}
    val = pealm("eval", "--ckpt", run)
    kept = json.loads((run / "evals" / "perplexity-20.json").read_text())
    assert val.out.splitlines()[-2] == f"{size // 10:,} tokens, {size // 10:,} bytes, 1 document (val)"
    assert val.out.splitlines()[-1].startswith("written: ") and kept["step"] == 20 and kept["n"] == size // 10
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_bytes(book.read_bytes())
    other.write_bytes(book.read_bytes()[::-1])
    told = [pealm("eval", "--ckpt", run, "--input.text", path).out for path in (copy, other)]
    assert f"trained on this text or a part of it: {copy}" in told[0] and "trained on" not in told[1]
    limited = pealm("eval", "--ckpt", run, "--on", "perplexity", "--input.kindergarten", "--limit", 2)
    assert limited.code == 2 and "document 1 of the val split: character" in limited.err
    result = pealm("eval", "--ckpt", run, "--on", "perplexity", "--eval.stride", 1000)
    assert result.code == 2 and "--eval.stride 1000 is more than the model's block" in result.err
    result = pealm("eval", "--ckpt", run, "--on", "perplexity", "--input.text", tmp_path / "none.txt")
    assert result.code == 2 and "no such file or folder" in result.err


def test_the_help_page_shows_inputs_only_where_there_are_any(pealm: Pealm) -> None:
    page = pealm("eval", "--on", "perplexity", "--help").out
    assert "Datasets (--input.NAME)" in page and "tinyshakespeare" in page
    assert "--input" not in pealm("eval", "--on", "kindergarten", "--help").out.partition("Options:")[2]
