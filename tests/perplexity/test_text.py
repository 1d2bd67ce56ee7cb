"""Where texts and shards are cut into pieces."""

from typing import Any

import numpy as np
import pytest

from pealm_core import Segment, UserError
from pealm_perplexity.text import cuts, read
from pealm_testing import Bytes


class Merges(Bytes):
    """A tokenizer with one token for "d e"."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("d e", "X"))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("abc\nefghijklmno", [4, 12, 15]),  # before a line, where there is neither line nor word after 8 characters
        ("abcdefg\nijkl", [8, 12]),  # the last possible place
        ("abcdefgh\njkl", [8, 12]),  # one further
        ("abc\n ef\nij", [8, 10]),  # not before an indented line
        ("abcd ef\nhijk", [8, 12]),  # before a line rather than an earlier word
        ("abcd efghijk", [4, 12]),  # else before a word's space
        ("abcdefg ijkl", [7, 12]),
        ("abcd, fghijk", [8, 12]),  # after a comma there is no such place
        ("abcd -fghijk", [8, 12]),
    ],
)
def test_the_first_good_place_of_a_text_is_where_it_is_cut(text: str, ends: list[int]) -> None:
    assert [*cuts(text, Bytes(), 4)] == ends


def test_a_place_within_a_token_is_left_out() -> None:
    assert [*cuts("abcd efghijk", Merges(), 4)] == [12]
    assert [*cuts("abcX efghijk", Merges(), 4)] == [4, 12]


def test_segments_are_pieces_together_until_there_are_enough_characters() -> None:
    """As of a long file, which the dataset reads in parts, and of a conversation with a long turn."""

    class Long:
        taken = 0

        def documents(self, split: str) -> Any:
            return [self]

        def __iter__(self) -> Any:
            for n in range(50):
                self.taken = n
                yield Segment("one two three\n" * 4)

    long: Any = Long()
    (document,) = read(long, "val", Bytes(), 100)
    first = next(document)
    assert (len(first.ids), first.size, long.taken) == (112, 112, 1)  # no more was read
    assert [len(piece.ids) for piece in document] == [112] * 24

    turn = Segment("be brief", learn=False), Segment(special="<|bot|>"), Segment("word " * 30 + "é")
    chat: Any = Texts([turn, turn])
    pieces = [list(document) for document in read(chat, "val", Bytes(["<|bot|>"]), 60)]
    assert [[(len(piece.ids), piece.scored, piece.size) for piece in own] for own in pieces] == [
        [(8 + 1 + 64, 1 + 64, 64), (60, 60, 60), (28, 28, 28)]
    ] * 2


class Texts:
    """A dataset of documents."""

    def __init__(self, documents: list[Any]) -> None:
        self.own = documents

    def documents(self, split: str) -> Any:
        return iter(self.own)


class Shards:
    """A dataset of one shard."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = np.array(ids, np.uint16)

    def shards(self, split: str) -> list[Any]:
        return [self.ids]


@pytest.mark.parametrize("size", [4, 5, 6, 7, 50])
def test_shards_are_not_cut_within_a_character(size: int) -> None:
    text, tokenizer = "aé🦊bc🦊" * 9, Bytes()
    ids = tokenizer.encode(text)
    dataset: Any = Shards([256, *ids, 256, *ids[::-1]])  # backwards, they are no characters
    first, second = [[*document] for document in map(list, read(dataset, "val", tokenizer, size))]
    assert [i for piece in first for i in piece.ids.tolist()] == ids
    assert all(size - 3 <= len(piece.ids) <= size for piece in first[:-1])
    assert "".join(tokenizer.decode(piece.ids.tolist()) for piece in first) == text
    assert sum(piece.size for piece in first) == len(ids)
    assert [i for piece in second for i in piece.ids.tolist()] == ids[::-1]


@pytest.mark.parametrize("part", [1, 3, 7, 16])
def test_a_long_shard_is_read_in_parts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_perplexity.text.SHARD", part)
    texts = [b"one two three four", b"five", b"", b"six seven eight nine"]
    ids = [token for text in texts for token in (256, *text)]
    learned = [number % 3 != 0 for number in range(len(ids))]
    dataset: Any = Shards(ids)
    dataset.masks = lambda split: [np.array(learned, np.uint8)]
    documents = [[*document] for document in read(dataset, "val", Bytes())]
    assert [bytes(i for piece in own for i in piece.ids) for own in documents] == [text for text in texts if text]
    pieces = [piece for own in documents for piece in own]
    flags = [np.ones(len(p.ids), bool) if p.learned is None else p.learned for p in pieces]
    assert np.concatenate(flags).tolist() == [flag for i, flag in zip(ids, learned, strict=True) if i != 256]
    assert [piece.size for piece in pieces] == [piece.scored for piece in pieces] == [int(f.sum()) for f in flags]


@pytest.mark.parametrize("part", [8, 9, 10, 11, 64])
def test_a_character_between_two_parts_of_a_shard_is_not_cut(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_perplexity.text.SHARD", part)
    texts, tokenizer = ["naïve 🦜 中文 and é", "中", "🦜🦜🦜🦜 x"], Bytes()
    dataset: Any = Shards([token for text in texts for token in (256, *text.encode())])
    documents = [[*document] for document in read(dataset, "val", tokenizer)]
    assert ["".join(tokenizer.decode(p.ids.tolist()) for p in pieces) for pieces in documents] == texts
    assert [sum(piece.size for piece in pieces) for pieces in documents] == [len(text.encode()) for text in texts]


def test_what_has_no_text() -> None:
    chats: Any = Texts([[Segment("a"), Segment("", special="<|none|>")]])
    with pytest.raises(UserError, match=r"document 1 of the val split: .* no special token '<\|none\|>'"):
        [list(document) for document in read(chats, "val", Bytes())]
    nothing: Any = object()
    with pytest.raises(UserError, match="samples of its own, but neither text nor tokens"):
        list(read(nothing, "val", Bytes()))
