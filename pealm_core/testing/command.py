"""What a command must do."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from unittest import SkipTest

import click

from pealm_core.contract.specs import CommandSpec
from pealm_core.testing.base import Conformance

_RUN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
sys.argv[1:] = sys.argv[2:]
from pealm_core.cli import main
try:
    main()
finally:
    from pealm_core.plugins.guard import HEAVY
    print("\\nHEAVY" + " ".join(sorted(HEAVY & set(sys.modules))))
"""


@dataclass(frozen=True)
class Ended:
    """How a command line ended: exit code, what it printed, heavy packages that it loaded."""

    code: int
    out: str
    err: str
    heavy: list[str]


class CommandConformance(Conformance):
    """A command, run in a Python of its own.

    arguments: words with which it works, for one run; None: it is not run.
    """

    kind = CommandSpec
    arguments: ClassVar[Sequence[str] | None] = None

    def run(self, *words: str) -> Ended:
        """Run `pealm COMMAND words...`."""
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps(sys.path), self.entry.name, *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
        out, _, heavy = done.stdout.rpartition("\nHEAVY")
        return Ended(done.returncode, out, done.stderr, heavy.split())

    def test_it_is_a_click_command(self) -> None:
        """Catches a record that names a plain function: `pealm NAME` would not know its options."""
        command = self.entry.load("command")
        assert isinstance(command, click.Command), (
            f"{self.entry.spec.command!r} is {command!r:.60}: decorate the function with @click.command()"
        )

    def test_help_is_there_and_light(self) -> None:
        """Catches a `--help` that takes seconds, or says nothing of what the command and its options are for."""
        done = self.run("--help")
        assert done.code == 0, f"pealm {self.entry.name} --help ends with {done.code}: {done.err.strip()}"
        assert not done.heavy, (
            f"pealm {self.entry.name} --help loads {', '.join(done.heavy)}: import it inside of the function"
        )
        command = self.entry.load("command")
        assert isinstance(command, click.Command) and (command.help or "").strip(), (
            f"pealm {self.entry.name} --help does not say what it does: give the function a docstring"
        )
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, f"{param.opts[0]} has no help: @click.option({param.opts[0]!r}, help=...)"

    def test_a_mistake_is_one_line(self) -> None:
        """Catches a callback that runs before the options are read, or swallows a misspelt one."""
        done = self.run("--no-such-option-exists")
        lines = done.err.strip().splitlines()
        assert done.code == 2 and len(lines) == 1, (
            f"pealm {self.entry.name} --no-such-option-exists ends with {done.code} and says {done.err.strip()!r}; "
            f"leave wrong options to click, which makes it exit code 2 and one line"
        )

    def test_it_runs(self) -> None:
        """Catches a command that shows its help and can't do its work."""
        if self.arguments is None:
            raise SkipTest("arguments = [...] would say how to run it")
        done = self.run(*self.arguments)
        assert done.code == 0, (
            f"pealm {self.entry.name} {' '.join(self.arguments)} ends with {done.code}: {done.err.strip()[-500:]}"
        )
