"""Startup time of the command line, as a multiple of a bare `import click, pluggy`; also with twenty more plugins.

    python scripts/bench/startup.py

Prints the median of several alternating runs of each command and its ratio to the bare import in the same rounds;
then the same with twenty more plugins installed: one fails to load, two have the same name. (A plugin that imports
torch at its top costs every command as much as torch does, which is why it is refused.)
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGIN = """
from pealm_core import CommandSpec, ModelSpec, TokenizerSpec, hookimpl

@hookimpl
def pealm_models():
    yield ModelSpec(name="{name}", summary="A model", config="nowhere:Config", factory="nowhere:Model")

@hookimpl
def pealm_tokenizers():
    yield TokenizerSpec(name="{name}", summary="A tokenizer", factory="nowhere:Tokenizer")

@hookimpl
def pealm_commands():
    yield CommandSpec(name="{name}", summary="A command", command="nowhere:command")
"""
PLUGINS = {
    "broken": "import no_such_module\n",
    "twin-a": PLUGIN.format(name="twin"),
    "twin-b": PLUGIN.format(name="twin"),
    **{f"x{number:02}": PLUGIN.format(name=f"x{number:02}") for number in range(17)},
}
BARE = "import click, pluggy"
PEALM = str(Path(sys.executable).with_name("pealm"))  # the command itself, as users type it
COMMANDS = {
    f'python -c "{BARE}"': ["-c", BARE],
    "pealm --help": [PEALM, "--help"],
    "pealm train --help": [PEALM, "train", "--help"],
    "pealm train char-transformer --help": [PEALM, "train", "char-transformer", "--help"],
    "pealm eval --help": [PEALM, "eval", "--help"],
    "pealm plugins": [PEALM, "plugins"],
    'python -c "import torch"': ["-c", "import torch"],
}


def install(site: Path) -> None:
    """Write the twenty plugins as distributions into a folder."""
    for name, source in PLUGINS.items():
        module = f"pealm_{name.replace('-', '_')}_plugin"
        info = site / f"pealm_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pealm-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pealm]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)


def seconds(name: str, path: str) -> float:
    """Run a command with `path` as PYTHONPATH and return how long it took."""
    env = {**os.environ, "PYTHONPATH": path}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *COMMANDS[name]], capture_output=True, env=env)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr.decode()}")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="runs of each command [15]")
    runs = parser.parse_args().runs
    usual = os.environ.get("PYTHONPATH", "")
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        paths = (usual, os.pathsep.join(filter(None, [folder, usual])))
        times: dict[tuple[str, str], list[float]] = {(name, path): [] for name in COMMANDS for path in paths}
        for turn in range(runs + 1):
            for name, path in times:
                took = seconds(name, path)
                if turn:  # the first round warms the disk's cache and writes the byte code
                    times[name, path].append(took)
    bare = times[next(iter(COMMANDS)), usual]
    print(f"{'command':<38}{'ms':>7}{'ratio':>8}{'twenty more':>14}{'ratio':>8}")
    for name in COMMANDS:
        row = f"{name:<38}"
        for path, width in zip(paths, (7, 14), strict=True):
            run = times[name, path]
            ratio = statistics.median(one / base for one, base in zip(run, bare, strict=True))
            row += f"{1000 * statistics.median(run):>{width}.0f}{ratio:>8.2f}"
        print(row)


if __name__ == "__main__":
    main()
