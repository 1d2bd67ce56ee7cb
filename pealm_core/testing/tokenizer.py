"""What a tokenizer must do."""

import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pealm_core.contract.errors import PealmError
from pealm_core.contract.protocols import has
from pealm_core.contract.specs import TokenizerSpec
from pealm_core.data.token_cache import fingerprint
from pealm_core.inference.generate import stream_decoder
from pealm_core.testing.base import Conformance
from pealm_core.testing.watch import watched

# What goes wrong first: nothing, spaces, line ends, controls, two to four bytes a character, marks that join, emoji
# of several code points, right to left, a lone surrogate, and the names of special tokens.
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


class TokenizerConformance(Conformance):
    """A tokenizer, fitted on `texts` where it can fit.

    texts: training texts, and what must come back exactly. lossy: other texts may come back changed (U+FFFD).
    """

    kind = TokenizerSpec
    texts: ClassVar[Sequence[str]] = ("the quick brown fox jumps over the lazy dog.\n" * 8, "naïve 漢字 🧑\u200d🚀\n")
    lossy: ClassVar[bool] = False

    def fitted(self) -> Any:
        """The tokenizer with a vocabulary."""
        tokenizer = self.make()
        if has(tokenizer, "fit"):
            tokenizer.fit(iter(self.texts))
        return tokenizer

    def test_making_it_is_quiet(self) -> None:
        """Catches a tokenizer that prints, connects or seeds when it is made."""
        with watched() as seen:
            self.make()
        assert not seen, f"making the tokenizer {' and '.join(seen)}: do that where it is first needed"

    def test_any_text_comes_back_or_is_refused(self) -> None:
        """Catches text that is changed on the way through ids and back, or that ends in a traceback."""
        tokenizer = self.fitted()
        for text in (*self.texts, *TEXTS):
            try:
                ids = _ids(tokenizer, text)
            except ValueError as error:
                assert text not in self.texts, f"it refuses text that it was fitted on: {error}"
                assert str(error).strip(), f"it refuses {text!r} without a word: raise ValueError(what, where)"
                continue
            except (PealmError, AssertionError):  # its files are not here, or what it gives is told already
                raise
            except Exception as error:
                raise AssertionError(
                    f"encode({text!r:.60}) raises {type(error).__name__}: {error}; text that can't be expressed is a "
                    f"ValueError that says which"
                ) from error
            back = tokenizer.decode(ids)
            assert back == text or (self.lossy and text not in self.texts), (
                f"{text!r} comes back as {back!r}: refuse what can't be expressed with a ValueError, or set lossy"
            )

    def test_ids_are_below_vocab_size(self) -> None:
        """Catches ids that index beyond the model's embedding, and a vocabulary that is counted too small."""
        tokenizer = self.fitted()
        size = tokenizer.vocab_size
        assert isinstance(size, int) and size > 0, f"vocab_size is {size!r}, no positive int"
        for text in (*self.texts, *TEXTS):
            try:
                ids = _ids(tokenizer, text)
            except ValueError:
                continue
            wrong = [i for i in ids if not 0 <= i < size]
            assert not wrong, f"encode({text!r:.60}) gives id {wrong[0]}, and vocab_size is {size}"
        eot = getattr(tokenizer, "eot_id", None)
        assert eot is None or 0 <= eot < size, f"eot_id is {eot}, and vocab_size {size} must count it"

    def test_every_id_has_a_text(self) -> None:
        """Catches a decode that fails on an id which a model may draw, end-of-text included."""
        tokenizer = self.fitted()
        step = max(1, tokenizer.vocab_size // 1000)
        for i in {*range(0, tokenizer.vocab_size, step), tokenizer.vocab_size - 1}:
            try:
                text = tokenizer.decode([i])
            except Exception as error:
                raise AssertionError(
                    f"decode([{i}]) raises {type(error).__name__}: {error}; a model may draw any id below vocab_size"
                ) from error
            assert isinstance(text, str), f"decode([{i}]) gives {text!r:.60}, no str"

    def test_a_stream_gives_the_same_text(self) -> None:
        """Catches half characters on the screen, and text that is lost or said twice while a model writes."""
        tokenizer = self.fitted()
        for text in self.texts:
            ids = _ids(tokenizer, text)
            step = stream_decoder(tokenizer)
            parts = [step(i) for i in ids]
            assert "".join(parts) == tokenizer.decode(ids), (
                f"its stream_decoder gives {''.join(parts)!r:.80} for what decode gives as {text!r:.80}"
            )

    def test_what_is_saved_comes_back(self) -> None:
        """Catches a vocabulary that a checkpoint loses: the model would read other tokens than it learned."""
        tokenizer = self.fitted()
        if has(tokenizer, "fit"):
            assert has(tokenizer, "save") and has(tokenizer, "load"), (
                "it can fit, so it needs save(folder) and load(folder): a checkpoint must hold its vocabulary"
            )
        other = self.make()
        if has(tokenizer, "save"):
            with tempfile.TemporaryDirectory() as folder:
                tokenizer.save(Path(folder))
                other.load(Path(folder))
        for what in ("vocab_size", "eot_id"):
            a, b = getattr(tokenizer, what, None), getattr(other, what, None)
            assert a == b, f"{what} is {a} before saving and {b} after loading"
        for text in self.texts:
            ids = _ids(tokenizer, text)
            assert _ids(other, text) == ids and other.decode(ids) == tokenizer.decode(ids), (
                f"after save and load, {text!r:.60} has other ids: save all that encode and decode need"
            )

    def test_the_same_texts_give_the_same_tokenizer(self) -> None:
        """Catches a vocabulary whose order depends on a set or on chance: the token cache would never be found."""
        first, second = (fingerprint("it", {}, self.fitted()) for _ in range(2))
        assert first == second, "fitted twice on the same texts, it saves different files: sort what is in a set"

    def test_it_can_be_sent_to_a_worker(self) -> None:
        """Catches a handle or lambda inside that can't be pickled: workers could not tokenize."""
        tokenizer = self.fitted()
        try:
            other = pickle.loads(pickle.dumps(tokenizer))
        except Exception as error:
            raise AssertionError(
                f"it can't be pickled ({type(error).__name__}: {error}): leave what can't be out in __getstate__ and "
                f"make it anew in __setstate__"
            ) from error
        for text in self.texts:
            assert _ids(other, text) == _ids(tokenizer, text), f"pickled and back, it has other ids for {text!r:.60}"

    def test_special_tokens_in_text_are_inert(self) -> None:
        """Catches a document that ends itself: text which names a special token must stay text."""
        tokenizer = self.fitted()
        eot = getattr(tokenizer, "eot_id", None)
        if eot is None:
            return
        for text in {tokenizer.decode([eot]), *TEXTS[-1].split()} - {""}:
            try:
                ids = _ids(tokenizer, text)
            except ValueError:
                continue
            assert eot not in ids, (
                f"the text {text!r} is read as the end-of-text token {eot}: encode it as ordinary text "
                f"(tiktoken: encode_ordinary)"
            )


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids = np.asarray(tokenizer.encode(text))
    assert ids.ndim == 1 and (ids.size == 0 or np.issubdtype(ids.dtype, np.integer)), (
        f"encode({text!r:.40}) gives {ids!r:.60}, no list of whole numbers"
    )
    return [int(i) for i in ids]
