"""`python -m pea`, on a terminal and off it."""

import os
import subprocess
import sys
from io import StringIO

import pytest

from pea import __main__ as demo


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_demo_learns_two_moons() -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "pea"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert "\r" not in done.stdout
    assert "step 100/100" in lines[10] and "accuracy 100%" in lines[10]
    drawing = lines[11:-1]
    assert len(drawing) == demo.HEIGHT
    assert max(map(len, drawing)) <= demo.WIDTH
    assert drawing[0].startswith(" ") and drawing[-1].endswith(".")  # upper moon above, lower below
    points = "".join(drawing)
    assert points.count("o") > 40 and points.count("x") > 30  # some hide each other


def test_on_a_terminal_the_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    demo.main(["--steps", "3"])
    heading, progress, *_ = screen.getvalue().split("\n")
    assert "337 parameters" in heading
    assert [line.count(f"step {k + 1}/3") for k, line in enumerate(progress.split("\r")[1:])] == [1, 1, 1]


def test_steps_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--steps", "0"])
    assert stop.value.code == 2
    assert "--steps 0 is too small; use 1 or more" in capsys.readouterr().err


def test_a_reader_may_stop_early() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pea --steps 30 | head -1"], capture_output=True, text=True
    )
    assert done.stdout.startswith("two moons") and done.stderr == ""
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        command = [sys.executable, "-m", "pea", "--walk"]
        walk = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, env=buffered, text=True
        )
    assert (walk.returncode, walk.stderr) == (1, "")
