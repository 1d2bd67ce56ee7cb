"""Conversations: three formats, mistakes by line, splits by hash, and a model that learns to answer."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_conversations.config import ConversationsConfig
from pealm_conversations.dataset import Conversations
from pealm_conversations.formats import read_line
from pealm_core import UserError, load_tokenizer, read_checkpoint

Pealm = Callable[..., Any]
HELLO = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
SHARED = {"conversations": [{"from": "human", "value": "Hi!"}, {"from": "gpt", "value": "Hello."}]}


def write(path: Path, *lines: Any) -> Path:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8"
    )
    return path


def dataset(path: Path, **settings: Any) -> Conversations:
    return Conversations(ConversationsConfig(str(path), **settings))


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ({"messages": HELLO}, HELLO),
        (SHARED, HELLO),
        ({"instruction": "Hi!", "input": "", "output": "Hello."}, HELLO),
        ({**SHARED, "system": "Be kind."}, [{"role": "system", "content": "Be kind."}, *HELLO]),
        ({"messages": [{"role": "developer", "content": "x"}, *HELLO]}, [{"role": "system", "content": "x"}, *HELLO]),
        ({"messages": [{**HELLO[0], "content": [{"type": "text", "text": "Hi!"}]}, HELLO[1]], "id": 3}, HELLO),
    ],
)
def test_formats(line: Any, messages: Any) -> None:
    assert read_line(json.dumps(line)) == messages


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "must be an object"),
        ({"text": "x"}, "none of messages, conversations and instruction, only text"),
        ({"messages": []}, "the conversation is empty"),
        ({"messages": "x"}, "messages must be a list"),
        ({"messages": ["x"]}, "message 1 must be an object with role and content"),
        (
            {"messages": [HELLO[0], {"role": "robot", "content": "x"}]},
            "message 2: unknown role 'robot'; known: system",
        ),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "unknown from 'tool'"),
        (
            {"messages": [HELLO[0], {"role": "assistant", "content": None}]},
            "message 2: content must be text, not None",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1: content must be text"),
        ({"messages": HELLO[:1]}, "no turn of the assistant"),
        ({"instruction": "x"}, "output must be text, not None"),
    ],
)
def test_mistakes_are_named_with_their_line(line: Any, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "talk.jsonl", {"messages": HELLO}, "", line)
    with pytest.raises(UserError) as error:
        list(dataset(path).documents("train"))
    assert f"{path}, line 3: " in str(error.value) and problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no conversations"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "no such file or directory"),
        (json.dumps(SHARED).encode(), "only one conversation"),
        (2 * (json.dumps(SHARED).encode() + b"\n"), "only one conversation"),
    ],
)
def test_files_that_cannot_be_used(content: bytes | None, problem: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "talk.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        list(dataset(tmp_path / "talk.jsonl").documents("val"))
    with pytest.raises(UserError, match="not a regular file"):
        list(dataset(tmp_path).documents("val"))


def test_splits_are_by_hash(tmp_path: Path) -> None:
    lines = [{"instruction": f"say {number}", "output": "x"} for number in range(200)]
    splits: list[dict[str, list[str]]] = []
    for several in (lines, lines[::-1], lines + lines[:50]):
        data = dataset(write(tmp_path / "talk.jsonl", *several))
        splits.append({name: [parts[1].text for parts in data.documents(name)] for name in ("train", "val")})
    assert 5 < len(splits[0]["val"]) < 40 and not {*splits[0]["val"]} & {*splits[0]["train"]}
    assert splits[1]["val"] == splits[0]["val"][::-1] and {*splits[2]["val"]} == {*splits[0]["val"]}
    for fraction in (1e-9, 0.999999):  # both splits have at least one
        data = dataset(write(tmp_path / "two.jsonl", *lines[:2]), val_fraction=fraction)
        assert [len(list(data.documents(name))) for name in ("train", "val")] == [1, 1]


def test_a_model_learns_to_answer(pealm: Pealm, tmp_path: Path) -> None:
    """Roles in a row are merged, a spelled token is text, and the checkpoint keeps the layout."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": "<|end|>"},
                {"role": "user", "content": f"say {a}{b}"},
                {"role": "assistant", "content": "yes"},
            ]
        }
        for a in "abcdefgh"
        for b in "abcdefgh"
    ]
    path, run = write(tmp_path / "talk.jsonl", *lines), tmp_path / "run"
    small = ("--model.block-size", 48, "--model.n-layer", 1, "--model.n-embd", 32, "--model.n-head", 2)
    done = pealm(
        "train", "sprout", "--input.conversations", path, *small, "--steps", 60, "--batch-size", 16,
        "--eval-every", 0, "--out", run,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.count("conversations with several turns of one role in a row, which are merged: 64") == 1
    tokenizer: Any = load_tokenizer(read_checkpoint(run).config, read_checkpoint(run).tokenizer)
    assert tokenizer.chat == pealm_core.CHAT_LAYOUT
    lm = pealm_core.load(run, device="cpu")
    answers = [lm.chat([{"role": "user", "content": f"<|end|>\nsay {a}c"}], temperature=0) for a in "abcdefgh"]
    assert answers == ["yes"] * 8  # and then the end mark
    done = pealm(
        "train",
        "sprout",
        "--input.conversations",
        path,
        "--model.block-size",
        16,
        "--steps",
        1,
        "--out",
        tmp_path / "x",
    )
    for text in ("training", "validation"):
        line = rf"documents longer than 16 tokens, each cut into several rows: \d+ of the {text} text\n"
        assert re.search(line, done.out), done.out
