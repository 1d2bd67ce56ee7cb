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


def test_what_has_no_text() -> None:
    class Chats:
        def documents(self, split: str) -> Any:
            return iter([[Segment("a"), Segment("", special="<|none|>")]])

    chats: Any = Chats()
    with pytest.raises(UserError, match=r"document 1 of the val split: .* no special token '<\|none\|>'"):
        [list(document) for document in read(chats, "val", Bytes())]
    nothing: Any = object()
    with pytest.raises(UserError, match="samples of its own, but neither text nor tokens"):
        list(read(nothing, "val", Bytes()))
