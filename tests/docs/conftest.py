"""Run the commands of the documentation: those of pealm in this process, anything else in a shell."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SIMPLE = re.compile(r"pealm [^|<>$;]*")


@pytest.fixture
def run_block(
    pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path, dict[str, str]], str]:
    """`run_block(commands, folder, env)` returns what they print; a command that fails fails the test."""

    def run(commands: str, folder: Path, env: dict[str, str]) -> str:
        lines = [line.split("  #")[0] for line in commands.replace("\\\n", " ").strip().splitlines()]
        if not all(map(SIMPLE.fullmatch, lines)):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            full = os.environ | env | {"PATH": path}
            done = subprocess.run(["bash", "-ec", commands], cwd=folder, env=full, capture_output=True, text=True)
            assert done.returncode == 0, commands + done.stdout + done.stderr
            return done.stdout + done.stderr
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        printed = ""
        for line in lines:
            result = pealm(*shlex.split(line)[1:])
            assert result.code == 0, line + "\n" + result.err
            printed += result.err + result.out
        return printed

    return run
