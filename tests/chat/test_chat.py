"""`pealm chat`: piped, on a dumb terminal and with line editing; commands; Ctrl-C; hostile answers."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_chat import loop
from pealm_chat.conversation import Conversation
from pealm_core import Sampling
from pealm_testing import CommandConformance

Pealm = Callable[..., Any]
ROLES = ("user", "assistant")
PATIENCE = 60  # seconds


class TestCommand(CommandConformance):
    spec = "chat"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers "yes" to short questions and with many letters to others."""
    folder = tmp_path_factory.mktemp("model")
    questions = [(f"{a}{b}?", "yes") for a in "abcdef" for b in "abcdef"]
    talks = [[one, *questions[i : i + 3]] for i, one in enumerate(questions)] * 3
    talks += [[one, (f"{a}!", "no" * 100)] for one in questions[:4] for a in "abcdefgh"]
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": role, "content": text} for turn in talk for role, text in zip(ROLES, turn, strict=True)
                ]
            }
        )
        for talk in talks
    ]
    (folder / "talk.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_CACHE", str(folder / "cache"))
        patch.setenv("PEALM_DISABLE_PLUGINS", "report")
        small = {"name": "char-transformer", "block-size": 8192, "n-layer": 1, "n-embd": 32, "n-head": 2}
        data = {"conversations": str(folder / "talk.jsonl")}
        settings: dict[str, Any] = {"steps": 300, "block-size": 256, "batch-size": 4, "lr": 0.01, "eval-every": 0}
        return pealm_core.train(small, data, out=folder / "run", **settings)


@pytest.fixture
def piped(pealm: Pealm, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(text: str | bytes, *args: object, ckpt: Path = model) -> Any:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return pealm("chat", "--ckpt", ckpt, "--temperature", 0, *args)

    return run


def test_one_line_in_one_answer_out(piped: Callable[..., Any], tmp_path: Path) -> None:
    done = piped(f"ab?\n\ncd?\r\n/save {tmp_path / 'saved.jsonl'}\n")
    assert done.code == 0 and done.out == "yes\n\nyes\n" and "written: " in done.err
    contents = [message["content"] for message in json.loads((tmp_path / "saved.jsonl").read_text())["messages"]]
    assert contents == ["ab?", "yes", "cd?", "yes"]
    assert piped("ab?", "--system", "aa", "--seed", 3, "--top-k", 2).out == "yes\n"


def test_bad_input_is_one_line(piped: Callable[..., Any], pealm: Pealm, book: Path, tmp_path: Path) -> None:
    for text, problem in (
        ("ab?\n\u00e4\n", "can't be tokenized"),
        (b"ab?\n\xff\n", "standard input, line 2 is not UTF-8"),
        ("/dance", "unknown command /dance; /reset, /undo"),
        ("/save", "the file is missing"),
        (f"/save {tmp_path}", "exists"),
    ):
        done = piped(text)
        assert done.code == 2 and problem in done.err and len(done.err.splitlines()) == 1, done.err
    assert pealm("train", "char-bigram", "--input.text", book, "--steps", 1, "--out", tmp_path / "plain").code == 0
    done = piped("ab?", ckpt=tmp_path / "plain")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert f"pealm train char-bigram --init {tmp_path / 'plain'} --input.conversations FILE.jsonl" in done.err


class Terminal:
    """A process in a terminal: `read` waits for a text, `type` sends one."""

    def __init__(self, *args: object, term: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pealm", *map(str, args)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": term, "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        os.close(slave)
        self.text, self.place = "", 0

    def read(self, wanted: str) -> str:
        end = time.monotonic() + PATIENCE
        while wanted not in self.text[self.place :]:
            ready = select.select([self.master], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"no {wanted!r}: {self.text}"
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended without {wanted!r}: {self.text}") from None
        start, self.place = self.place, self.text.index(wanted, self.place) + len(wanted)
        return self.text[start : self.place]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C until a prompt comes: `input()` leaves one that comes just before it reads until the next line."""
        while True:
            os.killpg(self.process.pid, signal.SIGINT)
            if select.select([self.master], [], [], 1)[0]:
                self.read(">")
                return

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(model: Path) -> Iterator[Callable[[str], Terminal]]:
    started: list[Terminal] = []

    def start(term: str) -> Terminal:
        args = ("chat", "--ckpt", model, "--temperature", 0, "-n", 100_000)
        started.append(Terminal(*args, term=term))
        started[-1].read("the context has 8,192 tokens")
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_in_a_terminal(term: str, terminal: Callable[[str], Terminal], tmp_path: Path) -> None:
    shell = terminal(term)
    end = "\n" if term == "dumb" else "\r"
    shell.read(">")  # prompt_toolkit moves the cursor instead of printing a space
    shell.type(f"ab?{end}")
    shell.read("yes")
    shell.type(f"a!{end}")
    shell.read("nonono")
    shell.interrupt()  # the answer ends
    shell.type(f"/undo{end}")
    shell.read("[undone: a!]")
    shell.type(f"/dance{end}")
    shell.read("[unknown command /dance;")
    shell.type(f"\u00e4{end}")
    shell.read("can't be tokenized")
    shell.read(">")
    if term == "dumb":
        shell.interrupt()  # at the prompt: another prompt
    else:
        shell.type("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r")  # five lines up: the first one
        shell.read("yes")
    shell.type(f"/save {tmp_path / 'saved.jsonl'}{end}")
    shell.read("[written: ")
    shell.type(f"/reset{end}")
    shell.read("[the conversation starts again]")
    shell.type(f"/undo{end}")
    shell.read("[there is nothing to undo]")
    shell.read(">")  # typed earlier, it would be lost
    shell.type("\x04")
    assert shell.process.wait(PATIENCE) == 0, shell.text
    contents = [message["content"] for message in json.loads((tmp_path / "saved.jsonl").read_text())["messages"]]
    assert contents == ["ab?", "yes"] * (1 if term == "dumb" else 2)


class Fixed:
    """A model's stand-in that gives the same pieces whatever it is asked."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def chat_stream(self, messages: Any, sampling: Any, *, say: Any) -> Iterator[str]:
        yield from self.pieces


def talk(*pieces: str) -> Conversation:
    lm: Any = Fixed(*pieces)
    return Conversation(lm, Sampling())


def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    loop._turn(talk("a\x1b]0;title\x07", "\r\u202eb\n\tc"), "hello")
    assert capsys.readouterr().out.strip("\n") == "a\ufffd]0;title\ufffd\ufffd\ufffdb\n\tc"


def test_an_interrupted_answer_is_kept() -> None:
    conversation = talk("a", "b", "c")
    answer = conversation.answer("x", print)
    assert [next(answer), next(answer)] == ["a", "b"]
    with pytest.raises(KeyboardInterrupt):
        answer.throw(KeyboardInterrupt())
    assert [message["content"] for message in conversation.messages] == ["x", "ab"]
    assert conversation.undo() == "x" and conversation.undo() is None
