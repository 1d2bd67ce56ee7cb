"""tiktoken's encodings: byte pairs merged in the order of their ranks (Sennrich et al. 2016; GPT-2's, on bytes).

tokenizer = TiktokenTokenizer()
tokenizer.encode("hello world").tolist()  # [31373, 995]
tokenizer.decode([31373, 995])            # "hello world"
"""

import codecs
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from pealm_core import UserError
from pealm_tiktoken.config import TiktokenConfig
from pealm_tiktoken.files import Vocabulary, from_file, read, write

END_OF_TEXT = "<|endoftext|>"
CUSTOM = "custom"  # the name of a file's encoding
UNUSED = "\ufffd".encode()  # cl100k_base and others leave some ids without a token; a model may still sample one


class TiktokenTokenizer:
    """An encoding by its name, taken from tiktoken's cache at the first use, or from a folder that `save` wrote."""

    def __init__(self, config: TiktokenConfig | None = None) -> None:
        self.config = config or TiktokenConfig()

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """tiktoken's object. Raises UserError for an unknown name or a wrong file, and if a download fails."""
        if self.config.file is not None:
            return self._of_file(self.config.file)
        name = self.config.encoding
        known = tiktoken.list_encoding_names()
        if name not in known:
            raise UserError(f"--tokenizer.encoding {name}: tiktoken has no such encoding; known: {', '.join(known)}")
        try:
            return tiktoken.get_encoding(name)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            first: BaseException = error  # requests wraps what the system says in several exceptions
            while (earlier := first.__cause__ or first.__context__) is not None:
                first = earlier
            reason = f"{type(first).__name__}: " + " ".join(str(first).split())[:200]
            raise UserError(
                f"tiktoken has no files for encoding {name!r} here and can't download them ({reason}); where there "
                f"is internet, run TIKTOKEN_CACHE_DIR=DIR python -c 'import tiktoken; "
                f'tiktoken.get_encoding("{name}")\', bring DIR here and set TIKTOKEN_CACHE_DIR to it'
            ) from error

    def _of_file(self, path: Path) -> tiktoken.Encoding:
        try:
            return self._encoding(from_file(path, self.config.pattern, self.config.specials))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--tokenizer.file {path}: {reason}") from error

    @property
    def _name(self) -> str:
        return self.config.encoding if self.config.file is None else CUSTOM

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of every id."""
        vocabulary = _vocabulary(self.encoding)
        table = [UNUSED] * self.vocab_size
        for token, rank in vocabulary.ranks.items():
            table[rank] = token
        for text, rank in vocabulary.special_tokens.items():
            if table[rank] is UNUSED:  # of two names for an id, the first
                table[rank] = text.encode()
        return table

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1."""
        return self.encoding.max_token_value + 1

    @property
    def eot_id(self) -> int | None:
        """The id of <|endoftext|>, where the encoding has one."""
        return _vocabulary(self.encoding).special_tokens.get(END_OF_TEXT)

    @property
    def specials(self) -> dict[str, int]:
        """The special tokens of the encoding, name → id."""
        return _vocabulary(self.encoding).special_tokens

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text. Raises ValueError for a lone surrogate, which no UTF-8 text has."""
        try:
            return self._encode(text, self._allowed)
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {text[error.start]!r} (position {error.start:,}) is half of a surrogate pair, "
                f"which no text has"
            ) from error

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of each text, as `encode` gives them: a twentieth faster, since tiktoken is called once.

        <|endoftext|> separates the texts, unless one of them has it, or the encoding does not.
        """
        if self.eot_id is not None:
            with suppress(UnicodeEncodeError):  # `encode` says where
                ids = self._encode(END_OF_TEXT.join(texts), self._allowed | {END_OF_TEXT})
                stops = np.flatnonzero(ids == self.eot_id).tolist()
                if len(stops) == len(texts) - 1:  # none of them has it, nor a special token with its id
                    return [ids[i + 1 : j] for i, j in pairwise([-1, *stops, len(ids)])]
        return [self.encode(text) for text in texts]

    @property
    def _allowed(self) -> Set[str]:
        return self.encoding.special_tokens_set if self.config.allow_special else frozenset()

    def _encode(self, text: str, allowed: Set[str]) -> NDArray[np.int32]:
        ids = self.encoding.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())
        return ids.view(np.int32)  # not a copy; torch has few functions for uint32

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises ValueError for an unknown id."""
        return b"".join(map(self._token, ids)).decode("utf-8", "replace")

    def stream_decoder(self) -> Callable[[int], str]:
        """A function from the next id to the text that it completes, together what `decode` gives.

        Bytes that begin a character wait for the rest of it; where it never comes, nothing is shown for them.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(self._token(token))

    def save(self, folder: Path) -> None:
        """Write the vocabulary to `ranks.tiktoken` and `tokenizer.json`."""
        write(folder, self._name, _vocabulary(self.encoding))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; tiktoken's cache and the network stay untouched. Raises ValueError."""
        vocabulary = read(folder, self._name)
        try:
            self._set(vocabulary)
        except ValueError as error:
            raise ValueError(f"{folder}: tiktoken can't use this vocabulary's pat_str: {error}") from error
        self.__dict__.pop("_bytes", None)

    def _set(self, vocabulary: Vocabulary) -> None:
        self.__dict__["encoding"] = self._encoding(vocabulary)

    def _encoding(self, vocabulary: Vocabulary) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            self._name,
            pat_str=vocabulary.pat_str,
            mergeable_ranks=vocabulary.ranks,
            special_tokens=vocabulary.special_tokens,
        )

    def _token(self, token: int) -> bytes:
        if not 0 <= token < len(self._bytes):
            raise ValueError(f"token {token} is not among the {len(self._bytes):,} of {self._name}")
        return self._bytes[token]

    def __getstate__(self) -> dict[str, Any]:
        """By value: a worker process needs neither tiktoken's cache nor the checkpoint."""
        known = "encoding" in self.__dict__
        return {"config": self.config, "vocabulary": _vocabulary(self.encoding) if known else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = state["config"]
        if state["vocabulary"] is not None:
            self._set(state["vocabulary"])


def _vocabulary(encoding: tiktoken.Encoding) -> Vocabulary:
    """What an encoding is made of. tiktoken has no public names for it; its README extends encodings by these."""
    return Vocabulary(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens)
