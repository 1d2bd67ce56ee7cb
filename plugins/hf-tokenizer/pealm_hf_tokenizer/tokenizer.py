"""A tokenizer.json through Hugging Face's `tokenizers`.

tokenizer = HFTokenizer(HFConfig(path=Path("SmolLM2-135M-Instruct")))
tokenizer.encode("hello world")  # [28120, 905]
tokenizer.specials["<|im_end|>"]  # 2
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pealm_core import UserError
from pealm_hf_tokenizer.chat import ChatTemplate
from pealm_hf_tokenizer.config import HFConfig
from pealm_hf_tokenizer.files import VOCABULARY, chat_template, end_of_text, read, settings

HALF = "\ufffd"  # what the bytes of an incomplete character are decoded as


def _read(files: Mapping[str, bytes]) -> Any:
    """Return the library's object for a tokenizer.json. Raises ValueError for a file that is not a tokenizer."""
    try:
        tokenizer = Tokenizer.from_buffer(files[VOCABULARY])
    except Exception as error:  # the library's, which has no class of its own
        raise ValueError(f"its {VOCABULARY} can't be read: {str(error).splitlines()[0]}") from None
    tokenizer.no_truncation()  # the file may have them on, from its training
    tokenizer.no_padding()
    return tokenizer


class HFTokenizer:
    """A tokenizer.json, read at the first use, or from a folder that `save` wrote or that a model was published in.

    Text that spells a special token is text, and no special token is added to it.
    """

    def __init__(self, config: HFConfig | None = None) -> None:
        self.config = config or HFConfig()

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        path = self.config.path
        if path is None:
            raise UserError("--tokenizer hf needs its file: --tokenizer.path DIR, with a tokenizer.json in it")
        try:
            self.load(path)
        except (OSError, ValueError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            raise UserError(f"--tokenizer.path {path}: {reason}") from None
        files: Mapping[str, bytes] = self.__dict__["_files"]
        return files

    @cached_property
    def _tokenizer(self) -> Any:
        """The library's object. Raises ValueError for a file that is not a tokenizer."""
        tokenizer = _read(self._files)
        tokenizer.encode_special_tokens = True  # as text
        return tokenizer

    @cached_property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1; some may have no token."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=0)

    @cached_property
    def specials(self) -> dict[str, int]:
        """The special tokens, name → id."""
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def eot_id(self) -> int | None:
        """The id of the `eos_token` that tokenizer_config.json names, else of one with a usual name."""
        ids = (self._tokenizer.token_to_id(name) for name in end_of_text(self._files))
        return next((i for i in ids if i is not None), None)

    @cached_property
    def bos_id(self) -> int | None:
        """The id of the token that the file's post-processor puts before a text, as those of Llama do."""
        plain, whole = (self._tokenizer.encode("a", add_special_tokens=add).ids for add in (False, True))
        return int(whole[0]) if plain and whole[1 : 1 + len(plain)] == plain else None

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja template of conversations, if there is one."""
        return chat_template(self._files)

    @cached_property
    def _chat(self) -> ChatTemplate:
        files = self._files
        tokenizer = _read(files)  # one more: as this one is set, special tokens are text
        return ChatTemplate(self.chat_template or "", tokenizer, self.specials, settings(files))

    def render_chat(self, messages: Sequence[Mapping[str, str]], *, answer: bool) -> list[tuple[list[int], bool]]:
        """Return the ids of messages in the chat template, in pieces, each with whether it is learned.

        answer: whether the start of an answer follows; then nothing is learned. Raises ValueError.
        """
        return self._chat.render(messages, answer=answer)

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of a text. Raises ValueError for a lone surrogate, which no UTF-8 text has."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError:  # the library's, for a string without UTF-8
            at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
            if at is None:
                raise
            raise ValueError(
                f"character {text[at]!r} (position {at:,}) is half of a surrogate pair, which no text has"
            ) from None
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens by name. Raises ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"token {wrong[0]} is not among the {self.vocab_size:,}")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def stream_decoder(self) -> Callable[[int], str]:
        """Return a function from the next id to the text that it completes, together what `decode` gives.

        Each id is decoded after those of the last complete text, because decoders treat a text's beginning in their
        own way. An incomplete character at the end of the text is not shown.
        """
        context, pending, shown = list[int](), list[int](), ""

        def step(token: int) -> str:
            nonlocal context, pending, shown
            pending.append(token)
            text = self.decode(context + pending)[len(self.decode(context)) :]
            complete = text.rstrip(HALF)
            piece = complete[len(shown) :]
            if complete == text:
                context, pending, shown = pending, [], ""
            else:
                shown = complete
            return piece

        return step

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and what was beside it, unchanged."""
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def load(self, folder: Path) -> None:
        """Read a folder with a tokenizer.json, which `save` or transformers wrote. Raises ValueError."""
        self.__setstate__({"config": self.config, "files": read(folder)})
        try:
            _ = self.vocab_size, self.eot_id, self.chat_template
        except ValueError:
            self.__setstate__({"config": self.config, "files": None})
            raise

    def __getstate__(self) -> dict[str, Any]:
        """By value: a worker process needs no files."""
        return {"config": self.config, "files": self.__dict__.get("_files")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.clear()
        self.config = state["config"]
        if state["files"] is not None:
            self.__dict__["_files"] = state["files"]
