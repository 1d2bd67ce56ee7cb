"""The group of all commands, and how an exception becomes one line and an exit code."""

import errno
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from pealm_core.cli import COMMANDS
from pealm_core.contract.errors import ElsewhereError, PealmError, PluginError, UserError

# What the system says of a name or place that the user chose.
MISPLACED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class LazyGroup(click.Group):
    """The commands of the core and of plugins, each imported on use."""

    def _plugin_commands(self) -> dict[str, list[Any]]:
        from pealm_core.contract.specs import CommandSpec
        from pealm_core.plugins.host import PluginHost

        return PluginHost.installed().entries(CommandSpec)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command's name, the core's first."""
        return [*COMMANDS, *self._plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises UserError for an unknown one, PluginError for a broken one."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command = getattr(import_module(module), attribute)
        else:
            from pealm_core.contract.fields import nearest
            from pealm_core.contract.specs import CommandSpec
            from pealm_core.plugins.host import PluginHost

            host = PluginHost.installed()
            names = [*COMMANDS, *host.entries(CommandSpec)]
            try:
                if (close := nearest(cmd_name, names)) in COMMANDS:
                    raise UserError(f"unknown command {cmd_name!r}; did you mean {close!r}?")
                entry = host.find(CommandSpec, cmd_name)
            except UserError as error:
                reason = str(error).partition("; known:")[0]
                raise UserError(f"{reason} (commands: {', '.join(names)})") from None
            command = entry.load("command")
            if not isinstance(command, click.Command):
                raise PluginError(f"{entry.plugin.dist}: command {cmd_name!r} is {command!r}, not a click command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their records."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        plugins = self._plugin_commands()
        if plugins:
            with formatter.section("Commands from plugins"):
                formatter.write_dl([(name, entries[0].spec.summary) for name, entries in plugins.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pealm-core", prog_name="pealm")
def pealm() -> None:
    """Train, sample and evaluate small language models.

    Models, tokenizers, datasets and evaluations are plugins: `pealm plugins` lists what is installed,
    `pealm COMMAND --help` explains a command, and `pealm train MODEL --help` a model's settings.
    """


def run(args: Sequence[str]) -> int:
    """Run a command line. Returns the exit code, or exits at once where threads may still be running."""
    # Threads of GNU OpenMP spin before they wait; on a busy machine its default spins away nearly all of the time
    # (measured: 20 times slower). A short spin costs an idle machine nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # never fail for an encoding that lacks a character
    if sys.stdout is None:
        return fail("standard output is closed; redirect it, for instance to /dev/null", 1)
    code = _run(args)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _stdout_failed(error)
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several or any(thread.name.startswith("pealm-") for thread in threading.enumerate()):
        # The usual exit may crash in the native code of threads that nobody joins: of a process group, a save or a
        # download.
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(code)
    return code


def _run(args: Sequence[str]) -> int:
    try:
        for word in args:
            if not word.isascii() and word.encode("utf-8", "replace") != word.encode("utf-8", "surrogatepass"):
                raise UserError(f"{word!a} is not valid UTF-8; rename the file")
        code = pealm.main(args=list(args), prog_name="pealm", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ElsewhereError as error:
        return error.exit_code
    except PealmError as error:
        if os.environ.get("PEALM_DEBUG"):
            import traceback

            traceback.print_exception(error)
        return fail(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return fail(_message(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", 130)
    except OSError as error:
        return _system_error(error)
    except Exception as error:
        return _defect(error)


def _system_error(error: OSError) -> int:
    """Report a failed write to stdout, a full disk, or a file name or place that the system refuses."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("click", "rich"):
        return _stdout_failed(error)
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    if place and error.errno in MISPLACED:
        hint = "; choose another path or change its permissions" if isinstance(error, PermissionError) else ""
        return fail(f"{place}{error.strerror}{hint}", 2)
    return fail(f"{place}{error.strerror}", 1) if error.errno in (errno.ENOSPC, errno.EDQUOT) else _defect(error)


def _stdout_failed(error: OSError) -> int:
    """Report that stdout can't be written; a closed pipe, as in `pealm sample ... | head`, is no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
    return 0 if isinstance(error, BrokenPipeError) else fail(f"standard output: {error.strerror}", 1)


def _defect(error: Exception) -> int:
    """Report an unexpected exception: one line if it is out of memory or from a plugin, else a traceback."""
    import traceback

    from pealm_core.plugins.host import PluginHost

    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in str(error)
    ):
        first = (str(error) or "no details").splitlines()[0]
        return fail(f"out of memory; use a smaller model, batch or number of samples ({first:.200})", 1)
    blamed = PluginHost.installed().blame(error)
    if os.environ.get("PEALM_DEBUG") or blamed is None:
        traceback.print_exception(error)
    if blamed is None:
        return fail("this is a bug in pealm; please report it with the lines above", 1)
    return fail(f"{blamed}: {type(error).__name__}: {error} (PEALM_DEBUG=1 shows the traceback)", 3)


def _message(error: click.ClickException) -> str:
    """Return click's message in one line, with the nearest option and the command for the help page."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        from pealm_core.contract.fields import did_you_mean

        message = f"unknown option {error.option_name}{did_you_mean(error.option_name, error.possibilities or [])}"
    where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
    return message + where


def fail(message: str, code: int) -> int:
    """Print an error's lines and return the exit code."""
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    for line in message.splitlines():
        click.echo(f"pealm: {line}" if rank == "0" else f"pealm: rank {rank}: {line}", err=True)
    return code
