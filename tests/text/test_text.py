"""Text files as a dataset."""

import os
import tracemalloc
from pathlib import Path

import pytest

from pealm_char.tokenizer import CharTokenizer
from pealm_core import UserError
from pealm_core.data.documents import PIECE
from pealm_core.data.token_cache import tokenize
from pealm_text.config import TextConfig
from pealm_text.dataset import TextDataset


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
        (b"line\nab\xff", "is not UTF-8: byte 0xff in line 2"),
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
