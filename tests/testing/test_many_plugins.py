"""Twenty more plugins, of which one is broken and two have the same name, change nothing for the others."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.plugins.builtin import COMMANDS
from pealm_core.plugins.loading import PluginHost

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
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    assert len(out.getvalue()) > 150, (words, out.getvalue())
from pealm_core.plugins.import_checks import HEAVY
print(sorted(HEAVY & set(sys.modules)), "nowhere" in sys.modules)
"""


@pytest.fixture
def crowd(stranger: Callable[..., None]) -> Callable[[], None]:
    def install() -> None:
        for number in range(17):
            stranger(f"pealm-x{number:02}", PLUGIN.format(name=f"x{number:02}"))
        stranger("pealm-broken", "import no_such_module")
        for dist in ("pealm-twin-a", "pealm-twin-b"):
            stranger(dist, PLUGIN.format(name="twin"))

    return install


def test_the_other_plugins_are_unaffected(crowd: Callable[[], None], pealm: Callable[..., Any]) -> None:
    config = ("train", "char-bigram", "--input.text", "x", "--print-config")
    before, rows = pealm(*config).out, json.loads(pealm("plugins", "--json").out)
    crowd()
    assert pealm(*config).out == before
    after = json.loads(pealm("plugins", "--json").out)
    assert len(after) == len(rows) + 20 and [row["dist"] for row in after] == sorted(row["dist"] for row in after)
    known = {row["dist"] for row in rows}

    def without_times(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "load_ms": 0} for row in listed if row["dist"] in known]

    assert without_times(after) == without_times(rows)
    statuses = {row["dist"]: row["status"] for row in after if row["dist"] not in known}
    assert statuses.pop("pealm-broken") == "failed"
    assert statuses.pop("pealm-twin-a") == statuses.pop("pealm-twin-b") == "conflict"
    assert set(statuses.values()) == {"ok"}


def test_results_are_the_same_with_them_and_with_none(
    crowd: Callable[[], None], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, validation, samples and evaluation of a run are equal bit for bit."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} and {n * n} make {n + n * n}.\n" for n in range(200)))

    def results(run: str) -> tuple[Any, ...]:
        out = str(tmp_path / run)
        train = ("train", "char-bigram", "--input.text", text, "--block-size", 8, "--eval-tokens", 64, "--out", out)
        done = pealm(*train, "--steps", 4, "--sample-every", 2)
        assert done.code == 0, done.err
        numbers = [
            {
                key: value
                for key, value in json.loads(line).items()
                if key in ("step", "loss", "val_loss", "grad_norm")
            }
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        assert len([row for row in numbers if "loss" in row]) >= 4
        written = (tmp_path / run / "samples.jsonl").read_text()
        scores = tmp_path / f"{run}.json"
        assert pealm("eval", "--ckpt", out, "--on", "perplexity", "--output", scores).code == 0
        return (
            numbers,
            pealm("sample", "--ckpt", out, "-n", 40, "--seed", 1).out,
            written,
            json.loads(scores.read_text())["metrics"],
        )

    before = results("before")
    crowd()
    assert results("more") == before
    needed = ("pealm-core", "pealm-char", "pealm-char-bigram", "pealm-text", "pealm-perplexity")
    others = [plugin.name for plugin in PluginHost.installed().plugins if plugin.dist not in needed]
    assert len(others) > 25
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", ",".join(others))
    assert results("fewer") == before


def test_an_error_shows_the_reason_only_if_the_plugin_is_needed(
    crowd: Callable[[], None], pealm: Callable[..., Any]
) -> None:
    crowd()
    assert "Command twin" in pealm("--help").out
    both = pealm("twin")
    assert both.code == 2 and "pealm-twin-a/twin or pealm-twin-b/twin" in both.err
    broken = pealm("train", "broken")
    assert broken.code == 3 and "No module named 'no_such_module'" in broken.err


def test_help_pages_import_no_parts_and_no_heavy_packages(crowd: Callable[[], None]) -> None:
    """All help pages and the list of plugins, with a broken plugin and two of one name installed."""
    own = [command.name for p in PluginHost.installed().plugins for command in p.records if command.kind == "command"]
    pages = [[name, "--help"] for name in (*COMMANDS, *own)] + [["train", "char-bigram", "--help"]]
    crowd()
    lines = json.dumps([["--help"], *pages, ["plugins"]])
    done = subprocess.run([sys.executable, "-c", HELP, json.dumps(sys.path), lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "[] False"
