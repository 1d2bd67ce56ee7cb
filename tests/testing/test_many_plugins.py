"""Twenty more plugins, of which one is broken and two collide, change nothing for anybody else."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

PLUGIN = """
from pealm_core import CommandSpec, ModelSpec, TokenizerSpec, hookimpl

@hookimpl
def pealm_models():
    return ModelSpec(name="{name}", summary="Model {name}", config="nowhere:Config", factory="nowhere:Model")

@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="{name}", summary="Tokenizer {name}", factory="nowhere:Tokenizer")

@hookimpl
def pealm_commands():
    return CommandSpec(name="{name}", summary="Command {name}", command="nowhere:command")
"""
HELP = """
import contextlib, io, json, sys
sys.path[:] = json.loads(sys.argv[1])
from pealm_core.cli import main
for words in (["--help"], ["train", "--help"], ["train", "char-bigram", "--help"], ["plugins"], ["eval", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    assert len(out.getvalue()) > 200, words
from pealm_core.guard import HEAVY
print(sorted(HEAVY & set(sys.modules)), "nowhere" in sys.modules)
"""


@pytest.fixture
def crowd(stranger: Callable[..., None]) -> Callable[[], None]:
    def arrive() -> None:
        for number in range(17):
            stranger(f"pealm-x{number:02}", PLUGIN.format(name=f"x{number:02}"))
        stranger("pealm-broken", "import no_such_module")
        for dist in ("pealm-twin-a", "pealm-twin-b"):
            stranger(dist, PLUGIN.format(name="twin"))

    return arrive


def test_the_others_see_no_difference(crowd: Callable[[], None], pealm: Callable[..., Any]) -> None:
    config = ("train", "char-bigram", "--input.text", "x", "--print-config")
    before, rows = pealm(*config).out, json.loads(pealm("plugins", "--json").out)
    crowd()
    assert pealm(*config).out == before
    after = json.loads(pealm("plugins", "--json").out)
    assert len(after) == len(rows) + 20 and [row["dist"] for row in after] == sorted(row["dist"] for row in after)
    known = {row["dist"] for row in rows}

    def steady(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "load_ms": 0} for row in found if row["dist"] in known]

    assert steady(after) == steady(rows)
    statuses = {row["dist"]: row["status"] for row in after if row["dist"] not in known}
    assert statuses.pop("pealm-broken") == "failed"
    assert statuses.pop("pealm-twin-a") == statuses.pop("pealm-twin-b") == "conflict"
    assert set(statuses.values()) == {"ok"}


def test_nobody_is_locked_out_and_who_needs_it_gets_the_reason(
    crowd: Callable[[], None], pealm: Callable[..., Any]
) -> None:
    crowd()
    assert "Command twin" in pealm("--help").out
    both = pealm("twin")
    assert both.code == 2 and "pealm-twin-a/twin or pealm-twin-b/twin" in both.err
    broken = pealm("train", "broken")
    assert broken.code == 3 and "No module named 'no_such_module'" in broken.err


def test_help_pages_load_nothing_of_them(crowd: Callable[[], None]) -> None:
    crowd()
    done = subprocess.run([sys.executable, "-c", HELP, json.dumps(sys.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "[] False"
