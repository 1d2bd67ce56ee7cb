"""The command line: `main()` is the entry of `pealm` and `python -m pealm`, and a file here is a command.

This module imports almost nothing, so that Ctrl-C during the imports is handled here.
"""

import gc
import sys
from typing import NoReturn


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 user error, 3 plugin error, 130 interrupted."""
    own = args is None  # a process of its own: what is loaded at the start stays until the end
    if own:
        gc.set_threshold(20_000)  # Python's 700 costs a tenth of `pealm --help`
    try:
        from pealm_core.cli.command_group import run

        code = run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("pealm: interrupted\n")
        code = 130
    finally:
        if own:
            gc.freeze()  # the interpreter's end would look through it all three times
    sys.exit(code)
