"""The shipped weights write, without network, vocabulary or cache, and have the validation loss that they record."""

import importlib.util
import json
import re
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"
NAMES = sorted(path.parent.name for path in WEIGHTS.glob("*/state.json"))
LIMIT = 25e6  # bytes, all together


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/weights.py."""
    spec = importlib.util.spec_from_file_location("weights_script", ROOT / "scripts" / "weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and caches that are empty."""

    def refuse(*args: object) -> NoReturn:
        raise AssertionError(f"something connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("PEALM_CACHE", "TIKTOKEN_CACHE_DIR", "HF_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


def test_there_are_all_of_them_and_they_are_small(script: ModuleType) -> None:
    assert set(NAMES) == set(script.MODELS)
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < LIMIT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("nothing_else")
def test_it_writes(name: str, pealm) -> None:  # type: ignore[no-untyped-def]
    result = pealm("sample", "--ckpt", WEIGHTS / name, "-n", "20", "--seed", "1")
    assert result.code == 0, result.err
    assert len(result.out) > 20 and " " in result.out


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sprout-kindergarten"])
def test_its_loss_is_the_recorded_one(
    name: str, script: ModuleType, shakespeare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tinyshakespeare.txt").symlink_to(shakespeare)
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path))
    loss = script.validation_loss(WEIGHTS / name, script.MODELS[name].documents())
    assert loss == pytest.approx(script.recorded_loss(WEIGHTS / name), abs=1e-3)


def test_it_answers_questions(pealm: Callable[..., Any], tmp_path: Path) -> None:
    ckpt, output = WEIGHTS / "sprout-kindergarten", tmp_path / "answers.json"
    on = ("--on", "kindergarten-questions", "--eval.questions", "40", "--output", output)
    result = pealm("eval", "--ckpt", ckpt, *on)
    assert result.code == 0, result.err
    assert json.loads(output.read_text())["metrics"]["exactly right"]["value"] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_its_card_says_what_is_there(name: str, script: ModuleType) -> None:
    card, state = ((WEIGHTS / name / file).read_text(encoding="utf-8") for file in ("README.md", "state.json"))
    assert f"`pealm train {script.MODELS[name].train}`" in card
    assert f"{json.loads(state)['val_loss']:.4f} nats" in card
    assert "licence" in card
    sample = re.findall(r"```\n(.*?)```", card, re.DOTALL)[-1]
    assert len(sample) > 100


@pytest.mark.parametrize("name", NAMES)
def test_its_config_repeats_it(name: str, script: ModuleType, pealm) -> None:  # type: ignore[no-untyped-def]
    """What `--config` gives is what the command gives; nothing in it is of the machine that trained it."""
    config = WEIGHTS / name / "config.toml"
    assert "/" not in config.read_text(encoding="utf-8")
    again = pealm("train", "--config", config, "--print-config")
    assert again.code == 0, again.err
    first = pealm("train", *script.shlex.split(script.MODELS[name].train), "--print-config")
    settings = [tomllib.loads(printed.out) for printed in (again, first)]
    if script.MODELS[name].first:  # which brings model and tokenizer
        settings = [{k: v for k, v in tables.items() if k not in ("model", "tokenizer")} for tables in settings]
    assert settings[0] == settings[1], f"defaults have changed: python scripts/weights.py {name}"
