"""The loop of `pealm chat`: read a line, do what it says or print an answer."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from pealm_chat.conversation import Conversation
from pealm_core import UserError

PROMPT = "> "
HELP = "/reset, /undo, /save FILE, /help, /exit; a message that begins with a slash: //..."


def converse(conversation: Conversation) -> None:
    """Talk until the input ends, in a terminal or, for piped input, an answer for each line. Raises UserError."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        for line in _piped_lines():
            _turn(conversation, line)
        return
    click.echo(f"Ctrl-D ends the chat, /help lists commands; {_size(conversation)}", err=True)
    read = _reader()
    while True:
        try:
            try:
                if not _turn(conversation, read()):
                    return
            except UserError as error:
                _say(str(error))
        except KeyboardInterrupt:
            click.echo()
        except EOFError:
            click.echo()
            return


def _turn(conversation: Conversation, line: str) -> bool:
    """Run a command or print an answer; return False at the end of the chat."""
    word, _, rest = line.partition(" ")
    if line.startswith("/") and not line.startswith("//"):
        return _command(conversation, word, rest.strip())
    text = line[1:] if line.startswith("//") else line
    if text.strip():
        try:
            for piece in conversation.answer(text, _say):
                click.echo(shown(piece), nl=False)
        except UserError:
            raise
        except KeyboardInterrupt:  # the answer ends, not the chat
            if not sys.stdin.isatty():
                raise
    if text.strip() or not sys.stdin.isatty():
        click.echo()
    return True


def _command(conversation: Conversation, word: str, rest: str) -> bool:
    if word in ("/exit", "/quit"):
        return False
    if word == "/reset":
        conversation.reset()
        _say("the conversation starts again")
    elif word == "/undo":
        text = conversation.undo()
        _say("there is nothing to undo" if text is None else f"undone: {text:.60}")
    elif word == "/save":
        if not rest:
            raise UserError("/save FILE: the file is missing")
        conversation.save(Path(rest))
        _say(f"written: {rest}")
    elif word == "/help":
        _say(HELP)
    else:
        raise UserError(f"unknown command {word}; {HELP}")
    return True


def _piped_lines() -> Iterator[str]:
    """Yield the lines of standard input without their ends. Raises UserError for one that is not UTF-8."""
    for number, line in enumerate(iter(sys.stdin.buffer.readline, b""), 1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number:,} is not UTF-8: {error.reason}") from None


def _reader() -> Callable[[], str]:
    """Return a function that reads a line: with history and editing where the terminal can show it."""
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return lambda: input(PROMPT)
    try:
        from prompt_toolkit import PromptSession
    except ImportError:
        return lambda: input(PROMPT)
    session = PromptSession[str](PROMPT)
    return session.prompt


def shown(text: str) -> str:
    """Return a model's text as it may be printed. A terminal doesn't get the characters that would control it."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _say(line: str) -> None:
    """Print a line about the chat; it isn't part of an answer."""
    click.echo(f"[{shown(line)}]", err=True)


def _size(conversation: Conversation) -> str:
    return f"the context has {conversation.lm.model.config.block_size:,} tokens"  # type: ignore[union-attr]
