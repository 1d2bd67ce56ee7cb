"""Conversations in a tokenizer's chat template: their ids, and which of them the assistant wrote.

The only special tokens are the template's: where a message spells one, a stand-in replaces its first character.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pealm_hf_tokenizer.sandbox import Sandbox

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # the tag around what the assistant writes
PRIVATE = range(0xE000, 0xF900)  # characters without a meaning
CHANGES = "the chat template changes the assistant's texts, so that it is unknown which tokens are theirs"
Message = Mapping[str, str]


def special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a template calls special tokens (`bos_token`), from the content of tokenizer_config.json."""
    values = {name: settings.get(name) for name in NAMES}
    contents = {name: v.get("content") if isinstance(v, dict) else v for name, v in values.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str)}


class ChatTemplate:
    """A chat template with its tokenizer: the library's, which reads special tokens in a text as such."""

    def __init__(self, source: str, tokenizer: Any, specials: Iterable[str], settings: Mapping[str, Any]) -> None:
        self.source, self.tokenizer = source, tokenizer
        self.sandbox = Sandbox(source, special_names(settings))
        longest_first = sorted(filter(None, specials), key=len, reverse=True)
        self.specials = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, messages: Sequence[Message], *, answer: bool) -> list[tuple[list[int], bool]]:
        """Return the ids of messages in pieces, each with whether it is learned. Raises ValueError.

        Learned are the assistant's texts and the special token after each. answer: whether the start of an answer
        follows; then nothing is learned.
        """
        if wrong := [m["role"] for m in messages if not re.fullmatch(r"[a-z_]+", m["role"])]:
            raise ValueError(f"unknown role {wrong[0]!r:.80}")
        used = {*self.source, *"".join(m["content"] for m in messages)}
        free = (char for char in map(chr, PRIVATE) if char not in used)
        start, end = next(free), next(free)
        firsts = {found[0] for m in messages for found in self.specials.findall(m["content"])}
        hidden = dict(zip(firsts, free, strict=False))

        def hide(text: str) -> str:
            return self.specials.sub(lambda found: hidden[found[0][0]] + found[0][1:], text)

        messages = [{**m, "content": hide(m["content"])} for m in messages]
        text, shown = self.sandbox.render(messages, answer=answer), {ord(v): k for k, v in hidden.items()}
        learned = [] if answer else self._learned(messages, text, start, end)
        spans, flags = iter(learned), list[tuple[int, bool]]()
        span = next(spans, None)
        for i, first, last in self._encode(text, shown):
            while span is not None and span[1] <= first:
                span = next(spans, None)
            flags.append((i, span is not None and last > span[0] and first < span[1]))
        return [([i for i, _ in run], learn) for learn, run in groupby(flags, key=lambda flag: flag[1])]

    def _learned(self, messages: Sequence[Message], text: str, start: str, end: str) -> list[tuple[int, int]]:
        """Return where the assistant's texts are in the rendered text, with their end marks.

        They are rendered once more, with a mark at their start and end.
        """
        by_tag = GENERATION.search(self.source)
        for strip in (str, str.strip):  # a template may strip texts: then the marks are inside of what it strips
            marked = messages
            if not by_tag:
                marked = [_marked(m, start, end, strip) if m["role"] == "assistant" else m for m in messages]
            shown = self.sandbox.render(marked, answer=False, marks=(start, end))
            if shown.replace(start, "").replace(end, "") == text:
                break
        else:
            raise ValueError(CHANGES)
        spans, at, first = list[tuple[int, int]](), 0, -1
        for part in re.split(f"([{start}{end}])", shown):
            if part == start:
                first = at if first < 0 else first
            elif part == end:
                first = first if first >= 0 else self._answer_start(messages, text[:at])
                found = re.compile(rf"\s*(?:{self.specials.pattern})").match(text, at)
                ended = by_tag and re.search(f"(?:{self.specials.pattern})$", text[first:at])
                spans.append((first, found.end() if found and not ended else at))
                first = -1
            else:
                at += len(part)
        return spans

    def _answer_start(self, messages: Sequence[Message], text: str) -> int:
        """Return where the answer begins whose start the template left out, such as the thoughts before it."""
        plain, asked = (self.sandbox.render(messages[:1], answer=answer) for answer in (False, True))
        sign = asked.removeprefix(plain)
        if not sign or sign not in text:
            raise ValueError(CHANGES)
        return text.rindex(sign) + len(sign)

    def _encode(self, text: str, shown: Mapping[int, str]) -> Iterator[tuple[int, int, int]]:
        """Yield the ids of a text with their places in it. In a part with stand-ins, special tokens are text."""
        pieces, at = [text], 0
        if any(chr(char) in text for char in shown):
            pieces = [part for part in re.split(f"({self.specials.pattern})", text) if part]
        for spelled, parts in groupby(pieces, key=lambda part: any(chr(char) in part for char in shown)):
            part = "".join(parts)
            self.tokenizer.encode_special_tokens = spelled
            encoded = self.tokenizer.encode(part.translate(shown), add_special_tokens=False)
            for i, (first, last) in zip(encoded.ids, encoded.offsets, strict=True):
                yield i, at + first, at + last
            at += len(part)


def _marked(message: Message, start: str, end: str, strip: Callable[[str], str]) -> Message:
    """Return a message with marks around its text, without what `strip` takes away."""
    content = message["content"]
    if not content.strip():
        return message
    core = strip(content)
    before, _, after = content.partition(core)
    return {**message, "content": f"{before}{start}{core}{end}{after}"}
