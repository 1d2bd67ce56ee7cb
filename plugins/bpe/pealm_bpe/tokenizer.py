"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes as in GPT-2), learned from the training text.

>>> tokenizer = BPETokenizer(BPEConfig(vocab_size=263))
>>> tokenizer.fit(["a rose is a rose is a rose"])
>>> [tokenizer.decode([i]) for i in tokenizer.encode("is a rose?")]
['is', ' a', ' rose', '?']
"""

import codecs
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pealm_bpe.config import BPEConfig

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
# A vocabulary is written in characters that stand for bytes: a printable one for its own code, in order; the rest
# of the 256 for the code points from 256 on (GPT-2's table).
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(PRINTABLE)))
}


class BPETokenizer:
    """Ids of learned tokens; the last one is end-of-text, which no text contains: written out, it is plain text."""

    def __init__(self, config: BPEConfig | None = None) -> None:
        self.config = config or BPEConfig()
        self._set(Tokenizer(BPE()))

    def _set(self, bpe: Tokenizer) -> None:
        self._bpe, self.eot_id = bpe, bpe.get_vocab_size()
        written = sorted(bpe.get_vocab().items(), key=lambda item: item[1])
        self._bytes = [bytes(BYTE_OF[char] for char in token) for token, _ in written] + [END_OF_TEXT.encode()]

    @property
    def vocab_size(self) -> int:
        """Learned tokens, the 256 bytes among them, and end-of-text."""
        return self.eot_id + 1

    @property
    def specials(self) -> dict[str, int]:
        """End-of-text by its name."""
        return {END_OF_TEXT: self.eot_id}

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the merges: again and again the most frequent pair of neighbouring tokens within a word."""
        bpe = Tokenizer(BPE())
        # Words with the space before them, numbers and punctuation, cut as GPT-2 cuts: no token spans two.
        bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=self.config.vocab_size - 1,
            min_frequency=2,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        )
        bpe.train_from_iterator((_checked(text) for text in texts), trainer)
        self._set(bpe)

    def encode(self, text: str) -> Sequence[int]:
        """Ids. Raises ValueError for half a surrogate pair, which no bytes can express."""
        ids: list[int] = self._bpe.encode(_checked(text)).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")

    def stream_decoder(self) -> Callable[[int], str]:
        """Characters as soon as all of their bytes are there."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(self._bytes[token])

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which Hugging Face's `tokenizers` reads, too (without end-of-text)."""
        self._bpe.save(str(folder / FILE))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError where it is no vocabulary."""
        text = (folder / FILE).read_text(encoding="utf-8")
        try:
            self._set(Tokenizer.from_str(text))
        except Exception as error:  # tokenizers raises no other
            raise ValueError(f"{folder / FILE} is no tokenizer: {error}") from None


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {text[error.start]!r} (position {error.start:,}) is half a surrogate pair; remove it"
        ) from None
    return text
