"""The group of all commands, and how an exception becomes one line and an exit code."""

import errno
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module

import click

from pealm_core.config.paths import printable
from pealm_core.contract.errors import (
    ElsewhereError,
    PealmError,
    PluginError,
    UserError,
    describe,
    did_you_mean,
    nearest,
)
from pealm_core.contract.specs import CommandSpec
from pealm_core.plugins.builtin import COMMANDS
from pealm_core.plugins.discovery import use_plugin
from pealm_core.plugins.import_checks import no_exit
from pealm_core.plugins.loading import PluginHost
from pealm_core.plugins.plugin_errors import HINT, blame

# What the system says of a name or place that the user chose.
MISPLACED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
OF_COMMANDS = {module.partition(".")[0] for module, _ in COMMANDS.values()} - {"pealm_core"}  # may be missing
GRACE = 2.0  # seconds for the process that says why all end: a launcher ends it when another one ends first
NO_MEMORY = ("MemoryError", "allocate memory")  # also torch's OutOfMemoryError


class LazyGroup(click.Group):
    """The commands of the core and of plugins, each imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command's name, the core's first."""
        return [*COMMANDS, *PluginHost.installed().entries(CommandSpec)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises UserError for an unknown one, PluginError for a broken one."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            core: click.Command = getattr(import_module(module), attribute)
            ctx.with_resource(no_exit())  # while it runs
            return core
        host = PluginHost.installed()
        names = [*COMMANDS, *host.entries(CommandSpec)]
        try:
            if cmd_name not in names and (close := nearest(cmd_name, names)) in COMMANDS:
                raise UserError(f"unknown command {cmd_name!r}; did you mean {close!r}?")
            entry = host.find(CommandSpec, cmd_name)
        except UserError as error:
            reason = str(error).partition("; known:")[0]
            raise UserError(f"{reason} (commands: {', '.join(names)})") from None
        command = entry.load("command")
        if not isinstance(command, click.Command):
            raise PluginError(f"{entry.plugin.dist}: command {cmd_name!r} is {command!r}, not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their records."""
        plugins = PluginHost.installed().entries(CommandSpec)
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        if plugins:
            with formatter.section("Commands from plugins"):
                formatter.write_dl([(name, entries[0].spec.summary) for name, entries in plugins.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pealm-core", prog_name="pealm")
@click.option(
    "--plugin",
    "files",
    metavar="FILE.py",
    multiple=True,
    is_eager=True,  # also for the list of commands
    callback=lambda ctx, param, files: [*map(use_plugin, files)],
    expose_value=False,
    help="Load a plugin from a file; repeatable. Also PEALM_PLUGINS.",
)
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
    threading.excepthook = _thread_failed
    command: str | None = None
    try:
        for word in args:
            if word != word.encode("utf-8", "replace").decode():  # its bytes are not
                raise UserError(f"{word!a} is not valid UTF-8; rename the file")
        if "_" in os.environ.get("_PEALM_COMPLETE", ""):  # a shell asks for completions
            pealm.main(args=list(args), prog_name="pealm")
        with pealm.make_context("pealm", list(args)) as context:  # not main(), which ends silently at a closed pipe
            try:
                pealm.invoke(context)
            finally:
                command = context.invoked_subcommand
        sys.stdout.flush()
        code = 0
    except BaseException as error:  # also a panic in Rust
        if isinstance(error, SystemExit) and command not in COMMANDS:
            raise  # a plugin's command may exit like this; elsewhere it is a defect
        code = _report(error)
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several or any(thread.name.startswith("pealm-") for thread in threading.enumerate()):
        # The usual exit may crash in the native code of threads that nobody joins: of a process group, a save or a
        # download.
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(code)
    return code


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print the line of an exception that ended a thread, for instance one that a plugin started."""
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        if os.environ.get("PEALM_DEBUG"):
            _print_traceback(failure.exc_value)
        fail(f"a thread failed: {describe(failure.exc_value)}{HINT}", 1)


def _report(error: BaseException) -> int:
    """Print the line of an exception and return its exit code. PEALM_DEBUG=1 shows the traceback."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return fail("interrupted", 130)
        case click.exceptions.Exit() | ElsewhereError():
            if isinstance(error, ElsewhereError):
                time.sleep(GRACE)
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return 2
        case click.ClickException():
            return fail(_message(error), error.exit_code)
        case ModuleNotFoundError(name=str() as module) if module in OF_COMMANDS:
            name = module.replace("_", "-")
            return fail(f"this command needs {name}; try: pip install {name}", 2)
        case PealmError():
            message, code = str(error), error.exit_code
        case OSError() if _is_of_stdout(error):  # a closed pipe, as in `pealm sample ... | head`, is no failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
            return 0 if isinstance(error, BrokenPipeError) else fail(f"standard output: {error.strerror}", 1)
        case FileNotFoundError(filename=None):
            message, code = "the current folder was removed; change to another one", 2
        case OSError(filename=str() as place, errno=number) if number in MISPLACED:
            hint = "; choose another path or change its permissions" if isinstance(error, PermissionError) else ""
            message, code = f"{place}: {error.strerror}{hint}", 2
        case OSError(errno=errno.EBADF):
            message, code = "an open file was closed by other code in this process, for instance a plugin's", 1
        case OSError(errno=errno.ENOSPC | errno.EDQUOT, filename=place):
            message, code = f"{place}: {error.strerror}" if place else str(error.strerror), 1
        case MemoryError() | RuntimeError() if any(words in f"{error!r}" for words in NO_MEMORY):
            first = (str(error) or "no details").splitlines()[0]
            message, code = f"out of memory; use a smaller model, batch or number of samples ({first:.200})", 1
        case _:
            blamed = blame(error)
            message, code = f"{blamed}: {describe(error)}{HINT}", 3
            if not blamed:
                _print_traceback(error)
                message, code = "this is a bug in pealm; please report it with the lines above", 1
    if os.environ.get("PEALM_DEBUG"):
        _print_traceback(error)
    return fail(message, code)


def _is_of_stdout(error: OSError) -> bool:
    """Whether a write to stdout failed: by `run` or in a library that prints."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    names = place.tb_frame.f_globals if place else {}
    return names is globals() or str(names.get("__name__")).partition(".")[0] in ("click", "rich")


def _print_traceback(error: BaseException) -> None:
    sys.__excepthook__(type(error), error, error.__traceback__)


def _message(error: click.ClickException) -> str:
    """Return click's message in one line, with the nearest option and the command for the help page."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        message = f"unknown option {error.option_name}{did_you_mean(error.option_name, error.possibilities or [])}"
        if error.option_name == "--plugin":
            message = "--plugin FILE.py comes before the command: pealm --plugin FILE.py COMMAND"
    where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
    return message + where


def fail(message: str, code: int) -> int:
    """Print an error's lines and return the exit code."""
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    for line in map(printable, message.splitlines()):
        click.echo(f"pealm: {line}" if rank == "0" else f"pealm: rank {rank}: {line}", err=True)
    return code
