"""Conversations: how messages become special tokens and text.

A layout says it, which a dataset names (`chat`) and a checkpoint keeps (`tokenizer/chat.json`, `tokenizer.chat`):

{"roles": {"user": "<|user|>", "assistant": "<|assistant|>", ...}, "end": "<|end|>"}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Segment, Tokenizer
from pealm_core.data.documents import encode_document, start_ids
from pealm_core.data.specials import specials_in

Layout = Mapping[str, Any]
Message = Mapping[str, str]  # {"role": "user", "content": "Hi!"}
CHAT_LAYOUT: Layout = {
    "roles": {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"},
    "end": "<|end|>",
}


def chat_document(messages: Iterable[Message], layout: Layout = CHAT_LAYOUT) -> list[Segment]:
    """Return a conversation as a document: of each turn the role's token, the text, and the end mark.

    The assistant's texts and end marks are learned. Messages of one role in a row become one turn, a line each.
    Raises ValueError for a role that the layout does not have.

    >>> [part.special or part.text for part in chat_document([{"role": "user", "content": "Hi!"}])]
    ['<|user|>', 'Hi!', '<|end|>']
    """
    parts = []
    for role, several in groupby(messages, key=lambda message: message["role"]):
        if role not in layout["roles"]:
            raise ValueError(f"unknown role {role!r:.80}; known: {', '.join(layout['roles'])}")
        text, learn = "\n".join(message["content"] for message in several), role == "assistant"
        parts += [Segment(special=layout["roles"][role], learn=False), Segment(text, learn=learn)]
        parts.append(Segment(special=layout["end"], learn=learn))
    return parts


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
    layout: Layout | None = getattr(tokenizer, "chat", None)
    if not layout:
        raise UserError("the tokenizer has no chat layout: fine-tune the model on conversations first")
    try:
        parts = chat_document(messages, layout)
    except ValueError as error:
        raise UserError(str(error)) from error
    roles, specials = layout["roles"], tokenizer.specials  # type: ignore[attr-defined]
    if not parts or parts[-2].learn:
        raise UserError("the last message must be one to answer, not the assistant's")
    eot: int | None = getattr(tokenizer, "eot_id", None)
    turns = [_ids(parts[i : i + 3], tokenizer) for i in range(0, len(parts), 3)]
    system = turns.pop(0) if parts[0].special == roles.get("system") and len(turns) > 1 else []
    fixed = [*start_ids(tokenizer), *system]
    room, dropped, cut = (room or 10**12) - len(fixed) - 1, 0, 0
    starts = [parts[i].special == roles["user"] for i in range(0, len(parts), 3)][-len(turns) :]
    while sum(map(len, turns)) > room and len(turns) > 1:
        dropped += 1
        del turns[0], starts[0]
        while len(turns) > 1 and not starts[0]:  # an answer without its question
            dropped += 1
            del turns[0], starts[0]
    if (cut := max(0, len(turns[-1]) - room)) and len(turns) == 1:
        if room < 3:
            raise UserError(f"the system message is too long: it has {len(system):,} tokens, and leaves no room")
        turns = [[turns[0][0], *turns[0][1 + cut :]]]
    ends = {specials[name] for name in specials_in(layout)} | ({eot} if eot is not None else set())
    ids = [*fixed, *(token for turn in turns for token in turn), specials[roles["assistant"]]]
    return ChatPrompt(ids, dropped, cut, frozenset(ends))


def _ids(parts: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a turn, without an end-of-text token before it."""
    pieces = [ids.tolist() for ids, _ in encode_document(parts, tokenizer)]
    return [token for piece in pieces[bool(start_ids(tokenizer)) :] for token in piece]
