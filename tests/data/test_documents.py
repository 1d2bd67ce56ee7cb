"""Documents of segments: special tokens, masks, and what the token cache keeps of them."""

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Document, Segment
from pealm_core.data.documents import encode_document, encode_texts, texts
from pealm_core.data.sources import sources
from pealm_core.data.special_tokens import FILE, WithSpecials, with_specials
from pealm_core.data.token_cache import tokenize
from pealm_core.data.token_stream import open_shards


class Letters:
    """A tokenizer of bytes. With specials, one of them is its own."""

    vocab_size = 256

    def __init__(self, eot: int | None = None) -> None:
        self.eot_id = eot
        self.specials = {} if eot is None else {"<|eot|>": eot}

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Docs:
    def __init__(self, *train: Document, val: Sequence[Document] = ("xyz",)) -> None:
        self.splits = {"train": train, "val": val}

    def documents(self, split: str) -> Iterator[Document]:
        yield from self.splits[split]


USER, BOT, END = (Segment(special=f"<|{name}|>", learn=name == "end") for name in ("user", "bot", "end"))
CHAT = [USER, Segment("hi", learn=False), BOT, Segment("yo"), END]


def test_a_tokenizer_that_exits_is_named() -> None:
    class Exits(Letters):
        def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
            raise SystemExit(0)

    with pytest.raises(PluginError, match=r"Exits\.encode_many: SystemExit"):
        encode_texts(["a", "b"], Exits())


def test_special_tokens_are_appended_and_enter_by_name_alone() -> None:
    tokenizer = with_specials(Letters(), ["<|user|>", "<|bot|>", "<|user|>"])
    assert (tokenizer.vocab_size, tokenizer.specials) == (258, {"<|user|>": 256, "<|bot|>": 257})  # type: ignore[attr-defined]
    assert list(tokenizer.encode("<|user|>")) == [ord(c) for c in "<|user|>"]
    assert tokenizer.decode([104, 256, 257, 105]) == "h<|user|><|bot|>i"
    with pytest.raises(ValueError, match="token 258 is not among the 258"):
        tokenizer.decode([258])


def test_a_tokenizer_with_all_of_them_stays_as_it_is() -> None:
    tokenizer = Letters(eot=0)
    assert with_specials(tokenizer, ["<|eot|>"]) is tokenizer is with_specials(tokenizer, [])
    more = with_specials(tokenizer, ["<|eot|>", "<|x|>"])
    assert more.specials == {"<|eot|>": 0, "<|x|>": 256} and more.eot_id == 0  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(more)).vocab_size == 257
    assert not hasattr(more, "stream_decoder") and not hasattr(more, "by_character")


def test_special_tokens_are_saved_beside_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = with_specials(Letters(), ["<|b|>", "<|a|>"])
    tokenizer.save(tmp_path)  # type: ignore[attr-defined]
    assert json.loads((tmp_path / FILE).read_text()) == {"<|b|>": 256, "<|a|>": 257}
    again = with_specials(Letters(), ["<|a|>", "<|new|>"], tmp_path)
    assert isinstance(again, WithSpecials) and again.names == ("<|b|>", "<|a|>", "<|new|>")
    for damage in ('{"<|b|>": 255}', "[]", "[" * 10**5, "{"):
        (tmp_path / FILE).write_text(damage)
        with pytest.raises(ValueError):
            with_specials(Letters(), [], tmp_path)


def test_a_document_of_segments_says_what_is_learned() -> None:
    tokenizer = with_specials(Letters(eot=0), ["<|user|>", "<|bot|>", "<|end|>"])
    pieces = [(ids.tolist(), learn) for ids, learn in encode_document(CHAT, tokenizer)]
    user, bot = ([104, 105], False), ([121, 111], True)
    assert pieces == [([0], False), ([256], False), user, ([257], False), bot, ([258], True)]
    assert [learn for _, learn in encode_document([Segment("a"), USER], tokenizer)] == [True, True, False]
    assert [ids.tolist() for ids, _ in encode_document("ab", tokenizer)] == [[0], [97, 98]]
    assert list(texts(["a", CHAT])) == ["a", "hi", "yo"]


def test_wrong_documents_are_the_datasets_mistake() -> None:
    with pytest.raises(
        PluginError, match=r"special token '<\|user\|>' of a document is not in its dataset's `specials`"
    ):
        list(encode_document(CHAT, Letters()))
    for document in (3, ["hi"], [("hi", True)]):
        with pytest.raises(PluginError, match="must be a text or a sequence of Segments, not"):
            list(encode_document(document, Letters()))  # type: ignore[arg-type]


def test_the_token_cache_keeps_masks_and_where_documents_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    tokenizer = with_specials(Letters(), ["<|user|>", "<|bot|>", "<|end|>"])
    corpus = tokenize(Docs("ab", CHAT, "", "c"), tokenizer, "mark")
    assert corpus.train.shards[0][:].tolist() == [97, 98, 256, 104, 105, 257, 121, 111, 258, 99]
    assert corpus.train.masks[0][:].tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert corpus.train.offsets[0][:].tolist() == [0, 2, 9, 9]
    assert not corpus.val.masks  # everything is learned
    again = tokenize(Docs("ab", CHAT, "", "c"), tokenizer, "mark")
    assert again.cached and again.train.masks[0][:].tolist() == corpus.train.masks[0][:].tolist()
    (mask,) = tmp_path.glob("tokens/*/train.mask")
    mask.write_bytes(b"\1" * 10)
    assert not tokenize(Docs("ab", CHAT, "", "c"), tokenizer, "mark").cached


def test_the_key_depends_on_what_is_learned_and_where_documents_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    a, b, c = Segment("ab"), Segment("cd"), Segment("cd", learn=False)
    documents: list[list[Document]] = [["abcd"], ["ab", "cd"], [[a, b]], [[a], [b]], [[a, c]], [[a, b], []]]
    assert len({tokenize(Docs(*train), Letters(), "mark").key for train in documents}) == len(documents)


class Shards:
    vocab_size = 256

    def __init__(self, mask: int | None = None) -> None:
        self.mask = mask

    def shards(self, split: str) -> list[np.ndarray]:
        return [np.arange(10, dtype=np.uint16), np.arange(5, dtype=np.uint16)]

    def masks(self, split: str) -> list[np.ndarray] | None:
        return None if self.mask is None else [np.ones(10, np.uint8), np.ones(self.mask, np.uint8)]


def test_shards_may_have_masks_of_the_same_lengths() -> None:
    corpus = open_shards(Shards(5), Letters())
    assert [len(mask) for mask in corpus.train.masks] == [10, 5]
    plain = open_shards(Shards(), with_specials(Letters(), ["<|mask|>"]))  # an objective's token beyond the shards'
    assert plain.key != corpus.key and not plain.train.masks
    with pytest.raises(UserError, match=r"shards have \[10, 5\] tokens, and their masks \[10, 4\] entries"):
        open_shards(Shards(4), Letters())


def test_shards_without_offsets_cannot_be_packed() -> None:
    data, job = Shards(), SimpleNamespace(entries={"input": SimpleNamespace(name="ids")}, labels=["ids"])
    data.packed = True  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"--input.ids is packed, but does not say where its documents start"):
        sources(job, {"input": data}, Letters(), 4, 0)  # type: ignore[arg-type, dict-item]
