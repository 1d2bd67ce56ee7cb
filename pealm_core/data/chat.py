"""Conversations: how messages become special tokens and text.

A layout says it, which a dataset names (`chat`) and a checkpoint keeps (`tokenizer/chat.json`, `tokenizer.chat`):

{"roles": {"user": "<|user|>", "assistant": "<|assistant|>", ...}, "end": "<|end|>"}

A tokenizer with a chat template of its own (`chat_template`, `render_chat`) needs none.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Conversation, Segment, Tokenizer
from pealm_core.data.documents import encode_document, has_template, render
from pealm_core.data.special_tokens import specials_in, specials_of

Layout = Mapping[str, Any]
Message = Mapping[str, str]  # {"role": "user", "content": "Hi!"}
CHAT_LAYOUT: Layout = {
    "roles": {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"},
    "end": "<|end|>",
}


def chat_document(messages: Iterable[Message], layout: Layout = CHAT_LAYOUT) -> list[Segment]:
    """Return a conversation as a document: of each turn the role's token, the text, and the end mark.

    The assistant's texts and end marks are learned. Messages of one role in a row become one turn, a line each.
    Raises ValueError for something else than messages, and for a role that the layout does not have.

    >>> [part.special or part.text for part in chat_document([{"role": "user", "content": "Hi!"}])]
    ['<|user|>', 'Hi!', '<|end|>']
    """
    document = Conversation(_turns(messages))
    for message in document.messages:
        role, learn = message["role"], message["role"] == "assistant"
        if role not in layout["roles"]:
            raise ValueError(f"unknown role {role!r:.80}; known: {', '.join(layout['roles'])}")
        document += [Segment(special=layout["roles"][role], learn=False), Segment(message["content"], learn=learn)]
        document.append(Segment(special=layout["end"], learn=learn))
    return document


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Return messages of which no two in a row have the same role. Raises ValueError for something else."""
    messages = list(messages)
    for message in messages:
        texts = [message.get(key) for key in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"a message is {{'role': 'user', 'content': 'Hi!'}}, for instance, not {message!r:.80}")
    several = ((role, [m["content"] for m in turn]) for role, turn in groupby(messages, key=lambda m: m["role"]))
    return [{"role": role, "content": "\n".join(contents)} for role, contents in several]


@dataclass(frozen=True)
class ChatPrompt:
    """The ids that the assistant's answer follows, and what did not fit.

    dropped: the number of oldest turns that were left out. cut: tokens at the start of the last turn. ends: the ids
    that end an answer.
    """

    ids: list[int]
    dropped: int
    cut: int
    ends: frozenset[int]


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message], room: int | None = None) -> ChatPrompt:
    """Return the prompt of an answer to the last message, with at most `room` tokens. Raises UserError.

    If there are more, the oldest turns are left out, but for a system message at the start; the last turn is cut from
    the left.
    """
    try:
        ends, turns, room = _ends(tokenizer), _turns(messages), room or 10**12
    except ValueError as error:
        raise UserError(str(error)) from error
    if not turns or turns[-1]["role"] == "assistant":
        raise UserError("the last message must be one to answer, not the assistant's")
    system = [turns.pop(0)] if turns[0]["role"] == "system" and len(turns) > 1 else []
    ids, count = _ids(system + turns, tokenizer), len(turns)
    while len(ids) > room and len(turns) > 1:
        del turns[0]
        while len(turns) > 1 and turns[0]["role"] != "user":  # an answer without its question
            del turns[0]
        ids = _ids(system + turns, tokenizer)
    cut, content = max(0, len(ids) - room), turns[-1]["content"]
    if cut:

        def ending(size: int) -> list[int]:  # of the last message
            return _ids([*system, {**turns[-1], "content": content[-size:]}], tokenizer)

        size = bisect_left(range(1, len(content) + 1), room + 1, key=lambda size: len(ending(size)))
        if not size:
            raise UserError(f"the system message is too long: with it, no message fits into {room:,} tokens")
        whole, ids = len(ids), ending(size)
        cut = whole - len(ids)
    return ChatPrompt(ids, count - len(turns), cut, ends)


def _ends(tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer: end of text, and the special tokens of the chat layout or template."""
    layout: Layout | None = getattr(tokenizer, "chat", None)
    if layout:
        ends = {tokenizer.specials[name] for name in specials_in(layout)}
    elif has_template(tokenizer):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        rendered = {int(i) for ids, _ in render(messages, tokenizer, answer=False) for i in ids}
        ends = rendered & {*specials_of(tokenizer).values()}
    else:
        raise UserError("the tokenizer has no chat layout: fine-tune the model on conversations first")
    eot: int | None = getattr(tokenizer, "eot_id", None)
    return frozenset(ends if eot is None else {*ends, eot})


def _ids(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Return the ids of messages and of the start of an answer."""
    if has_template(tokenizer):
        return [int(i) for ids, _ in render(messages, tokenizer, answer=True) for i in ids]
    try:
        document = chat_document(messages, tokenizer.chat)
    except ValueError as error:
        raise UserError(str(error)) from error
    ids = [int(i) for ids, _ in encode_document(document, tokenizer) for i in ids]
    return [*ids, tokenizer.specials[tokenizer.chat["roles"]["assistant"]]]
