"""Text files as a dataset."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard

from pealm_bpe.config import BPEConfig
from pealm_bpe.tokenizer import BPETokenizer
from pealm_char.tokenizer import CharTokenizer
from pealm_core import UserError, encode_document
from pealm_core.data.documents import PIECE
from pealm_core.data.token_cache import tokenize
from pealm_text import dataset, reading
from pealm_text.config import TextConfig
from pealm_text.dataset import TextDataset
from pealm_text.reading import LongText


def split(path: object, fraction: float = 0.1) -> tuple[list[str], list[str]]:
    data = TextDataset(TextConfig(str(path), fraction))
    return list(data.documents("train")), list(data.documents("val"))


def test_the_tail_is_for_validation_as_nanogpt_splits(tmp_path: Path, shakespeare: Path) -> None:
    (train,), (val,) = split(shakespeare)
    assert (len(train), len(val)) == (1_003_854, 111_540)
    assert train + val == shakespeare.read_text()


def test_a_folder_and_a_glob_are_their_files_in_order(tmp_path: Path) -> None:
    for name, text in (("b.txt", "bbbb"), ("a.md", "aaaa"), ("c.bin", "cccc"), ("sub/d.txt", "dddd")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert split(tmp_path, 0.5) == (["aaaa", "bb"], ["bb", "dddd"])
    assert split(tmp_path / "*.txt", 0.25) == (["bbb"], ["b"])
    assert split(tmp_path / "**/*.txt", 0.5) == (["bbbb"], ["dddd"])


def test_line_ends_and_unicode_stay_and_a_byte_order_mark_goes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "é\r\nü😀".encode() * 5)
    train, val = split(tmp_path / "a.txt")
    assert "".join(train + val) == "é\r\nü😀" * 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"ab\0cd", "is not a text file: it has a zero byte at position 2"),
        (b"line\nab\xff", "is not UTF-8: byte 0xff at position 7, in line 2"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8: byte 0xff at position 5, in line 1"),
        (b"x" * (2**20 - 1) + b"\xc3(", r"is not UTF-8: byte 0xc3 at position 1,048,575, in line 1"),
        (b"\n" * 2**20 + b"ab\xe2\x82", r"is not UTF-8: byte 0xe2 at position 1,048,578, in line 1,048,577"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.txt {message}"):
        split(path)


def test_paths_with_nothing_behind_them(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "x", "no such file"),
        (tmp_path, "no .txt or .md file"),
        (tmp_path / "*.q", "no file matches"),
    ):
        with pytest.raises(UserError, match=message):
            split(path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "b.txt")
    for path in (tmp_path / "b.txt", tmp_path, tmp_path / "*.txt"):
        with pytest.raises(UserError, match=r"b\.txt is not a regular file"):
            split(path)
    with pytest.raises(UserError, match="/dev/null is not a regular file"):
        split("/dev/null")


def test_a_broken_link_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").symlink_to("nowhere")
    assert split(tmp_path, 0.5) == split(tmp_path / "*.txt", 0.5) == (["te"], ["xt"])


def test_one_file_at_a_time_is_in_memory(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text("x" * 2**20)
    tracemalloc.start()
    data = TextDataset(TextConfig(str(tmp_path)))
    assert sum(map(len, data.documents("train"))) + sum(map(len, data.documents("val"))) == 2**23
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_tokenizing_characters_takes_the_memory_of_the_text_twice(tmp_path: Path) -> None:
    path, size = tmp_path / "a.txt", 2**24
    path.write_text("abcdefgh" * (size // 8))
    tokenizer = CharTokenizer()
    tokenizer.fit(["abcdefgh"])
    tracemalloc.start()
    corpus = tokenize(TextDataset(TextConfig(str(path))), tokenizer, "mark")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(corpus.train.shards[0]), len(corpus.val.shards[0])) == (int(size * 0.9), size - int(size * 0.9))
    assert peak < 2.2 * size + 32 * PIECE


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"a\0", "zero byte"), (b"\xff", "not UTF-8"), (b"aaaaa", "too short: 4 tokens are too few for a block of 64")])  # fmt: skip
def test_from_the_command_line(pealm, tmp_path: Path, content: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    result = pealm("train", "char-bigram", "--input.text", path, "--out", tmp_path / "r")
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def data(path: object, **settings: object) -> TextDataset:
    return TextDataset(TextConfig(str(path), **settings))  # type: ignore[arg-type]


def test_many_documents_are_split_by_a_hash_that_others_do_not_change(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number:03d}.txt").write_text(f"document {number}")
    first = {name: list(data(tmp_path).documents(name)) for name in ("train", "val")}
    assert 5 < len(first["val"]) < 40 and len(first["train"]) + len(first["val"]) == 150
    (tmp_path / "000a.txt").write_text("one more")
    for name in ("train", "val"):
        assert {*first[name]} <= {*data(tmp_path).documents(name)}


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_separator_cuts_a_file_into_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    texts = [f"story {i}\nof \u00fc\n" + "x" * (i % 50) for i in range(400)]
    content = "\n<|endoftext|>\n".join(texts).encode()
    path = tmp_path / f"stories.txt{ending}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending](content))
    expected = [text.strip("\n") for text in texts]
    assert list(data(path, separator="<|endoftext|>").whole()) == expected
    for size in (100, 777, 2**20):
        monkeypatch.setattr(dataset, "RANGE", size)
        both = data(path, separator="<|endoftext|>")
        read = {name: list(both.documents(name)) for name in ("train", "val")}
        assert sorted(read["train"] + read["val"]) == sorted(expected) and 15 < len(read["val"]) < 80
        parts = both.parts("val")
        assert [text for part in parts for text in part.documents()] == read["val"]
        assert (len(parts) > 5) == (ending == "" and size < 2**20)
    few = data(path, separator="story 30")
    assert not few.parts("train") and "".join(map(str, few.documents("val"))).endswith(expected[-1])


def test_a_long_file_is_one_document_in_pieces_that_tokenize_as_the_whole(
    tmp_path: Path, shakespeare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shakespeare.read_text()[:200_000]
    (tmp_path / "a.txt").write_text(text)
    bpe = BPETokenizer(BPEConfig(vocab_size=500))
    bpe.fit([text])
    (whole,) = data(tmp_path).whole()
    monkeypatch.setattr(reading, "PIECE", 10_000)
    monkeypatch.setattr(reading, "NEARBY", 1000)
    (long,) = data(tmp_path).whole()
    assert whole == text and isinstance(long, LongText) and 15 < len(long) < 21
    for tokenizer in (bpe, CharTokenizer()):
        if isinstance(tokenizer, CharTokenizer):
            tokenizer.fit([text])
        ids = [np.concatenate([part for part, _ in encode_document(one, tokenizer)]) for one in (whole, long)]
        assert np.array_equal(*ids)
    parts = [document for name in ("train", "val") for document in data(tmp_path).documents(name)]
    assert "".join(segment.text for part in parts for segment in part) == text  # type: ignore[union-attr]
    assert sum(len(segment.text) for segment in parts[0]) == 180_000  # type: ignore[union-attr]
    corpus = tokenize(data(tmp_path), bpe, "mark")
    assert len(corpus.train.shards[0]) + len(corpus.val.shards[0]) > 60_000


def test_bad_files_are_all_named_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("a", b"text"), ("b", b""), ("c", b"ok\n\xff"), (".hidden/d", b"")):
        (tmp_path / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_bytes(content)
    with pytest.raises(
        UserError, match=r"2 of 3 files can't be used: .*b\.txt is empty; .*c\.txt is not UTF-8.*skip-bad"
    ):
        data(tmp_path).files()
    assert list(data(tmp_path, skip_bad=True).whole()) == ["text"]
    err = capsys.readouterr().err
    assert "skipped" in err and "b.txt is empty" in err and "line 2" in err


def test_records_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for name in ("docs.jsonl", "docs.parquet", "docs.csv.gz"):
        (tmp_path / name).write_text('{"text": "a"}')
        with pytest.raises(UserError, match=f"{name} has records, not text; use --input.records .*{name}"):
            data(tmp_path / name).files()
    for ending, packed in ((".gz", gzip.compress(b"text " * 1000)), (".zst", zstandard.compress(b"text " * 1000))):
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(packed[:-10])
        with pytest.raises(UserError, match=rf"a\.txt\{ending} is truncated: .* after [\d,]+ bytes of content$"):
            data(path).files()
        path.write_bytes(packed + b"junk")
        with pytest.raises(UserError, match=rf"a\.txt\{ending} is damaged after 5,000 bytes of content: "):
            data(path).files()
    with pytest.raises(ValueError, match="an empty text separates nothing"):
        data(tmp_path, separator="")
