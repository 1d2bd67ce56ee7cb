"""`pealm plugins`, its `show` and its `check`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .plugin import ALONE, COMMAND, CONFIG, PARTS, PLUGIN

Pealm = Callable[..., Any]


@pytest.fixture
def plug(stranger: Callable[..., None], tmp_path: Path) -> Callable[..., None]:
    def install(old: str = "", new: str = "") -> None:
        texts = {"plugin": PLUGIN, "config": CONFIG, "parts": PARTS, "command": COMMAND}
        texts = {name: text.replace(old, new) if old else text for name, text in texts.items()}
        stranger("pealm-it", texts.pop("plugin"))
        for module, text in texts.items():
            (tmp_path / "site-pealm-it" / f"pealm_it_{module}.py").write_text(text)
        stranger.also(*(f"pealm_it_{module}" for module in texts))  # type: ignore[attr-defined]

    return install


def test_one_line_a_plugin(pealm: Pealm, stranger: Callable[..., None]) -> None:
    stranger("pealm-bad", "import no_such_module")
    stranger("pealm-future", "", requires="pealm-core>=99")
    stranger("pealm-twin", "from pealm_core import hookimpl, ModelSpec\n@hookimpl\ndef pealm_models():\n"
             "    return ModelSpec(name='gpt2', summary='s', config='a:b', factory='a:b')")  # fmt: skip
    lines = pealm("plugins").out.splitlines()
    assert len(lines) == len(json.loads(pealm("plugins", "--json").out))
    row = next(line for line in lines if line.startswith("char-bigram "))
    assert re.fullmatch(r"char-bigram +pealm-char-bigram [\d.]+ +ok +[\d.]+ ms +model char-bigram", row)
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "bad pealm-bad 1.0 failed" in text and "No module named 'no_such_module'" in text
    assert "future pealm-future 1.0 failed" in text and "needs pealm-core >=99" in text
    assert re.search(r"pealm-twin 1.0 conflict .* model gpt2; model 'gpt2' is also in pealm-gpt2", text)


def test_json_has_every_column(pealm: Pealm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "muon")
    rows = {row["plugin"]: row for row in json.loads(pealm("plugins", "--json").out)}
    assert set(rows["char"]) == {"plugin", "dist", "version", "status", "reason", "load_ms", "provides"}
    assert rows["muon"]["status"] == "disabled" and rows["kindergarten"]["provides"] == [
        "dataset kindergarten",
        "dataset kindergarten-questions",
        "dataset second-grade",
        "evaluator kindergarten",
        "evaluator kindergarten-questions",
        "evaluator second-grade",
    ]


def test_show_lists_the_options(pealm: Pealm, stranger: Callable[..., None]) -> None:
    out = pealm("plugins", "show", "kindergarten").out
    assert re.search(r"--input.kindergarten \[INT\] +Short stories.*\[1\]\n", out)
    assert re.search("--input.stories INT +training stories", out) and "--eval.temperature" in out
    assert "--input.text TEXT " in pealm("plugins", "show", "pealm-text").out
    stranger("pealm-bad", "import no_such_module")
    shown = pealm("plugins", "show", "bad")
    assert "ModuleNotFoundError" in shown.out or "no_such_module" in shown.out


def test_check_passes(pealm: Pealm, plug: Callable[..., None]) -> None:
    plug(PLUGIN, PLUGIN.partition("@hookimpl\ndef pealm_datasets")[0] + "\nimport time; time.sleep(0.06)\n")
    result = pealm("plugins", "check", "it")
    assert result.code == 0, result.out
    assert "model m\n" in result.out and "  ok      it is causal\n" in result.out
    assert "  skipped 2: slow: pass --pealm-slow to pytest, or --slow" in result.out
    assert re.search(r"^it passes: \d\d ok, \d+ skipped$", result.out, re.MULTILINE)
    assert re.search(r"note: importing pealm_it_plugin takes \d+ ms", result.out)


def test_check_fails(pealm: Pealm, plug: Callable[..., None], tmp_path: Path) -> None:
    plug(PLUGIN, ALONE)
    parts = tmp_path / "site-pealm-it" / "pealm_it_parts.py"
    parts.write_text(parts.read_text().replace("eot_id = 256", "eot_id = 300"))
    result = pealm("plugins", "check", "pealm-it")
    assert result.code == 3 and re.search(r"pealm-it does not pass: \d+ ok, \d+ skipped, 2 failed", result.err)
    assert "  failed  ids are below vocab size: eot_id is 300, but vocab_size is 257: count it" in result.out


@pytest.mark.parametrize("name", ["char-bigram", "text"])
def test_check_of_first_party_plugins(name: str, pealm: Pealm) -> None:
    result = pealm("plugins", "check", name)
    assert result.code == 0, result.out


def test_check_of_missing_and_failed_plugins(pealm: Pealm, stranger: Callable[..., None]) -> None:
    stranger("pealm-bad", "import no_such_module")
    result = pealm("plugins", "check", "bad")
    assert result.code == 3 and "pealm-bad is failed: ModuleNotFoundError" in result.err
    result = pealm("plugins", "check", "nothing")
    assert result.code == 2 and "no plugin 'nothing' is installed" in result.err
