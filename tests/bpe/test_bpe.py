"""The byte-pair encoding that is learned from the training text."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public
from tokenizers import Tokenizer
from tokenizers.models import BPE

from pealm_bpe import training_text
from pealm_bpe.config import BPEConfig
from pealm_bpe.patterns import pre_tokenizer
from pealm_bpe.tokenizer import BPETokenizer
from pealm_core import UserError
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
    assert copy.deepcopy(FITTED).encode("a<|endoftext|>b") == written  # as worker processes get it
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
    with pytest.raises(ValueError, match="is not a tokenizer"):
        other.load(tmp_path)


def test_a_full_disk_is_an_error_of_the_system_and_no_defect(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        FITTED.save(tmp_path)


def test_a_file_that_is_not_a_vocabulary_is_named_with_its_option(tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"--tokenizer\.file: .*a\.json is not a tokenizer"):
        BPETokenizer(BPEConfig(file=path)).fit([TEXT])


def test_hugging_face_decodes_what_is_saved(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == FITTED.vocab_size and theirs.token_to_id("<|endoftext|>") == FITTED.eot_id
    assert theirs.encode(TEXT).ids == FITTED.encode(TEXT) and theirs.decode(FITTED.encode(TEXT)) == TEXT


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "digits"])
def test_patterns_cut_as_the_encodings_of_that_name(pattern: str, tmp_path: Path) -> None:
    regexes = {
        "gpt2": openai_public.r50k_pat_str,
        "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
        "o200k": None,
        "digits": openai_public.r50k_pat_str.replace(r" ?\p{N}++", r"\p{N}"),
    }
    text = "I'VE 12345 caf\u00e9s, HTTPServer's \n\n  x/y!!\n/ \u4f60\u597d\u4e16\u754c 3.14\r\n\ttab  end's "
    tokenizer = BPETokenizer(BPEConfig(vocab_size=300, pattern=pattern))  # type: ignore[arg-type]
    tokenizer.fit([TEXT])
    tokenizer.save(tmp_path)
    (again := BPETokenizer(BPEConfig(vocab_size=300, pattern=pattern))).load(tmp_path)  # type: ignore[arg-type]
    assert again.encode(text) == tokenizer.encode(text) and again.decode(again.encode(text)) == text
    pieces = [text[a:b] for _, (a, b) in pre_tokenizer(pattern).pre_tokenize_str(text)]
    assert "".join(dict.fromkeys(pieces)) and all(piece in text for piece in pieces)
    if expected := regexes[pattern]:
        assert pieces == regex.findall(expected, text)
    assert ("123" in [piece.strip() for piece in pieces]) == (pattern in ("cl100k", "o200k"))
    assert ("1" in [piece.strip() for piece in pieces]) == (pattern == "digits")


def test_an_existing_file_is_used_instead_of_learning(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.add_special_tokens(["<|im_start|>"])
    theirs.save(str(path := tmp_path / "theirs.json"))
    tokenizer = BPETokenizer(BPEConfig(file=path))
    tokenizer.fit(["not used"])
    assert tokenizer.encode(TEXT) == FITTED.encode(TEXT) and tokenizer.vocab_size == FITTED.vocab_size + 1
    assert tokenizer.specials == {"<|endoftext|>": FITTED.eot_id, "<|im_start|>": FITTED.vocab_size}
    assert tokenizer.decode([FITTED.vocab_size]) == "<|im_start|>"
    assert FITTED.vocab_size not in tokenizer.encode("<|im_start|>")
    path.write_text(Tokenizer(BPE({"a": 0}, [])).to_str())
    with pytest.raises(UserError, match="is not a byte-level BPE"):
        tokenizer.fit([])
    with pytest.raises(UserError, match="can't be read: No such file"):
        BPETokenizer(BPEConfig(file=tmp_path / "x.json")).fit([])


def test_files_of_an_older_version_without_end_of_text_and_decoder(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    old = json.loads((tmp_path / "tokenizer.json").read_text())
    old["added_tokens"], old["decoder"] = [], None
    (tmp_path / "tokenizer.json").write_text(json.dumps(old))
    (tokenizer := BPETokenizer()).load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (FITTED.vocab_size, FITTED.eot_id)
    assert tokenizer.encode(TEXT) == FITTED.encode(TEXT)


def test_a_learned_vocabulary_is_cached_by_text_and_settings(
    pealm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    fit = BPETokenizer.fit
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        BPETokenizer, "fit", lambda self, texts: (learned.append(self.config.vocab_size), fit(self, texts))[1]
    )
    (book := tmp_path / "book.txt").write_text(TEXT * 20)
    saved = []
    for number, size in enumerate((290, 290, 280, 290)):
        if number == 3:
            book.write_text(TEXT * 21)
        words = ["--input.text", book, "--tokenizer", "bpe", "--tokenizer.vocab-size", size, "--steps", 1]
        run = tmp_path / f"run{number}"
        assert pealm("train", "char-bigram", *words, "--out", run).code == 0
        saved.append((run / "best" / "tokenizer" / "tokenizer.json").read_bytes())
    assert learned == [290, 280, 290] and saved[0] == saved[1]


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


MIXED = [
    "def f(x: int) -> str:\n\treturn f'{x:>08}'  # na\u00efve\n\n\nclass A:\r\n    pass\n" * 3,
    "\u65e5\u672c\u8a9e\u306e\u6587\u5b57\u3001\u4e2d\u6587\u5b57\u7b26\u3002\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 "
    * 4,
    "\U0001f98a\U0001f98a \U0001f469\U0001f3fd\u200d\U0001f692 1234567 3.14 e\u0301 \ufdfd  two  spaces \ufeff\ufffd <|endoftext|> <|im_end|>",
]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "digits"])
def test_transformers_loads_what_is_saved_and_agrees(pattern: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    config = BPEConfig(vocab_size=400, pattern=pattern, specials=("<|im_start|>", "<|im_end|>"))  # type: ignore[arg-type]
    tokenizer = BPETokenizer(config)
    tokenizer.fit([*MIXED, TEXT])
    tokenizer.save(tmp_path)
    theirs: Any = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert len(theirs) == tokenizer.vocab_size == 400
    for text in [*MIXED, TEXT, "", " "]:
        ids = [*tokenizer.encode(text)]
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == tokenizer.decode(ids) == text
    assert theirs.convert_tokens_to_ids("<|im_end|>") == tokenizer.specials["<|im_end|>"] == 399


def test_specials_and_minimum_frequency() -> None:
    tokenizer = BPETokenizer(BPEConfig(vocab_size=300, specials=("<|a|>", "<|b|>"), min_frequency=9))
    tokenizer.fit([TEXT])
    eot = tokenizer.eot_id
    assert tokenizer.specials == {"<|endoftext|>": eot, "<|a|>": eot + 1, "<|b|>": eot + 2}
    learned = [tokenizer.decode([i]) for i in range(256, tokenizer.eot_id)]
    assert learned == [" r", "os", " ros", " rose"]  # what occurs nine times
    for wrong in (
        {"specials": ("a", "a")},
        {"specials": ("<|endoftext|>",)},
        {"vocab_size": 258, "specials": ("a", "b")},
    ):
        with pytest.raises(ValueError, match=r"specials|too small"):
            BPEConfig(**wrong)  # type: ignore[arg-type]


def test_a_long_text_is_learned_from_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(
        f"It's line {i}, isn't it?  No: x_{i}!\n\nA rose\u2019s 12 345 is... \t{i} cafés\r\n" for i in range(300)
    )
    for pattern in ("gpt2", "cl100k", "o200k", "digits"):
        saved = []
        for size in (1, 10**6):
            monkeypatch.setattr(training_text, "PIECE", size)
            tokenizer = BPETokenizer(BPEConfig(vocab_size=400, pattern=pattern))  # type: ignore[arg-type]
            tokenizer.fit([text])
            saved.append(tokenizer.__getstate__()["bpe"])
        assert saved[0] == saved[1]
    monkeypatch.setattr(training_text, "PIECE", 1)
    assert "".join(cuts := list(training_text.pieces(text))) == text and len(cuts) > 1000


def test_scripts_without_spaces_are_a_bounded_part_of_what_is_learned_from() -> None:
    rng = random.Random(0)
    words = ["".join(chr(0x4E00 + rng.randrange(300)) for _ in range(2)) for _ in range(500)]
    chinese = ["".join(rng.choices(words, k=50)) for _ in range(2000)]
    english = ["a rose is a rose"] * 500
    mixed = [text for pair in zip(chinese, english * 4, strict=True) for text in pair]
    kept = list(training_text.bounded(mixed, 10_000))
    assert kept.count(english[0]) == 2000  # all of it
    characters = sum(len(text) for text in kept if text != english[0])
    assert 10_000 < characters < 22_000 and kept == list(training_text.bounded(mixed, 10_000))
    assert chinese[0] == kept[0] and not set(kept).isdisjoint(chinese[500:])  # of later text as well
    tokenizer = BPETokenizer(BPEConfig(vocab_size=1500))
    tokenizer.fit(chinese)
    assert len(tokenizer.encode(chinese[0])) < 60  # chunks of eight characters teach words of two


def test_large_data_is_learned_from_in_a_sample(pealm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pealm_records import readers

    monkeypatch.setattr(readers, "RANGE", 5000)
    lines = [json.dumps({"text": f"{'early' if i < 500 else 'later'} number {i}"}) for i in range(1000)]
    (docs := tmp_path / "docs.jsonl").write_text("\n".join(lines))
    words = ["tokens", "later", "--input.records", docs, "--tokenizer", "bpe", "--tokenizer.vocab-size", "290"]
    done = pealm(*words, "--tokenizer.sample-bytes", "2000")
    assert done.code == 0 and "learned from a sample of 1,9" in done.err, done.err
    assert "1 token," in done.out  # the sample is from all over the file
    done = pealm(*words)
    assert done.code == 0 and "sample" not in done.err
