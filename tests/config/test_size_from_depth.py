"""`--depth N`: the law behind it, what it sets in each model, and that such a model trains."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core import ModelSpec, depth_preset
from pealm_core.plugins.loading import PluginHost

Pealm = Callable[..., Any]


def test_twelve_layers_are_gpt2() -> None:
    preset = depth_preset(12)
    assert (preset["n_layer"], preset["n_head"], preset["n_embd"], preset["block_size"]) == (12, 12, 768, 1024)


@pytest.mark.parametrize("depth", [*range(1, 13), 20, 32, 64, 128])
def test_twenty_tokens_a_parameter_and_whole_passes(depth: int) -> None:
    preset = depth_preset(depth)
    train, width = preset["train"], preset["n_embd"]
    matrices = depth * (4 * width * width + 2 * 4 * width * width)  # attention, feed-forward
    tokens = train["steps"] * train["batch_size"] * preset["block_size"]
    assert tokens == pytest.approx(20 * matrices, rel=0.01)
    assert train["batch_size"] % train["micro_batch_size"] == 0
    assert train["warmup_steps"] < train["steps"]


def test_the_table_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    rows = re.findall(
        r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d,]+) \|", page, re.M
    )
    assert len(rows) == 9
    for depth, *cells in rows:
        preset = depth_preset(int(depth))
        train, width = preset["train"], preset["n_embd"]
        matrices = 12 * int(depth) * width**2
        expected = [width, matrices, preset["block_size"], train["batch_size"], train["lr"], train["steps"]]
        assert [float(cell.replace(",", "")) for cell in cells] == expected


def test_a_larger_model_has_a_larger_batch_and_a_lower_rate() -> None:
    runs = [depth_preset(depth) for depth in range(1, 33)]
    tokens = [run["train"]["batch_size"] * run["block_size"] for run in runs]
    rates = [run["train"]["lr"] for run in runs]
    assert tokens == sorted(tokens) and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("model", ["gpt2", "llama", "sprout"])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_each_family_accepts_what_it_sets(model: str, depth: int) -> None:
    entry = PluginHost.installed().find(ModelSpec, model)
    values = {key: value for key, value in entry.load("depth")(depth).items() if not isinstance(value, dict)}
    assert entry.config is not None
    config = entry.config(**values)
    assert config.n_layer == depth and config.n_embd == 64 * depth


@pytest.mark.parametrize("model", ["gpt2", "llama", "sprout"])
def test_a_run_prints_what_was_chosen(model: str, pealm: Pealm, book: Path, tmp_path: Path) -> None:
    few = ("--steps", 1, "--batch-size", 2, "--micro-batch-size", 2, "--eval-tokens", 100, "--warmup-steps", 0)
    line = ("train", model, "--depth", 1, "--input.text", book, "--tokenizer", "char", *few)
    done = pealm(*line, "--out", tmp_path / "r")
    assert done.code == 0, done.err
    table = dict(line.split()[1:] for line in done.out.splitlines() if line.startswith("depth-1 "))
    assert table["--model.n-embd"] == "64" and table["tokens"] == "256"
    assert "--steps" not in table  # the command line's own
    assert table["--optimizer.adam-lr" if model == "sprout" else "--lr"] == "0.011"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gpt2 --depth x", "--depth x: not a number of layers"),
        ("gpt2 --depth 0", "--depth 0: depth 0 with a width of 64 is out of range: 1 to 128 layers"),
        ("char-bigram --depth 3", "--depth 3: model 'char-bigram' has no such preset; set its sizes one by one"),
        ("gpt2 --depth 3 --preset xl", "--depth and --preset exclude each other: give one of them"),
    ],
)
def test_mistakes(words: str, message: str, pealm: Pealm, book: Path) -> None:
    done = pealm("train", *words.split(), "--input.text", book)
    assert (done.code, done.err) == (2, f"pealm: {message}\n")
