"""How long the command line takes to answer, beside what it can't do without, and what twenty more plugins cost.

    python scripts/bench/startup.py

Prints the median of several runs of each command, alternating, and its ratio to a bare `import click, pluggy`; then
the same with twenty more plugins installed, of which one is broken, one imports torch at its top, two have one name.
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
    "heavy": "import torch\n",
    "twin-a": PLUGIN.format(name="twin"),
    "twin-b": PLUGIN.format(name="twin"),
    **{f"x{number:02}": PLUGIN.format(name=f"x{number:02}") for number in range(16)},
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
    """The twenty, as distributions in a folder."""
    for name, source in PLUGINS.items():
        module = f"pealm_{name.replace('-', '_')}_plugin"
        info = site / f"pealm_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pealm-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pealm]\n{name} = {module}\n")
        (site / f"{module}.py").write_text(source)


def seconds(name: str, path: str) -> float:
    """The time of one run of a command with `path` as PYTHONPATH."""
    env = {**os.environ, "PYTHONPATH": path}
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
                if turn:  # the first run warms the disk's cache
                    times[name, path].append(took)
    median = {key: statistics.median(values) for key, values in times.items()}
    bare = median[next(iter(COMMANDS)), usual]
    print(f"{'command':<38}{'ms':>7}{'ratio':>8}{'twenty more':>14}{'ratio':>8}")
    for name in COMMANDS:
        one, more = (median[name, path] for path in paths)
        print(f"{name:<38}{1000 * one:>7.0f}{one / bare:>8.2f}{1000 * more:>14.0f}{more / bare:>8.2f}")


if __name__ == "__main__":
    main()
