"""The byte-pair encoding that is learned from the training text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pealm_bpe.config import BPEConfig
from pealm_bpe.tokenizer import BPETokenizer
from pealm_core.inference.generate import stream_decoder

TEXT = "a rose is a rose is a rose, said the rabbit. \u00fcber na\u00efve caf\u00e9s \U0001f600\n" * 3


def fitted(size: int = 320, text: str = TEXT) -> BPETokenizer:
    tokenizer = BPETokenizer(BPEConfig(vocab_size=size))
    tokenizer.fit([text])
    return tokenizer


FITTED = fitted()


@given(st.text())
def test_any_text_round_trips_streams_and_stays_below_vocab_size(text: str) -> None:
    ids = FITTED.encode(text)
    assert FITTED.decode(ids) == text
    assert all(0 <= i < FITTED.vocab_size for i in ids) and FITTED.eot_id not in ids
    step = stream_decoder(FITTED)
    assert "".join(step(i) for i in ids) == text


def test_the_vocabulary_has_the_size_that_was_asked_for_or_what_the_text_gives() -> None:
    assert fitted(290).vocab_size == 290
    assert 257 < fitted(100_000).vocab_size < 400
    assert fitted(257).encode("rose") == fitted(257).encode("r") + fitted(257).encode("ose")


def test_fitting_twice_gives_the_same_file(shakespeare: Path, tmp_path: Path) -> None:
    text = shakespeare.read_text()[:200_000]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fitted(1000, text).save(tmp_path / name)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


def test_end_of_text_is_a_token_that_text_never_becomes() -> None:
    written = FITTED.encode("a<|endoftext|>b")
    assert FITTED.eot_id not in written and FITTED.specials == {"<|endoftext|>": FITTED.eot_id}
    assert FITTED.decode([*FITTED.encode("a"), FITTED.eot_id, *FITTED.encode("b")]) == "a<|endoftext|>b"


def test_half_a_surrogate_pair_is_named() -> None:
    with pytest.raises(ValueError, match=r"position 2\) is half a surrogate pair"):
        FITTED.encode("ab\ud800")


def test_save_and_load(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    other = BPETokenizer()
    other.load(tmp_path)
    assert other.vocab_size == FITTED.vocab_size
    assert other.encode(TEXT) == FITTED.encode(TEXT)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        other.load(tmp_path)


def test_a_model_trains_on_it_and_samples(pealm, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(TEXT * 20)
    run = tmp_path / "run"
    done = pealm(
        "train",
        "char-bigram",
        "--input.text",
        book,
        "--tokenizer",
        "bpe",
        "--tokenizer.vocab-size",
        "290",
        "--steps",
        "3",
        "--out",
        run,
    )
    assert done.code == 0, done.err
    assert "vocabulary of 290" in done.err + done.out
    assert pealm("sample", "--ckpt", run, "-n", "5", "--prompt", "a rose").code == 0
    assert (
        pealm(
            "train", "char-bigram", "--input.text", book, "--tokenizer", "bpe", "--tokenizer.vocab-size", "100"
        ).code
        == 2
    )
