"""The two forms of answers: of a completion and of a chat, whole or in chunks."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pealm_core import Tokenizer, stream_decoder
from pealm_serve.generation import Piece

LEAST = -9999.0  # stands for the logarithm of zero, which JSON can't express


@dataclass(frozen=True)
class Part:
    """A part of the text with an index, and its tokens."""

    index: int
    text: str
    tokens: list[Piece]
    finish: str | None = None


def joined(parts: Iterable[Part]) -> list[Part]:
    """Return one part for each index: the whole text."""
    texts: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        texts[part.index].append(part)
    return [
        Part(index, "".join(p.text for p in own), [t for p in own for t in p.tokens], own[-1].finish)
        for index, own in sorted(texts.items())
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of a token by itself; of a special token, its name. Half a character is U+FFFD."""
    specials = getattr(tokenizer, "specials", None) or {}
    for name, special in specials.items():
        if special == token:
            return str(name)
    if token == getattr(tokenizer, "eot_id", None):
        return "<|endoftext|>"
    return tokenizer.decode([token])


class CompletionFormat:
    """Choices of `/v1/completions`. top: as in Params."""

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, top: int | None) -> None:
        self.tokenizer, self.top = tokenizer, top
        self._decoders = defaultdict[int, Any](lambda: stream_decoder(tokenizer))
        self._offsets = defaultdict[int, int](int)

    def choice(self, part: Part) -> dict[str, Any]:
        """Return a whole text, or a part of one."""
        logprobs = None if self.top is None else self._logprobs(part)
        return {"index": part.index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish}

    chunk = choice

    def _logprobs(self, part: Part) -> dict[str, Any]:
        texts = [token_text(self.tokenizer, token.id) for token in part.tokens]
        offsets = []
        for token in part.tokens:
            offsets.append(self._offsets[part.index])
            ended = token.finish == "stop" and token.text == ""
            self._offsets[part.index] += 0 if ended else len(self._decoders[part.index](token.id))
        best: list[dict[str, float] | None] = []
        for text, token in zip(texts, part.tokens, strict=True):
            tops: dict[str, float] = {}
            for place, logprob in [*token.top, *([] if token.logprob is None else [(token.id, token.logprob)])]:
                name = text if place == token.id else token_text(self.tokenizer, place)
                tops.setdefault(name, finite(logprob))  # of tokens with the same text, the likeliest
            best.append(tops if token.logprob is not None else None)
        chosen = [None if token.logprob is None else finite(token.logprob) for token in part.tokens]
        return {"tokens": texts, "token_logprobs": chosen, "top_logprobs": best, "text_offset": offsets}


class ChatFormat:
    """Choices of `/v1/chat/completions`."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, top: int | None) -> None:
        self.tokenizer, self.top = tokenizer, top
        self._begun: set[int] = set()

    def choice(self, part: Part) -> dict[str, Any]:
        """Return a whole answer."""
        message = {"role": "assistant", "content": part.text, "refusal": None}
        return {"index": part.index, "message": message, **self._rest(part)}

    def chunk(self, part: Part) -> dict[str, Any]:
        """Return a part of an answer; the first one has the role."""
        delta = {} if part.index in self._begun else {"role": "assistant"}
        self._begun.add(part.index)
        return {"index": part.index, "delta": {**delta, "content": part.text}, **self._rest(part)}

    def _rest(self, part: Part) -> dict[str, Any]:
        logprobs = None if self.top is None else {"content": [self._token(token) for token in part.tokens]}
        return {"logprobs": logprobs, "finish_reason": part.finish}

    def _token(self, token: Piece) -> dict[str, Any]:
        top = [self._entry(place, logprob) for place, logprob in token.top]
        return {**self._entry(token.id, token.logprob or 0.0), "top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = token_text(self.tokenizer, token)
        return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode())}


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can express."""
    return logprob if math.isfinite(logprob) else LEAST
