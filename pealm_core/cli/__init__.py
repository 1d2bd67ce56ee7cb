"""The command line: `main()` is the entry of `pealm` and `python -m pealm`.

Commands are imported when they run or show their help, never to list them.
"""

import os
import sys
import threading
from importlib import import_module
from typing import NoReturn

import click

from pealm_core.contract.errors import ElsewhereError, PealmError

# name → (module:command, the line in `pealm --help`)
COMMANDS = {
    "train": ("pealm_core.cli.train:train", "Train a model."),
    "sample": ("pealm_core.cli.sample:sample", "Let a model write."),
    "eval": ("pealm_core.cli.eval:evaluate", "Evaluate a model."),
    "prepare": ("pealm_core.cli.prepare:prepare", "Download what a dataset or evaluator needs."),
    "convert": ("pealm_core.cli.convert:convert", "Convert a checkpoint: weights only, another precision or format."),
    "clean": ("pealm_core.cli.clean:clean", "Remove runs, cached tokens and leftovers."),
    "new-plugin": ("pealm_core.cli.new_plugin:new_plugin", "Write a plugin of your own to begin with."),
    "plugins": ("pealm_core.cli.plugins:plugins", "List the installed plugins."),
}


class LazyGroup(click.Group):
    """The core's commands and the plugins' ones, each imported on use."""

    def _plugin_commands(self) -> dict[str, list]:  # type: ignore[type-arg]
        from pealm_core.contract.specs import CommandSpec
        from pealm_core.plugins.host import PluginHost

        return PluginHost.installed().entries(CommandSpec)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, the core's first."""
        return [*COMMANDS, *self._plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises UserError for an unknown one, PluginError for a broken one."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command = getattr(import_module(module), attribute)
        else:
            from pealm_core.contract.errors import PluginError, UserError
            from pealm_core.contract.fields import nearest
            from pealm_core.contract.specs import CommandSpec
            from pealm_core.plugins.host import PluginHost

            host = PluginHost.installed()
            close = nearest(cmd_name, [*COMMANDS, *host.entries(CommandSpec)])
            if close in COMMANDS:
                raise UserError(f"unknown command {cmd_name!r}; did you mean {close!r}?")
            entry = host.find(CommandSpec, cmd_name)
            command = entry.load("command")
            if not isinstance(command, click.Command):
                raise PluginError(f"{entry.plugin.dist}: command {cmd_name!r} is no click command but {command!r}")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from their records."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        plugins = self._plugin_commands()
        if plugins:
            with formatter.section("Commands from plugins"):
                formatter.write_dl([(name, found[0].spec.summary) for name, found in plugins.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pealm-core", prog_name="pealm")
def pealm() -> None:
    """Train, sample and evaluate small language models.

    Models, tokenizers, datasets and evaluations are plugins: `pealm plugins` lists what is installed,
    `pealm COMMAND --help` explains a command, and `pealm train MODEL --help` a model's settings.
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 the user's mistake, 3 a plugin's, 130 interrupted."""
    # Threads that wait for each other spin first; on a machine with anything else to do, GNU OpenMP's default spins
    # away nearly all of the time (seen: 20 times slower). A short spin costs an idle machine nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        code = pealm.main(args=args, prog_name="pealm", standalone_mode=False)
    except ElsewhereError as error:
        code = error.exit_code
    except PealmError as error:
        if os.environ.get("PEALM_DEBUG"):
            import traceback

            traceback.print_exception(error)
        code = fail(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
            code = 2
        else:
            code = fail(_words(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = fail("interrupted", 130)
    except BrokenPipeError:  # the reader left, as in `pealm sample ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except PermissionError as error:
        code = fail(f"{error.filename}: {error.strerror}; choose another place, or have the rights changed", 2)
    except Exception as error:
        code = _defect(error)
    code = code if isinstance(code, int) else 0
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several or any(thread.name.startswith("pealm-") for thread in threading.enumerate()):
        # The threads of a process group, or one of ours (a save, a download) that nobody waits for any more: the
        # usual way out may break off their native code with a crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _defect(error: Exception) -> int:
    """An exception that nobody expected: one line where it came out of a plugin, else a traceback."""
    import traceback

    from pealm_core.plugins.host import PluginHost

    debug = bool(os.environ.get("PEALM_DEBUG"))
    blamed = PluginHost.installed().blame(error)
    if debug or blamed is None:
        traceback.print_exception(error)
    if blamed is None:
        return fail("this is a bug in pealm; please report it with the lines above", 1)
    return fail(f"{blamed}: {type(error).__name__}: {error} (PEALM_DEBUG=1 shows the traceback)", 3)


def _words(error: click.ClickException) -> str:
    """click's message in one line, with the nearest option and the way to the help page."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        from pealm_core.contract.fields import did_you_mean

        message = f"unknown option {error.option_name}{did_you_mean(error.option_name, error.possibilities or [])}"
    where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
    return message + where


def fail(message: str, code: int) -> int:
    """Print an error's lines; returns the exit code."""
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    for line in message.splitlines():
        click.echo(f"pealm: {line}" if rank == "0" else f"pealm: rank {rank}: {line}", err=True)
    return code
