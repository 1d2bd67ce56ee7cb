"""A conversation with a model: its messages, and what the commands do to them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pealm_core import LM, Sampling, UserError


def need_layout(lm: LM, ckpt: str) -> None:
    """Raise UserError for a model without a chat layout or template, with the command that trains one."""
    if not any(getattr(lm.tokenizer, name, None) for name in ("chat", "chat_template")):
        model = lm.config.get("model", {}).get("name", "MODEL")
        raise UserError(
            f"{ckpt} was not trained on conversations (it has no chat layout); fine-tune it: "
            f"pealm train {model} --init {ckpt} --input.conversations FILE.jsonl"
        )


class Conversation:
    """The messages so far; `answer` adds two. The model gets those that fit into its context."""

    def __init__(self, lm: LM, sampling: Sampling, system: str | None = None) -> None:
        self.lm, self.sampling = lm, sampling
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._start)

    def answer(self, text: str, say: Callable[[str], None]) -> Iterator[str]:
        """Yield the answer to a message in pieces. What was yielded is kept, also if it is interrupted.

        say: called with a line about turns that no longer fit. After an error, the message is not kept.
        """
        messages, pieces = [*self.messages, {"role": "user", "content": text}], list[str]()
        try:
            for piece in self.lm.chat_stream(messages, self.sampling, say=say):
                pieces.append(piece)
                yield piece
        except UserError:
            raise
        except BaseException:  # Ctrl-C, or the caller stops
            self._keep(messages, pieces)
            raise
        self._keep(messages, pieces)

    def _keep(self, messages: list[dict[str, str]], pieces: list[str]) -> None:
        self.messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._start)

    def undo(self) -> str | None:
        """Forget the last message and its answer; return the message, or None if there is none."""
        if len(self.messages) == len(self._start):
            return None
        *self.messages, message, _ = self.messages
        return message["content"]

    def save(self, path: Path) -> None:
        """Write the conversation as a line that `--input.conversations` reads. Raises UserError."""
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
