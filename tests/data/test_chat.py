"""Chat layouts: conversations as documents, prompts that fit, and where the layout is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core import CHAT_LAYOUT, LM, UserError, chat_document, chat_prompt
from pealm_core.checkpoints.build_tokenizer import _layout
from pealm_core.data.special_tokens import with_specials
from pealm_core.data.token_cache import fingerprint

NAMES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
SYSTEM, USER, BOT, END = range(256, 260)


class Letters:
    """A tokenizer of bytes."""

    vocab_size = 256

    def __init__(self, eot: int | None = None) -> None:
        self.eot_id = eot

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


def talk(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [*([{"role": "system", "content": system}] if system is not None else []), *turns]


def chatty(eot: int | None = None) -> Any:
    return with_specials(Letters(eot), [], chat=CHAT_LAYOUT)


def test_a_conversation_is_a_document_whose_answers_are_learned() -> None:
    parts = chat_document([*talk("Hi", "Yo", "a"), {"role": "user", "content": "b"}])
    names = [part.special or part.text for part in parts]
    assert names == ["<|user|>", "Hi", "<|end|>", "<|assistant|>", "Yo", "<|end|>", "<|user|>", "a\nb", "<|end|>"]
    assert [name for name, part in zip(names, parts, strict=True) if part.learn] == ["Yo", "<|end|>"]
    with pytest.raises(ValueError, match="unknown role 'robot'; known: system, user, assistant"):
        chat_document([{"role": "robot", "content": "x"}])
    wrong: Any
    for wrong in ("hi", [3], [{"role": "user"}], [{"content": "x"}], [{"role": ["user"], "content": "x"}]):
        with pytest.raises(UserError, match=r"a message is .*'Hi!'.*, for instance, not"):
            chat_prompt(chatty(), [*talk("a", "b"), *wrong])


def test_the_layout_is_kept_with_the_tokenizer_and_part_of_its_hash(tmp_path: Path) -> None:
    tokenizer = chatty()
    assert tokenizer.chat == CHAT_LAYOUT and list(tokenizer.specials) == NAMES
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "chat.json").read_text()) == CHAT_LAYOUT
    again: Any = with_specials(Letters(), [], tmp_path)
    assert again.chat == CHAT_LAYOUT and again.specials == tokenizer.specials
    other = {"roles": {"user": "<|user|>", "assistant": "<|assistant|>"}, "end": "<|assistant|>"}
    renewed: Any = with_specials(Letters(), [], tmp_path, other)
    assert renewed.chat == other and renewed.specials == tokenizer.specials
    plain = with_specials(Letters(), NAMES)
    assert len({fingerprint("letters", {}, t) for t in (tokenizer, renewed, plain)}) == 3
    owner: Any = Letters()
    owner.specials, owner.vocab_size = tokenizer.specials, 260  # nothing has to be added but the layout
    assert with_specials(owner, [], chat=CHAT_LAYOUT).vocab_size == 260


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "{}",
        '{"roles": {"user": "a"}, "end": "e"}',
        '{"roles": {"user": 1, "assistant": "b"}, "end": "e"}',
        "[" * 100_000,
    ],
)
def test_a_wrong_layout_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(text)
    with pytest.raises(ValueError):
        with_specials(Letters(), [], tmp_path)


def test_two_layouts_in_one_mixture_are_refused() -> None:
    job: Any = type("Job", (), {})()
    job.inputs = ["input.1", "input.2"]
    job.entries = {table: type("Entry", (), {"name": name}) for table, name in zip(job.inputs, "ab", strict=True)}
    first, second = type("Data", (), {"chat": CHAT_LAYOUT}), type("Data", (), {"chat": {**CHAT_LAYOUT, "end": "x"}})
    assert _layout(job, [first, type("Data", (), {})]) == CHAT_LAYOUT == _layout(job, [first, first])  # type: ignore[list-item]
    with pytest.raises(UserError, match="a and b have different chat layouts"):
        _layout(job, [first, second])  # type: ignore[list-item]


def test_a_prompt_has_the_turns_and_begins_the_answer() -> None:
    prompt = chat_prompt(chatty(eot=0), talk("Hi", "Yo", "<|end|>"))
    spelled = [ord(c) for c in "<|end|>"]
    turns = [USER, ord("H"), ord("i"), END, BOT, ord("Y"), ord("o"), END, USER, *spelled, END]
    assert prompt.ids == [0, *turns, BOT] and (prompt.dropped, prompt.cut) == (0, 0)
    assert prompt.ends == {0, SYSTEM, USER, BOT, END}


def test_the_oldest_turns_leave_and_the_system_message_stays() -> None:
    messages = talk("aaaa", "bbbb", "cccc", "dddd", "e", system="S")
    tokens = [3, 6, 6, 6, 6, 3]
    assert len(chat_prompt(chatty(), messages, 31).ids) == sum(tokens) + 1 == 31
    prompt = chat_prompt(chatty(), messages, 30)
    assert prompt.dropped == 2 and prompt.ids[:5] == [SYSTEM, ord("S"), END, USER, ord("c")]
    assert chat_prompt(chatty(), messages, 13).dropped == 4
    prompt = chat_prompt(chatty(), talk("abcdef", system="S"), 9)
    assert prompt.cut == 3 and prompt.ids[3:] == [USER, ord("d"), ord("e"), ord("f"), END, BOT]
    with pytest.raises(UserError, match="the system message is too long"):
        chat_prompt(chatty(), talk("a", system="S" * 20), 9)


@pytest.mark.parametrize("messages", [[], talk("a", "b")])
def test_there_must_be_something_to_answer(messages: Any) -> None:
    with pytest.raises(UserError, match="the last message must be one to answer"):
        chat_prompt(chatty(), messages)
    with pytest.raises(UserError, match="no chat layout"):
        chat_prompt(Letters(), messages)


class Counting(torch.nn.Module):
    """After a role's token comes `a`, then the next letter of the alphabet; after `d`, the end mark."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.config = type("Config", (), {"block_size": block_size, "vocab_size": 260})
        self.zero = torch.nn.Parameter(torch.zeros(()))

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        assert idx.shape[1] <= self.config.block_size
        idx = idx if at is None else idx[:, at]
        following = torch.where(idx == BOT, ord("a"), torch.where(idx == ord("d"), END, (idx + 1) % 260))
        return 100.0 * torch.nn.functional.one_hot(following, 260) + self.zero, None


def test_a_model_answers_until_its_end_mark() -> None:
    lm = LM(Counting(64), chatty(), {})
    assert lm.chat(talk("x")) == "abcd" == "".join(lm.chat_stream(talk("x")))
    assert lm.chat(talk("x"), max_new_tokens=2) == "ab"
    lines: list[str] = []
    small = LM(Counting(12), chatty(), {})
    assert "".join(small.chat_stream(talk("xx", "yy", "zz"), say=lines.append)) == "abcd"
    assert lines == ["the 2 oldest turns don't fit into the context of 12 tokens any more"]
    list(small.chat_stream(talk("x" * 20), say=lines.append))
    assert lines[1:] == ["the message is too long for the context: its first 14 tokens are left out"]
    with pytest.raises(UserError, match="unknown role"):
        lm.chat([{"role": "robot", "content": "x"}])
