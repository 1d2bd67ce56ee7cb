"""How long the command line takes to answer, beside what it can't do without.

    python scripts/bench/startup.py

Prints the median of several runs of each command, alternating, and its ratio to a bare `import click, pluggy`. A
broken plugin and one that imports torch at its top are installed for the measurement.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGINS = {"broken": "import no_such_module\n", "heavy": "import torch\n"}
BARE = "import click, pluggy"
PEALM = str(Path(sys.executable).with_name("pealm"))  # the command itself, as users type it
COMMANDS = {
    f'python -c "{BARE}"': ["-c", BARE],
    "pealm --help": [PEALM, "--help"],
    "pealm train --help": [PEALM, "train", "--help"],
    "pealm train char-transformer --help": [PEALM, "train", "char-transformer", "--help"],
    "pealm plugins": [PEALM, "plugins"],
    'python -c "import torch"': ["-c", "import torch"],
}


def install(site: Path) -> None:
    """The two bad plugins, as distributions in a folder."""
    for name, source in PLUGINS.items():
        info = site / f"pealm_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pealm-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pealm]\n{name} = pealm_{name}_plugin\n")
        (site / f"pealm_{name}_plugin.py").write_text(source)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="runs of each command [15]")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        times: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for turn in range(runs + 1):
            for name, command in COMMANDS.items():
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *command], capture_output=True, env={**os.environ, "PYTHONPATH": path}
                )
                if done.returncode:
                    sys.exit(f"{name} failed: {done.stderr.decode()}")
                if turn:  # the first run warms the disk's cache
                    times[name].append(time.perf_counter() - start)
    bare = statistics.median(times[next(iter(COMMANDS))])
    print(f"{'command':<38}{'ms':>7}{'ratio':>8}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:<38}{1000 * median:>7.0f}{median / bare:>8.2f}")


if __name__ == "__main__":
    main()
