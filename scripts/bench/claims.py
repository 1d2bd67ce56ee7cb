"""Run every ratio that README and docs quote (claims.toml), and say which fall short on this machine.

    TIKTOKEN_CACHE_DIR=... python scripts/bench/claims.py TINYSHAKESPEARE [NAME ...]
    python scripts/bench/claims.py --list

Several lines that match count by their median. On a machine that nobody else uses all of them take about half an
hour. Ends with 1 if one falls short: then the bound is lowered wherever it is quoted, or the cause found.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

BENCH = Path(__file__).parent


def bound(claim: dict[str, Any]) -> str:
    """Return the bound as text: `at least 2`."""
    return f"at most {claim['most']:g}" if "most" in claim else f"at least {claim['least']:g}"


def reached(claim: dict[str, Any], output: str) -> float | None:
    """Return the median of the figures that the output of a command has."""
    figures = [float(text) for text in re.findall(claim["read"], output, re.MULTILINE)]
    return median(figures) if figures else None


def holds(claim: dict[str, Any], figure: float | None) -> bool:
    """Return whether a figure was read and keeps the bound."""
    return figure is not None and claim.get("least", figure) <= figure <= claim.get("most", figure)


def run(command: str) -> str:
    """Run a script of this folder; return all that it printed."""
    line = f"{sys.executable} {BENCH}/{command}"
    return subprocess.run(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def main() -> None:
    """Run what is asked for, each command once."""
    claims: dict[str, dict[str, Any]] = tomllib.loads((BENCH / "claims.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Run every ratio that README and docs quote, beside its bound.")
    parser.add_argument("text", nargs="?", type=Path, help="tinyshakespeare in a file")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of them [all]: {', '.join(claims)}")
    parser.add_argument("--list", action="store_true", help="print the claims and their commands")
    args = parser.parse_args()
    if args.list:
        for name, claim in claims.items():
            print(f"{name:<14}{claim['what']}: {bound(claim)}\n{'':<14}python scripts/bench/{claim['command']}")
        return
    if args.text is None or (unknown := {*args.names} - {*claims}):
        parser.error(f"no claim is named {', '.join(sorted(unknown))}" if args.text else "name the text")
    outputs, short = dict[str, str](), 0
    print(f"{'claim':<14}{'bound':>14}{'here':>9}{'seconds':>9}{'load':>7}")
    for name in args.names or claims:
        claim = claims[name]
        began, load, command = time.monotonic(), os.getloadavg()[0], claim["command"]
        if command not in outputs:
            outputs[command] = run(command.replace("TEXT", str(args.text.resolve())))
        figure = reached(claim, outputs[command])
        short += not holds(claim, figure)
        shown = "none" if figure is None else f"{figure:.2f}"
        verdict = "" if holds(claim, figure) else "  FALLS SHORT"
        print(
            f"{name:<14}{bound(claim):>14}{shown:>9}{time.monotonic() - began:>9.0f}{load:>7.1f}{verdict}", flush=True
        )
        if figure is None:
            print(outputs[command][-2000:], file=sys.stderr)
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
