"""A third-party plugin can do all that the first-party ones can, and its defects are reported as its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
from pealm_core import DatasetSpec, EvaluatorSpec, ModelSpec, OptimizerSpec, TokenizerSpec, hookimpl

@hookimpl
def pealm_models():
    return ModelSpec(name="m", summary="A model", config="pealm_it_config:Config", factory="pealm_it_parts:Model",
                     tokenizer="t", presets={"wide": {"width": 9}})

@hookimpl
def pealm_tokenizers():
    return TokenizerSpec(name="t", summary="A tokenizer", factory="pealm_it_parts:Tokenizer")

@hookimpl
def pealm_datasets():
    return DatasetSpec(name="d", summary="A dataset", config="pealm_it_config:Data", factory="pealm_it_parts:Dataset",
                       value="lines")

@hookimpl
def pealm_evaluators():
    return EvaluatorSpec(name="e", summary="An evaluation", factory="pealm_it_parts:Evaluator", default=True)

@hookimpl
def pealm_optimizers():
    return OptimizerSpec(name="o", summary="An optimizer", config="pealm_it_config:Sgd", factory="pealm_it_parts:build")
"""
CONFIG = """
from dataclasses import dataclass
from pealm_core import setting

@dataclass(frozen=True)
class Config:
    vocab_size: int
    block_size: int = 8
    width: int = 4

@dataclass(frozen=True)
class Data:
    lines: int = setting(50, at_least=10)
    seed: int = 0

@dataclass(frozen=True)
class Sgd:
    momentum: float = 0.9
"""
PARTS = """
import torch
import torch.nn.functional as F
from pealm_core import EvalResult

class Model(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
    def forward(self, idx, targets=None, *, cache=None, at=None):
        logits = self.table(idx if at is None else idx[:, at])
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

class Tokenizer:
    vocab_size = 258
    eot_id = 257
    def encode(self, text):
        return list(text.encode())
    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

class Dataset:
    def __init__(self, config):
        self.config = config
    def documents(self, split):
        for i in range(self.config.lines):
            yield f"{i} and {i + self.config.seed}"
    def prepare(self):
        pass

class Evaluator:
    def evaluate(self, model, tokenizer, *, config, progress):
        return EvalResult(metrics={"seed": (config["input"]["seed"], 0.5)}, n=config["input"]["d"])

def build(config, model, *, lr):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=config.momentum)
"""


@pytest.fixture
def plug(stranger: Callable[..., None], tmp_path: Path) -> Callable[..., None]:
    """Install the plugin with a change: `plug("old", "new")` in any of its three modules."""

    def install(old: str = "", new: str = "", *, dist: str = "pealm-it") -> None:
        assert any(old in text for text in (PLUGIN, CONFIG, PARTS))
        name = dist.replace("-", "_")
        stranger(
            dist, PLUGIN.replace(old, new).replace("pealm_it", name) if old else PLUGIN.replace("pealm_it", name)
        )
        for module, text in (("config", CONFIG), ("parts", PARTS)):
            (tmp_path / f"site-{dist}" / f"{name}_{module}.py").write_text(text.replace(old, new) if old else text)
        stranger.also(f"{name}_config", f"{name}_parts")  # type: ignore[attr-defined]

    return install


TRAIN = ("train", "m", "--input.d", "--steps", 2, "--out")


def test_everything_works_for_a_stranger(
    plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    plug()
    run = tmp_path / "r"
    result = pealm(
        "train",
        "m",
        "--preset",
        "wide",
        "--input.d",
        30,
        "--input.seed",
        3,
        "--steps",
        3,
        "--optimizer",
        "o",
        "--out",
        run,
    )
    assert result.code == 0, result.err
    config = (run / "config.toml").read_text()
    assert "d = 30" in config and "width = 9" in config and 'pealm-it = "1.0"' in config
    assert pealm("train", "--out", run, "--steps", 5).code == 0
    assert pealm("sample", "--ckpt", run, "-n", 5, "--prompt", "1").code == 0
    assert "seed" in pealm("eval", "--ckpt", run, "--on", "e").out
    assert "d is ready" in pealm("prepare", "d").out
    assert re.search(r"--input.d \[INT\] +A dataset +\[50\]", pealm("train", "m", "--input.d", "--help").out)
    assert "wide  width 9" in pealm("train", "m", "--help").out


def test_a_recipe_written_for_adamw_leaves_another_optimizer_alone(
    plug: Callable[..., None], pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    plug()
    args = ("train", "char-bigram", "--input.text", book, "--optimizer", "o", "--steps", 2, "--out", tmp_path / "r")
    assert pealm(*args).code == 0


def test_a_preset_sets_more_than_the_model(plug: Callable[..., None], pealm: Callable[..., Any]) -> None:
    tables = '"train": {"batch_size": 5, "lr": 0.5}, "optimizer": {"name": "o", "momentum": 0.5}'
    plug('{"width": 9}', '{"width": 9, ' + tables + "}")
    given = ("train", "m", "--preset", "wide", "--input.d", "--lr", "0.25", "--print-config")
    there = pealm(*given, "--optimizer", "o").out
    for line in ("width = 9 ", "batch-size = 5 ", "lr = 0.25 ", "momentum = 0.5 "):
        assert line in there, there
    assert pealm(*given).out == there  # the preset names its optimizer
    other = pealm(*given, "--optimizer", "adamw").out  # for which the preset sets nothing
    assert "batch-size = 5 " in other and "momentum" not in other
    assert "train.batch_size 5" in pealm("train", "m", "--help").out


def test_the_same_line_goes_on_and_another_preset_is_an_error(
    plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    tables = '"train": {"batch_size": 5, "steps": 9}, "optimizer": {"name": "o", "momentum": 0.5}'
    plug('{"width": 9}', '{"width": 9, ' + tables + '}, "slim": {"width": 2}')
    line = (
        "train",
        "m",
        "--input.d",
        "--optimizer",
        "o",
        "--model.block-size",
        4,
        "--out",
        tmp_path / "r",
        "--preset",
    )
    line = (*line[:-1], "--batch-size", 6, "--preset")  # another one than the preset's
    assert pealm(*line, "wide", "--steps", 2).code == 0
    again = pealm(*line, "wide", "--steps", 2)
    assert again.code == 0 and "is finished: 2 steps" in again.out
    assert pealm(*line, "wide").code == 0  # to the preset's 9 steps
    other = pealm(*line, "slim")
    assert other.code == 2 and "with [model] width = 9, not 2;" in other.err
    assert "no preset 'wid'; did you mean 'wide'?" in pealm(*line, "wid").err


DEFECTS = {
    "forward raises": ("logits = self.table(idx if", "raise KeyError('lost')\n        logits = self.table(idx if", "model 'm': KeyError: 'lost'"),
    "no loss": ("return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())", "return logits, None", "the loss a scalar tensor"),
    "wide logits": ("Embedding(config.vocab_size, config.vocab_size)", "Embedding(config.vocab_size, 300)", "logits of shape (1, 1, 258), not (a Tensor of shape (1, 1, 300), None)"),
    "no at": ("cache=None, at=None):", "cache=None):\n        at = None", "unexpected keyword argument 'at'"),
    "no config": ("self.config = config\n        self.table", "self.table", "no attribute 'config'"),
    "fit without save": ("eot_id = 257", "def fit(self, texts):\n        pass", "can fit but not save and load"),
    "ids too large": ("return list(text.encode())", "return [300]", "encode gave ids from 300 to 300, and vocab_size is 258"),
    "no ids": ("return list(text.encode())", "return None", "encode must give a list of token ids"),
    "documents raise": ("for i in range(self.config.lines):", "raise RuntimeError('gone')\n        for i in range(9):", r"pealm-it \(pealm_it_parts.py, line \d+, documents\): RuntimeError: gone"),
    "documents are a text": ("for i in range(self.config.lines):\n            yield f\"{i} and {i + self.config.seed}\"", "return 'text'", "documents must return documents"),
    "optimizer raises": ("return torch.optim.SGD(", "raise RuntimeError('no')\n    torch.optim.SGD(", "making optimizer 'o' failed: RuntimeError: no"),
    "recipe typo": ('tokenizer="t", presets', 'tokenizer="t", recipe={"train": {"stepz": 3}}, presets', "pealm-it: recipe: [train] stepz: unknown key; did you mean 'steps'?"),
    "preset typo": ('{"width": 9}', '{"width": 9, "train": {"stepz": 3}}', "pealm-it: preset wide: [train] stepz: unknown key; did you mean 'steps'?"),
    "field type": ("width: int = 4", "width: complex = 1j", "has a field 'width' of type <class 'complex'>"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFECTS)
def test_a_plugins_defect_is_one_line_that_names_it_and_exit_code_3(
    case: str, plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    old, new, words = DEFECTS[case]
    plug(old, new)
    more = {"optimizer raises": ("--optimizer", "o"), "preset typo": ("--preset", "wide")}.get(case, ())
    result = pealm(*TRAIN, tmp_path / "r", *more)
    assert result.code == 3, result.err
    assert (
        (len(result.err.strip().splitlines()) == 1 and "pealm-it" in result.err)
        or "Tokenizer.encode" in result.err
        or "Dataset.documents" in result.err
    )
    assert words in result.err or re.search(words, result.err)
    assert not (tmp_path / "r").exists()


def test_a_defect_after_training_is_named_too(
    plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    plug('return EvalResult(metrics={"seed": (config["input"]["seed"], 0.5)}, n=config["input"]["d"])', "return {}")
    assert pealm(*TRAIN, tmp_path / "r").code == 0
    result = pealm("eval", "--ckpt", tmp_path / "r", "--on", "e")
    assert result.code == 3 and "pealm-it: Evaluator.evaluate must return an EvalResult" in result.err


def test_a_module_that_exits_takes_nobody_with_it(stranger: Callable[..., None], pealm: Callable[..., Any]) -> None:
    stranger("pealm-quits", "import sys\nsys.exit(4)")
    assert pealm("--help").code == 0
    assert "SystemExit: 4" in pealm("plugins").out


def test_values_of_a_dataset(plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path) -> None:
    plug()
    for words in (("--input.d", 5), ("--input.d=5",)):
        result = pealm("train", "m", *words, "--out", tmp_path / "r")
        assert result.code == 2 and "--input.d must be at least 10, not 5" in result.err
    assert "--input.d must be a whole number, not 'abc'" in pealm("train", "m", "--input.d", "abc").err
    plug("lines: int = setting(50, at_least=10)", "lines: int", dist="pealm-need")
    result = pealm("train", "m", "--tokenizer", "pealm-it/t", "--input.pealm-need/d", "--print-config")
    assert "provided by 2 plugins" in result.err
    result = pealm("train", "pealm-it/m", "--tokenizer", "pealm-it/t", "--input.pealm-need/d", "--print-config")
    assert result.code == 2 and "--input.pealm-need/d needs a value" in result.err
    result = pealm("train", "pealm-it/m", "--tokenizer", "pealm-it/t", "--input.pealm-need/d")
    assert result.code == 2 and "--input.pealm-need/d needs a value" in result.err


def test_runs_outlive_a_collision_that_comes_later(
    plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    plug()
    assert pealm(*TRAIN, tmp_path / "r").code == 0
    plug(dist="pealm-other")
    assert pealm("sample", "--ckpt", tmp_path / "r", "-n", 3).code == 0
    assert pealm("train", "--out", tmp_path / "r", "--steps", 3).code == 0
    assert pealm("train", "pealm-it/m", "--out", tmp_path / "r", "--steps", 4).code == 0
    result = pealm("train", "pealm-other/m", "--out", tmp_path / "r", "--steps", 5)
    assert result.code == 2 and "not 'pealm-other/m'" in result.err


def test_a_plugin_that_is_gone_is_named(
    plug: Callable[..., None], pealm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.path", list(__import__("sys").path))
        plug()
        assert pealm(*TRAIN, tmp_path / "r").code == 0
        site = str(tmp_path / "site-pealm-it")
    __import__("sys").path[:] = [p for p in __import__("sys").path if p != site]
    result = pealm("sample", "--ckpt", tmp_path / "r")
    assert result.code == 2 and "was made with pealm-it 1.0, not installed here" in result.err
