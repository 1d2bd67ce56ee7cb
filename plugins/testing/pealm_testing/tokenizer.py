"""Checks for tokenizers."""

import pickle
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np

from pealm_core import PealmError, TokenizerSpec
from pealm_testing.base import ComponentConformance
from pealm_testing.core import fingerprint, has, stream_decoder
from pealm_testing.errors import ConformanceError

# Texts that break tokenizers: empty, spaces, line ends, control characters, two to four bytes per character,
# combining marks, emoji of several code points, right to left, a lone surrogate, and names of special tokens.
TEXTS = (
    "",
    " ",
    "the quick brown fox",
    "  two  spaces\t\ttabs\r\nlines\n\n",
    "a\0b\x1b\x7f",
    "naïve café",
    "e\u0301 \u00e9",
    "漢字と仮名",
    "🧑\u200d🚀👩🏽\u200d🚒",
    "\ufeff\ufffd",
    "שלום ﷽",
    "\ud800",
    "<|endoftext|> <s></s> [UNK] <pad>",
)


class TokenizerConformance(ComponentConformance):
    """A tokenizer, fitted on `texts` if it has `fit`.

    texts: training texts; they must round-trip exactly. lossy: other texts may change (to U+FFFD).
    """

    kind = TokenizerSpec
    texts: ClassVar[Any] = ("the quick brown fox jumps over the lazy dog.\n" * 8, "naïve 漢字 🧑\u200d🚀\n")
    lossy: ClassVar[bool] = False

    def fitted(self) -> Any:
        """Make the tokenizer and fit it."""
        tokenizer = self.make()
        if has(tokenizer, "fit"):
            tokenizer.fit(iter(self.texts))
        return tokenizer

    def test_round_trip(self) -> None:
        """Catches text that encode and decode change, and text that makes encode raise something unexpected."""
        tokenizer = self.fitted()
        for text in (*self.texts, *TEXTS):
            try:
                ids = _encode(tokenizer, text)
            except ValueError as error:
                if text in self.texts:
                    raise ConformanceError(f"encode refuses a text that it was fitted on: {error}") from error
                if not str(error).strip():
                    raise ConformanceError(
                        f"encode({text!r}) raises a ValueError without a message: say which text can't be encoded"
                    ) from error
                continue
            except (PealmError, ConformanceError):  # its files are missing, or the message is complete
                raise
            except Exception as error:
                raise ConformanceError(
                    f"encode({text!r:.60}) raises {type(error).__name__}: {error}; raise a ValueError for text that "
                    f"can't be encoded"
                ) from error
            back = tokenizer.decode(ids)
            if back != text and (text in self.texts or not self.lossy):
                raise ConformanceError(
                    f"{text!r} is decoded as {back!r}: raise a ValueError for text that can't be encoded, or set "
                    f"lossy = True"
                )

    def test_ids_are_below_vocab_size(self) -> None:
        """Catches ids outside of the model's embedding."""
        tokenizer = self.fitted()
        size = tokenizer.vocab_size
        if not isinstance(size, int) or size <= 0:
            raise ConformanceError(f"vocab_size is {size!r}, not a positive int")
        for text in (*self.texts, *TEXTS):
            try:
                ids = _encode(tokenizer, text)
            except ValueError:
                continue
            if wrong := [i for i in ids if not 0 <= i < size]:
                raise ConformanceError(f"encode({text!r:.60}) gives id {wrong[0]}, but vocab_size is {size}")
        eot = getattr(tokenizer, "eot_id", None)
        if eot is not None and not 0 <= eot < size:
            raise ConformanceError(f"eot_id is {eot}, but vocab_size is {size}: count it")

    def test_every_id_decodes(self) -> None:
        """Catches an id that a model may generate but decode rejects, end-of-text included."""
        tokenizer = self.fitted()
        step = max(1, tokenizer.vocab_size // 1000)
        for i in {*range(0, tokenizer.vocab_size, step), tokenizer.vocab_size - 1}:
            try:
                text = tokenizer.decode([i])
            except Exception as error:
                raise ConformanceError(
                    f"decode([{i}]) raises {type(error).__name__}: {error}; a model may generate any id below "
                    f"vocab_size"
                ) from error
            if not isinstance(text, str):
                raise ConformanceError(f"decode([{i}]) gives {text!r:.60}, not a str")

    def test_streaming_gives_the_same_text(self) -> None:
        """Catches incomplete characters, and text that is lost or repeated, when tokens are decoded one by one."""
        tokenizer = self.fitted()
        for text in self.texts:
            ids = _encode(tokenizer, text)
            step = stream_decoder(tokenizer)
            streamed, expected = "".join([step(i) for i in ids]), tokenizer.decode(ids)
            if streamed != expected:
                raise ConformanceError(f"its stream_decoder gives {streamed!r:.80}, decode gives {expected!r:.80}")

    def test_encode_many_gives_the_same_ids(self) -> None:
        """Catches texts that run into each other when they are encoded together."""
        tokenizer = self.fitted()
        if not has(tokenizer, "encode_many"):
            raise SkipTest("it has no encode_many")
        for last in TEXTS:
            texts = [*self.texts, "", last, self.texts[0]]
            try:
                expected = [_encode(tokenizer, text) for text in texts]
            except ValueError:
                continue
            if [[int(i) for i in ids] for ids in tokenizer.encode_many(texts)] != expected:
                raise ConformanceError(f"encode_many({texts!r:.80}) gives other ids than encode of each text")

    def test_save_and_load(self) -> None:
        """Catches a vocabulary that is not completely saved: the model would get other ids than in training."""
        tokenizer = self.fitted()
        if has(tokenizer, "fit") and not (has(tokenizer, "save") and has(tokenizer, "load")):
            raise ConformanceError(
                "a tokenizer with fit needs save(folder) and load(folder): checkpoints contain its vocabulary"
            )
        other = self.make()
        if has(tokenizer, "save"):
            with tempfile.TemporaryDirectory() as folder:
                tokenizer.save(Path(folder))
                other.load(Path(folder))
        for name in ("vocab_size", "eot_id"):
            a, b = getattr(tokenizer, name, None), getattr(other, name, None)
            if a != b:
                raise ConformanceError(f"{name} is {a} before saving and {b} after loading")
        self._check_same_ids(tokenizer, other, "after save and load", "save everything that encode and decode need")

    def test_fit_is_deterministic(self) -> None:
        """Catches a vocabulary that depends on the order of a set or on chance: cached tokens could not be reused."""
        first, second = (fingerprint("it", {}, self.fitted()) for _ in range(2))
        if first != second:
            raise ConformanceError("fitted twice on the same texts, it saves different files: sort sets before use")

    def test_it_can_be_pickled(self) -> None:
        """Catches an open file or a lambda as attribute: worker processes could not tokenize."""
        tokenizer = self.fitted()
        try:
            other = pickle.loads(pickle.dumps(tokenizer))
        except Exception as error:
            raise ConformanceError(
                f"it can't be pickled ({type(error).__name__}: {error}): remove such attributes in __getstate__ and "
                f"restore them in __setstate__"
            ) from error
        self._check_same_ids(tokenizer, other, "after pickling", "restore everything in __setstate__")

    def test_special_tokens_in_text_stay_text(self) -> None:
        """Catches documents that can end themselves: text that spells a special token is ordinary text."""
        tokenizer = self.fitted()
        eot = getattr(tokenizer, "eot_id", None)
        if eot is None:
            raise SkipTest("it has no eot_id")
        for text in {tokenizer.decode([eot]), *TEXTS[-1].split()} - {""}:
            try:
                ids = _encode(tokenizer, text)
            except ValueError:
                continue
            if eot in ids:
                raise ConformanceError(
                    f"the text {text!r} is encoded as the end-of-text token {eot}: encode it as ordinary text "
                    f"(tiktoken: encode_ordinary)"
                )

    def _check_same_ids(self, tokenizer: Any, other: Any, when: str, fix: str) -> None:
        for text in self.texts:
            ids = _encode(tokenizer, text)
            if _encode(other, text) != ids or other.decode(ids) != tokenizer.decode(ids):
                raise ConformanceError(f"{when}, {text!r:.60} has other ids: {fix}")


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = np.asarray(tokenizer.encode(text))
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ConformanceError(f"encode({text!r:.40}) gives {ids!r:.60}, not a list of integers")
    return [int(i) for i in ids]
