"""The character tokenizer."""

from pathlib import Path
from typing import Any

import pytest

from pealm_char.config import CharConfig
from pealm_char.tokenizer import CharTokenizer


def fitted(text: str, unknown: str = "error") -> CharTokenizer:
    tokenizer = CharTokenizer(CharConfig(unknown=unknown))  # type: ignore[arg-type]
    tokenizer.fit([text])
    return tokenizer


def test_tinyshakespeare_has_65_characters_and_nothing_is_added(shakespeare: Path) -> None:
    text = shakespeare.read_text()
    tokenizer = fitted(text[: int(0.9 * len(text))])
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(text[-5000:]).tolist()) == text[-5000:]


@pytest.mark.parametrize("text", ["", "abc", "naïve café", "漢字と😀", "a\r\n\t\0b", "\ud800lone"])
def test_any_text_that_was_fitted_round_trips(text: str) -> None:
    tokenizer = fitted(text)
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text) and all(0 <= i < tokenizer.vocab_size for i in ids)
    step = tokenizer.stream_decoder()
    assert "".join(step(i) for i in ids) == text


def test_an_unseen_character_is_named_with_its_place_and_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"character '!' \(position 3\) is not among the 3 .*--tokenizer.unknown replace"
    ):
        fitted("abc").encode("abc!")
    with pytest.raises(ValueError, match="is not among the 0"):
        CharTokenizer().encode("a")


def test_a_text_may_be_encoded_in_pieces() -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(1000)) + "\U0010ffff\ud800"
    tokenizer = fitted(text)
    pieces = [i for start in range(0, len(text), 7) for i in tokenizer.encode(text[start : start + 7])]
    assert tokenizer.by_character and pieces == tokenizer.encode(text).tolist()


def test_replace_writes_the_replacement_character() -> None:
    tokenizer = fitted("abc", "replace")
    assert tokenizer.decode(tokenizer.encode("a!z").tolist()) == "a��"
    assert tokenizer.vocab_size == 4


def test_save_and_load(tmp_path: Path) -> None:
    tokenizer = fitted("héllo😀", "replace")
    tokenizer.save(tmp_path)
    other = CharTokenizer(CharConfig(unknown="replace"))
    other.load(tmp_path)
    assert other.chars == tokenizer.chars
    assert other.encode("h?").tolist() == tokenizer.encode("h?").tolist()
    for wrong in ('"ba"', "[" * 100_000):
        (tmp_path / "chars.json").write_text(wrong)
        with pytest.raises(ValueError, match="distinct characters in order"):
            other.load(tmp_path)


def test_replacing_is_advised_only_where_it_helps(tmp_path: Path) -> None:
    for unknown, advised in (("error", False), ("replace", True)):
        tokenizer = CharTokenizer(CharConfig(unknown=unknown))  # type: ignore[arg-type]
        tokenizer.fit(["abc"])
        tokenizer.save(tmp_path)
        saved = CharTokenizer()  # a trained model's vocabulary can't grow
        saved.load(tmp_path)
        with pytest.raises(ValueError, match="is not among") as error:
            saved.encode("!")
        assert ("--tokenizer.unknown replace" in str(error.value)) == advised


def test_the_vocabulary_is_that_of_the_whole_text(pealm: Any, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abc " * 500 + "\u00df")  # a character of the last tenth alone
    words = ["train", "char-bigram", "--input.text", tmp_path / "book.txt", "--steps", 1, "--out", tmp_path / "run"]
    done = pealm(*words)
    assert done.code == 0 and "vocabulary of 5" in done.out + done.err
