"""What a run shows: plain lines in a file, one changing line in a terminal, nothing where nobody reads."""

import io
import os
import sys

import pytest

from pealm_core.training.progress import Display

STEP = {"step": 1, "loss": 2.0, "tokens_per_second": 1000.0, "lr": 0.1, "balance": 0.5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_line_that_changes_is_for_terminals(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    display = Display()
    display.step(STEP, 0.1)
    display._shown = 0.0
    display.step({**STEP, "step": 2, "loss": None}, 0.5)
    display.step({**STEP, "step": 3, "val_loss": 1.5}, 1.0)
    display.say("done\x1b[2J")
    display.clear()
    text = stream.getvalue()
    assert text.endswith("\r\x1b[K") == ("\r\x1b[K" in text) == stream.isatty()
    lines = [line for line in text.replace("\r\x1b[K", "\n").split("\n") if line]
    assert lines[-2:] == ["step      3  train 2.0000  val 1.5000  balance 0.5", "done�[2J"]
    if stream.isatty():
        assert "[============            ]  50%  step 2  loss none  bal" in text
        assert max(map(len, lines)) < 60
    else:
        assert lines[0] == "step 1  loss 2.0000  balance 0.5  1,000 tokens/s  10%"


def test_a_closed_pipe_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        display = Display()
        display.say("nobody")
        display.say("reads this")
        stream.write("written at the exit")
