"""Render a chat template in a process of its own: whatever it does, its time and memory are limited."""

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 60.0  # the process ends itself earlier, but for a machine that is busy otherwise


class Sandbox:
    """A template and its process, which is started at the first use and again after it was ended."""

    def __init__(self, template: str, names: Mapping[str, str]) -> None:
        self.template, self.names = template, names
        self._lock, self._pid = threading.Lock(), 0
        self._end: Callable[[], object] = lambda: None
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool, marks: Sequence[str] = ("", "")) -> str:
        """Return the text of a conversation. names: what the template may call its special tokens.

        answer: whether the start of an answer follows. marks: around what the tag `generation` encloses. Raises
        ValueError, with one line, for a template that fails or breaks a limit.
        """
        request = {"template": self.template, "names": self.names, "answer": answer, "marks": marks}
        with self._lock:
            reply = self._ask(json.dumps({**request, "messages": list(messages)}).encode() + b"\n")
        if reply is None:
            raise ValueError("the chat template was stopped: it computes too long or takes too much memory")
        if "error" in reply:
            raise ValueError(f"the chat template fails: {' '.join(str(reply['error']).split()):.300}")
        text: str = reply["text"]
        return text

    def _ask(self, request: bytes) -> dict[str, Any] | None:
        """Return the reply of the process, or None if it ended."""
        if self._process is None or self._pid != os.getpid():  # after a fork it is the parent's
            self._start()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        alarm, complete = threading.Timer(SECONDS, self._process.kill), False
        alarm.daemon = True
        alarm.start()
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            complete = line.endswith(b"\n")
        except BrokenPipeError:
            pass
        finally:  # an interrupted request must not get its reply later
            alarm.cancel()
            if not complete:
                self._end()
                self._process = None
        reply: dict[str, Any] | None = json.loads(line) if complete else None
        return reply

    def _start(self) -> None:
        code = Path(__file__).with_name("sandbox_process.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the chat
        )
        self._pid = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, self._pid)


def _end(process: subprocess.Popen[bytes], pid: int) -> None:
    if pid == os.getpid():
        process.kill()
        process.communicate()
