"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes as in GPT-2), learned from the training text.

>>> tokenizer = BPETokenizer(BPEConfig(vocab_size=263))
>>> tokenizer.fit(["a rose is a rose is a rose"])
>>> [tokenizer.decode([i]) for i in tokenizer.encode("is a rose?")]
['is', ' a', ' rose', '?']
"""

import codecs
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pealm_bpe.config import END_OF_TEXT, BPEConfig
from pealm_bpe.patterns import pre_tokenizer
from pealm_bpe.training_text import bounded
from pealm_core import UserError

FILE = "tokenizer.json"
# Characters of scripts without spaces that are learned from, at least, and for each token; twice as many at most.
SPACELESS, SPACELESS_PER_TOKEN = 2**17, 24
# A vocabulary is written in characters that stand for bytes: a printable one for its own code, in order; the rest
# of the 256 for the code points from 256 on (GPT-2's table).
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(PRINTABLE)))
}
CHAR_OF = {byte: char for char, byte in BYTE_OF.items()}


class BPETokenizer:
    """Ids of learned tokens, then of special tokens, end-of-text first; text that spells one is plain text."""

    def __init__(self, config: BPEConfig | None = None) -> None:
        self.config = config or BPEConfig()
        self._set(Tokenizer(BPE()))

    def _set(self, bpe: Tokenizer, specials: Sequence[str] = ()) -> None:
        """Take a vocabulary; an end-of-text token is added if it has none, and more special tokens."""
        missing = [name for name in (END_OF_TEXT, *specials) if name not in bpe.get_vocab()]
        if bpe.get_vocab_size():
            bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in missing])
        bpe.encode_special_tokens = True  # text that spells a special token is text
        self._bpe, added = bpe, bpe.get_added_tokens_decoder()
        self._specials = {token.content: i for i, token in added.items() if token.special}
        self.eot_id = self._specials.get(END_OF_TEXT, 0)
        contents = {i: token.content.encode() for i, token in added.items()}
        written = {i: token for token, i in bpe.get_vocab().items() if i not in contents}
        size = max([*written, *contents], default=-1) + 1
        self._bytes = [contents[i] if i in contents else _bytes_of(written.get(i, "")) for i in range(size)]

    @property
    def vocab_size(self) -> int:
        """Learned tokens, the 256 bytes among them, and special tokens."""
        return len(self._bytes)

    @property
    def specials(self) -> dict[str, int]:
        """Special tokens by name: end-of-text, and those of a file."""
        return self._specials

    @property
    def fit_bytes(self) -> int:
        """The most bytes of text to learn from."""
        return self.config.sample_bytes

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the merges: again and again the most frequent pair of neighbouring tokens within a word.

        With a file, its merges are used. Raises UserError if they can't be.
        """
        config = self.config
        if config.file is not None:
            try:
                self._read(config.file, config.specials)
            except ValueError as error:
                raise UserError(f"--tokenizer.file: {error}") from error
            return
        bpe = Tokenizer(BPE())
        bpe.pre_tokenizer = pre_tokenizer(config.pattern, chunks=True)
        bpe.decoder = ByteLevelDecoder()
        trainer = BpeTrainer(
            vocab_size=config.vocab_size - 1 - len(config.specials),
            min_frequency=config.min_frequency,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        )
        most = max(SPACELESS, SPACELESS_PER_TOKEN * config.vocab_size)
        bpe.train_from_iterator(bounded((_checked(text) for text in texts), most), trainer)
        bpe.pre_tokenizer = pre_tokenizer(config.pattern)
        self._set(bpe, config.specials)

    def encode(self, text: str) -> Sequence[int]:
        """Ids. Raises ValueError for half a surrogate pair, which no bytes can express."""
        ids: list[int] = self._bpe.encode(_checked(text), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", "replace")

    def stream_decoder(self) -> Callable[[int], str]:
        """Characters as soon as all of their bytes are there."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(self._bytes[token])

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which Hugging Face's `tokenizers` reads as well."""
        text = self._bpe.to_str(pretty=True)
        (folder / FILE).write_text(text, encoding="utf-8")  # its own `save` raises no OSError if the disk is full

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError if it is not a vocabulary."""
        self._read(folder / FILE)

    def __getstate__(self) -> dict[str, Any]:
        """Return the vocabulary as text: a pickled `Tokenizer` would forget to read special tokens as text."""
        return {"config": self.config, "bpe": self._bpe.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = state["config"]
        self._set(Tokenizer.from_str(state["bpe"]))

    def _read(self, path: Path, specials: Sequence[str] = ()) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from error
        try:
            bpe = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises no other
            raise ValueError(f"{path} is not a tokenizer: {error}") from None
        if bpe.decoder is None:  # written by an older version
            bpe.decoder = ByteLevelDecoder()
        self._set(bpe, specials)
        if missing := [byte for byte in range(256) if CHAR_OF[byte] not in bpe.get_vocab()]:
            raise ValueError(f"{path} is not a byte-level BPE: it has no token for byte {missing[0]:#04x}")


def _bytes_of(token: str) -> bytes:
    """Return what a written token stands for; an id without a token is shown as U+FFFD."""
    if not token or not all(char in BYTE_OF for char in token):
        return "\ufffd".encode()
    return bytes(BYTE_OF[char] for char in token)


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {text[error.start]!r} (position {error.start:,}) is half a surrogate pair; remove it"
        ) from None
    return text
