"""Checks for commands."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import SkipTest

import click

from pealm_core import CommandSpec
from pealm_testing.base import Conformance
from pealm_testing.core import Spec
from pealm_testing.errors import ConformanceError

_RUN = """
import json, sys
sys.path[:], commands = json.loads(sys.argv[1])
sys.argv[1:] = sys.argv[2:]
from pealm_core.cli import main
from pealm_core.plugins.builtin import COMMANDS
COMMANDS.update(commands)
try:
    main()
finally:
    from pealm_core.plugins.import_checks import HEAVY
    print("\\nHEAVY" + " ".join(sorted(HEAVY & set(sys.modules))))
"""


@dataclass(frozen=True)
class Ended:
    """How a command line ended: exit code, output, and the heavy packages that it loaded."""

    code: int
    out: str
    err: str
    heavy: list[str]


class CommandConformance(Conformance):
    """A command, run in a new Python process.

    arguments: a command line that works; None: the command is not run.
    """

    kind = CommandSpec
    arguments: ClassVar[Any] = None

    def run(self, *words: str) -> Ended:
        """Run `pealm COMMAND words...`."""
        spec = self.entry.spec
        commands = {spec.name: (spec.command, spec.summary)} if isinstance(self.spec, Spec) else {}
        done = subprocess.run(
            [sys.executable, "-c", _RUN, json.dumps([sys.path, commands]), self.entry.name, *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
        out, _, heavy = done.stdout.rpartition("\nHEAVY")
        return Ended(done.returncode, out, done.stderr, heavy.split())

    def test_it_is_a_click_command(self) -> None:
        """Catches a record that names a plain function: `pealm NAME` would not know its options."""
        command = self.entry.load("command")
        if not isinstance(command, click.Command):
            raise ConformanceError(
                f"{self.entry.spec.command!r} is {command!r:.60}: decorate the function with @click.command()"
            )

    def test_help_is_complete_and_light(self) -> None:
        """Catches a `--help` that takes seconds, or does not describe the command and its options."""
        self.test_it_is_a_click_command()
        command = self.entry.load("command")
        done = self.run("--help")
        if done.code:
            raise ConformanceError(f"pealm {self.entry.name} --help ends with {done.code}: {done.err.strip()}")
        if done.heavy:
            raise ConformanceError(
                f"pealm {self.entry.name} --help loads {', '.join(done.heavy)}: import it inside the function"
            )
        if not (command.help or "").strip():
            raise ConformanceError(
                f"pealm {self.entry.name} --help does not say what it does: give the function a docstring"
            )
        for param in command.params:
            if isinstance(param, click.Option) and not param.help:
                raise ConformanceError(f"{param.opts[0]} has no help: @click.option({param.opts[0]!r}, help=...)")

    def test_a_wrong_option_is_refused(self) -> None:
        """Catches a callback that runs before the options are parsed, or ignores a misspelled option."""
        done = self.run("--no-such-option-exists")
        if done.code != 2 or len(done.err.strip().splitlines()) != 1:
            raise ConformanceError(
                f"pealm {self.entry.name} --no-such-option-exists ends with {done.code} and prints "
                f"{done.err.strip()!r}; let click handle wrong options (exit code 2, one line)"
            )

    def test_it_runs(self) -> None:
        """Catches a command whose help works but which fails when it runs."""
        if self.arguments is None:
            raise SkipTest("set arguments = [...], a command line that works")
        done = self.run(*self.arguments)
        if done.code:
            raise ConformanceError(
                f"pealm {self.entry.name} {' '.join(self.arguments)} ends with {done.code}: {done.err.strip()[-500:]}"
            )
