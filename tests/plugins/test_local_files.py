"""Plugins of one file: `--plugin FILE.py`, PEALM_PLUGINS, `[plugins] files`; and files that must never run."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.specs import ModelSpec
from pealm_core.plugins.discovery import use_plugin
from pealm_core.plugins.loading import PluginHost

MODEL = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F
from pealm_core import DatasetSpec, ModelSpec, hookimpl, setting

@dataclass(frozen=True)
class Config:
    vocab_size: int = 0
    block_size: int = setting(8, "context length in tokens", at_least=1)

class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.table = config, nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, idx, targets=None, *, cache=None, at=None):
        logits = self.table(idx)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits if at is None else logits[:, at], loss

class Tiny:
    def documents(self, split):
        yield "abcd" * 100

@hookimpl
def pealm_models():
    return ModelSpec(name="mine", summary="A model in a file", config=CONFIG, factory=FACTORY)

@hookimpl
def pealm_datasets():
    return DatasetSpec(name="tiny", summary="A dataset in a file", factory=Tiny)
"""
OBJECTS = MODEL.replace("CONFIG", "Config").replace("FACTORY", "Model")
STRINGS = MODEL.replace("CONFIG", "'local_strings:Config'").replace("FACTORY", "'local_strings:Model'")


@pytest.mark.parametrize(("stem", "source"), [("local_objects", OBJECTS), ("local_strings", STRINGS)])
def test_a_file_is_a_plugin_everywhere(
    local: Callable[..., Path], pealm: Callable[..., Any], stem: str, source: str
) -> None:
    file = local(stem, source)
    for line, words in (
        ("--help", "Commands"),
        ("plugins", f"file:{stem}.py"),
        (f"plugins show {stem}", "--model.block-size INT  context length in tokens  [8]"),
        ("train --help", "A model in a file"),
        ("train mine --help", "--model.block-size INT"),
        (f"train file:{stem}.py/mine --input.tiny --model.block-size 4 --print-config", "block-size = 4"),
    ):
        result = pealm("--plugin", file, *line.split())
        assert result.code == 0 and words in result.out, line
    assert "unknown model 'mine'" in pealm("train", "mine").err  # without it


def test_its_parts_load(local: Callable[..., Path]) -> None:
    use_plugin(local("local_parts", OBJECTS))
    entry = PluginHost.installed().find(ModelSpec, "mine")
    assert entry.config is entry.load("config")
    assert entry.load("factory")(entry.config(vocab_size=3)).table.weight.shape == (3, 3)
    assert len(entry.plugin.version) == 12


BROKEN = {
    "local_syntax": ("def f(:", 3, "SyntaxError: invalid syntax (local_syntax.py, line 1)"),
    "local_import": (
        "\nimport no_such_module",
        3,
        "No module named 'no_such_module' (local_import.py, line 2, <module>)",
    ),
    "local_exit": ("raise SystemExit(4)", 3, "SystemExit: 4 (local_exit.py, line 1, <module>)"),
    "local_hook": (OBJECTS.replace("pealm_models", "pealm_modles"), 3, "did you mean 'pealm_models'?"),
    "local_part": (OBJECTS.replace("factory=Model", "factory=3"), 3, "factory must be a string"),
    "textwrap": (OBJECTS, 2, "a module 'textwrap' exists already"),
    "pealm_core": (OBJECTS, 2, "a module 'pealm_core' exists already"),
    "tabnanny": (OBJECTS, 2, "a module 'tabnanny' exists already"),  # importable, and not imported yet
    "sys": (OBJECTS, 2, "a module 'sys' exists already (built in)"),
    "my-model": (OBJECTS, 2, "a plugin's file has a name like my_model.py"),
}


@pytest.mark.parametrize("stem", BROKEN)
def test_a_file_that_cannot_be_loaded_ends_the_command(
    local: Callable[..., Path], pealm: Callable[..., Any], stem: str
) -> None:
    source, code, words = BROKEN[stem]
    file = local(stem, source)
    result = pealm("--plugin", file, "plugins")
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert f"pealm: --plugin {file}: " in result.err and words in result.err


def test_a_file_that_is_not_there(pealm: Callable[..., Any], tmp_path: Path) -> None:
    result = pealm("--plugin", tmp_path / "none.py", "plugins")
    assert (result.code, result.err) == (2, f"pealm: --plugin {tmp_path}/none.py: no such file\n")
    result = pealm("--plugin", tmp_path, "plugins")
    assert (result.code, result.err) == (2, f"pealm: --plugin {tmp_path}: is not a file\n")
    assert "comes before the command" in pealm("train", "--plugin", "x.py").err


def test_a_files_bugs_are_named_as_its_own(
    local: Callable[..., Path], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    file = local("local_bug", OBJECTS + "\nimport click\nfrom pealm_core import CommandSpec\n" + COMMAND)
    result = pealm("--plugin", file, "crash")
    assert result.code == 3
    assert "file:local_bug.py (local_bug.py, line" in result.err and "ZeroDivisionError" in result.err


COMMAND = """
@click.command()
def crash():
    1 / 0

@hookimpl
def pealm_commands():
    return CommandSpec(name="crash", summary="Crash", command=crash)
"""


def test_files_come_from_the_environment(
    local: Callable[..., Path], pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = local("local_one", OBJECTS), local("local_two", OBJECTS)
    monkeypatch.setenv("PEALM_PLUGINS", os.pathsep.join([str(one), "", str(two)]))
    out = pealm("--plugin", one, "plugins").out
    assert out.count("file:local_one.py ") == 1 and "file:local_two.py" in out
    monkeypatch.setenv("PEALM_DISABLE_PLUGINS", "local_one")
    assert "disabled" in next(line for line in pealm("plugins").out.splitlines() if "local_one" in line)


def test_files_come_from_a_config_that_the_user_names(
    local: Callable[..., Path], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    local("local_config", OBJECTS)
    config = tmp_path / "my.toml"
    config.write_text('[plugins]\nfiles = ["local_config.py"]\n[model]\nname = "mine"\n')
    result = pealm("train", "--config", config, "--input.tiny", "--steps", 5, "--print-config")
    assert result.code == 0 and "steps = 5" in result.out and "local_config.py" in result.out
    again = tmp_path / "again.toml"
    again.write_text(result.out)
    assert pealm("train", "--config", again, "--print-config").out.count("command line") == 0
    local("local_config", OBJECTS + "\n")
    for wrong in ("files = 3", "files = [3]", "file = []"):
        config.write_text(f"[plugins]\n{wrong}\n")
        result = pealm("train", "--config", config)
        assert result.code == 2 and "[plugins] files must be a list of files" in result.err


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose config names a file that would leave a trace, and its trace."""
    run = tmp_path / "run"
    for folder in (run, run / "best"):
        folder.mkdir()
        (folder / "config.toml").write_text(
            f'[plugins]\nfiles = ["{run}/evil.py"]\n'
            '[model]\nname = "evil"\n[tokenizer]\nname = "char"\n[input]\ntinyshakespeare = true\n'
            '[versions]\n"file:evil.py" = "00"\n'
        )
    config = (run / "best" / "config.toml").read_bytes()
    files = {"config.toml": [len(config), hashlib.sha256(config).hexdigest()]}
    (run / "best" / "state.json").write_text(json.dumps({"step": 1, "files": files}))
    (run / "run.json").write_text("{}")
    (run / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    return run


def test_no_file_runs_because_a_run_or_checkpoint_names_it(
    hostile: Path, pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)  # also where Python would import it from
    needed = f"whose code runs only if you name it: --plugin {hostile}/evil.py"
    for line in (
        f"train --out {hostile}",
        f"train --config {hostile}/config.toml",
        f"train --out {hostile} --help",
        f"train --out {hostile} --print-config",
        f"sample --ckpt {hostile}",
        f"sample --ckpt {hostile} --help",
        f"eval --ckpt {hostile}/best --on perplexity",
    ):
        result = pealm(*line.split())
        assert "--help" in line or (result.code == 2 and needed in result.err), line
    for open_it in (pealm_core.load, pealm_core.read_checkpoint):
        with pytest.raises(UserError):
            open_it(hostile)
    for open_it in (pealm_core.load, lambda run: pealm_core.train(out=run)):
        with pytest.raises(UserError, match="runs only if you name it"):
            open_it(hostile)
    (hostile / "config.toml").write_text((hostile / "config.toml").read_text().partition("[versions]")[0])
    assert pealm("train", "--config", hostile / "config.toml").code == 2  # beside run.json, it is a run's
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("table", ["plugins = 3", "[plugins]\nfiles = 3", "[plugins]\nfiles = [[1]]"])
def test_a_table_that_pealm_did_not_write_is_an_error(hostile: Path, pealm: Callable[..., Any], table: str) -> None:
    config = (hostile / "config.toml").read_text()
    (hostile / "config.toml").write_text(f"{table}\n" + config[config.index("[model]") :])
    result = pealm("train", "--out", hostile)
    assert result.code == 2 and ("must be a list of files" in result.err or "must be a table" in result.err)


def test_a_file_that_changed_or_is_missing_is_said(
    local: Callable[..., Path], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    file = local("local_changed", OBJECTS)
    other = local("local_other", OBJECTS.replace('name="', 'name="other-'))
    run = tmp_path / "run"
    run.mkdir()
    line = ("--plugin", file, "--plugin", other, "train", "mine", "--input.tiny", "--print-config")
    version = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    (run / "config.toml").write_text(f'{pealm(*line).out}\n[versions]\n"file:local_changed.py" = "{version}"\n')
    resume = ("train", "--out", run, "--print-config")
    assert pealm("--plugin", file, "--plugin", other, *resume).err == ""
    err = pealm("--plugin", file, *resume).err
    assert err == f"pealm: {run}/config.toml was made with --plugin {other}, which is not loaded now\n"
    (run / "config.toml").write_text((run / "config.toml").read_text().replace(f'"{version}"', '"0"'))
    err = pealm("--plugin", file, "--plugin", other, *resume).err
    assert err == f"pealm: {file} has changed since {run}/config.toml was written\n"


def test_a_failure_is_raised_in_python(local: Callable[..., Path]) -> None:
    use_plugin(local("local_fails", "raise RuntimeError('boom')"))
    with pytest.raises(PluginError, match=r"local_fails.py: RuntimeError: boom \(local_fails.py, line 1, <module>\)"):
        PluginHost.installed()


def test_a_run_with_a_file_resumes_and_samples(
    local: Callable[..., Path], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    file, run = local("local_run", OBJECTS), tmp_path / "run"
    line = ("train", "mine", "--input.tiny", "--out", run, "--batch-size", 2)
    assert pealm("--plugin", file, *line, "--steps", 2).code == 0
    config = (run / "config.toml").read_text()
    assert f'files = [\n    "{file}",\n]' in config and '"file:local_run.py" = ' in config
    assert (run / "best" / "config.toml").read_text() == config
    resumed = pealm("--plugin", file, "train", "--out", run, "--steps", 4)
    assert (resumed.code, resumed.err) == (0, "") and "4 steps" in resumed.out
    assert pealm("--plugin", file, "sample", "--ckpt", run, "-n", 3).code == 0
    result = pealm("sample", "--ckpt", run, "-n", 3)
    assert result.code == 2 and f"--plugin {file}" in result.err


def test_two_processes_load_the_same_file_and_train_like_one(
    local: Callable[..., Path], pealm: Callable[..., Any], ranks: Callable[..., Any], tmp_path: Path
) -> None:
    file = local("local_two_ranks", OBJECTS)
    line = ["--plugin", file, "train", "mine", "--input.tiny", "--steps", 3, "--batch-size", 4, "--out"]
    assert pealm(*line, tmp_path / "one").code == 0
    assert [done.err for done in ranks(2, *line, tmp_path / "two") if done.code] == []
    one, two = ((tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("one", "two"))
    losses = [[row["val_loss"] for row in map(json.loads, lines) if "val_loss" in row] for lines in (one, two)]
    assert losses[0] and losses[0] == pytest.approx(losses[1], abs=1e-6)
