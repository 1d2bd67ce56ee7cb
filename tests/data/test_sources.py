"""What training draws from, from the command line: conversations, mixtures, a dataset's own samples."""

import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.config.resolve_job import plan
from pealm_core.config.toml_layers import file_layer

PLUGIN = '''
"""Conversations, and numbers drawn on the fly."""

import torch

from pealm_core import DatasetSpec, Segment, hookimpl


@hookimpl
def pealm_datasets():
    yield DatasetSpec(name="chats", summary="x", factory=Chats)
    yield DatasetSpec(name="numbers", summary="x", factory=Numbers)


class Chats:
    specials = ("<|user|>", "<|bot|>")
    packed = True

    def documents(self, split):
        for i in range(400 if split == "train" else 40):
            user = [Segment(special="<|user|>", learn=False), Segment(f"say {i}? ", learn=False)]
            yield [*user, Segment(special="<|bot|>", learn=False), Segment(f"{i}, {i + 1}.", learn=True)]


class Numbers:
    def documents(self, split):
        yield "0123456789"

    def source(self, split, *, tokenizer, block_size, seed):
        return Counting(block_size, seed)


class Counting:
    tokens = 1000

    def __init__(self, block_size, seed):
        self.block_size, self.seed = block_size, seed

    def __len__(self):
        return 50

    def rows(self, samples):
        rows = torch.tensor([[(self.seed + n + i) % 10 for i in range(self.block_size + 1)] for n in samples])
        return {"idx": rows[:, :-1], "targets": rows[:, 1:]}
'''
SIZES = ["--model.block-size", "24", "--model.n-layer", "1", "--model.n-embd", "16", "--model.n-head", "2"]
SIZES += ["--batch-size", "8", "--warmup-steps", "0", "--schedule", "constant", "--eval-tokens", "300"]


@pytest.fixture
def folder(tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "play", raising=False)  # that of another test
    (tmp_path / "play.py").write_text(PLUGIN)
    (tmp_path / "other.txt").write_text("a dog is not a fox? say 12345: 67890. " * 100)
    (tmp_path / "mixed.toml").write_text(
        "[[input]]\ntext = 'book.txt'\nweight = 3\n\n[[input]]\ntext = 'other.txt'\nval-fraction = 0.2\n"
    )
    return tmp_path


def train(pealm: Callable[..., Any], out: str, *args: object) -> list[dict[str, Any]]:
    done = pealm("--plugin", "play.py", "train", "char-transformer", *SIZES, *args, "--out", out)
    assert done.code == 0, done.err
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


def weights(run: str) -> dict[str, list[float]]:
    (last,) = sorted(Path(run).glob("checkpoints/step-*"))[-1:]
    return {name: tensor.tolist() for name, tensor in read_tensors(last / "model.safetensors")[0].items()}


INPUTS = {
    "conversations": ["--input.chats"],
    "a mixture": ["--config", "mixed.toml"],
    "its own samples": ["--input.numbers"],
    "windows": ["--input.text", "book.txt"],
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_run_resumes_bit_for_bit(pealm: Callable[..., Any], folder: Path, name: str) -> None:
    whole = train(pealm, "whole", *INPUTS[name], "--steps", 12)
    train(pealm, "parts", *INPUTS[name], "--steps", 5)
    parts = train(pealm, "parts", "--steps", 12)
    assert losses(parts) == losses(whole) and weights("parts") == weights("whole")
    assert losses(whole)[-1] < losses(whole)[0]


@pytest.mark.parametrize("name", ["conversations", "a mixture"])
def test_two_processes_learn_what_one_does(
    pealm: Callable[..., Any], ranks: Callable[..., Any], folder: Path, name: str
) -> None:
    args = [*INPUTS[name], "--dtype", "fp32"]  # bf16 rounds a batch and its halves in different ways
    one = losses(train(pealm, "one", *args, "--steps", 4))
    line = ["--plugin", "play.py", "train", "char-transformer", *SIZES, *args, "--steps", "4", "--out", "two"]
    assert [done.err for done in ranks(2, *line) if done.code] == []
    two = [json.loads(row) for row in Path("two/metrics.jsonl").read_text().splitlines()]
    assert losses(two) == pytest.approx(one, rel=1e-4)


def test_conversations_are_kept_with_their_special_tokens(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["conversations"], "--steps", 2)
    (saved,) = Path("run").glob("checkpoints/*/tokenizer/specials.json")
    first = len(json.loads((saved.parent / "chars.json").read_text()))
    assert json.loads(saved.read_text()) == {"<|user|>": first, "<|bot|>": first + 1}
    assert "vocab-size = " + str(first + 2) in (saved.parent.parent / "config.toml").read_text()
    shown = pealm("sample", "--ckpt", "run", "--prompt", "say", "-n", 200)
    assert shown.code == 0 and ("<|user|>" in shown.out or "<|bot|>" in shown.out)


def test_a_run_without_special_tokens_has_no_file_of_them(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["windows"], "--steps", 2)
    assert [path.name for path in Path("run").glob("checkpoints/*/tokenizer/*")] == ["chars.json"]
    assert not [*folder.glob("cache/tokens/*/*.mask")]


def test_a_packed_index_is_written_once(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "a", *INPUTS["conversations"], "--steps", 1)
    indices = sorted(folder.glob("cache/tokens/*/rows.bin"))
    written = [path.stat().st_mtime_ns for path in indices]
    train(pealm, "b", *INPUTS["conversations"], "--steps", 1)
    assert len(indices) == 2 and written == [path.stat().st_mtime_ns for path in indices]
    shutil.rmtree(folder / "cache")
    assert losses(train(pealm, "c", *INPUTS["conversations"], "--steps", 1)) == losses(
        train(pealm, "a", "--steps", 1)
    )


def test_a_mixture_is_written_to_the_runs_config(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["a mixture"], "--steps", 2)
    inputs = tomllib.loads(Path("run/config.toml").read_text())["input"]
    assert inputs == [
        {"text": "book.txt", "val-fraction": 0.1, "skip-bad": False, "weight": 3.0},
        {"text": "other.txt", "val-fraction": 0.2, "skip-bad": False, "weight": 1.0},
    ]
    job = plan(("model", "input"), file=file_layer(Path("run/config.toml")))
    assert job.tables()["input"] == inputs and job.weights == {"input.1": 3.0, "input.2": 1.0}
    printed = pealm("train", "--config", "run/config.toml", "--print-config")
    assert tomllib.loads(printed.out)["input"] == inputs and "# mixed.toml" not in printed.out
    assert pealm("train", "--config", "mixed.toml", "--help").code == 0
    only = pealm("train", "char-bigram", "--config", "mixed.toml", "--input.text", "other.txt", "--print-config")
    assert tomllib.loads(only.out)["input"] == {"text": "other.txt", "val-fraction": 0.1, "skip-bad": False}


def test_a_changed_mixture_does_not_resume(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["a mixture"], "--steps", 2)
    config = Path("mixed.toml")
    config.write_text(config.read_text().replace("weight = 3", "weight = 2"))
    line = ["train", "char-transformer", *SIZES, "--config", config, "--steps", 3, "--out", "run"]
    refused = pealm(*line)
    assert refused.code == 2 and "was started with [input]" in refused.err and "'weight': 3.0" in refused.err


def test_an_evaluation_gets_the_list_of_inputs(
    pealm: Callable[..., Any], folder: Path, stranger: Callable[..., None]
) -> None:
    stranger(
        "pealm-looks",
        """
        from pealm_core import EvalResult, EvaluatorSpec, hookimpl
        @hookimpl
        def pealm_evaluators():
            return EvaluatorSpec(name="looks", summary="x", factory="pealm_looks_plugin:Looks")
        class Looks:
            def evaluate(self, model, tokenizer, *, config, progress):
                return EvalResult(metrics={}, n=1, notes=[f"{config.get('input')} {config['inputs']}"])
        """,
    )
    train(pealm, "run", *INPUTS["a mixture"], "--steps", 1)
    train(pealm, "plain", *INPUTS["windows"], "--steps", 1)
    mixed, plain = (pealm("eval", "--ckpt", run, "--on", "looks").out for run in ("run", "plain"))
    assert "None [{'text': 'book.txt', 'val-fraction': 0.1, 'skip-bad': False, 'weight': 3.0}, {" in mixed
    assert (
        "{'text': 'book.txt', 'val-fraction': 0.1, 'skip-bad': False} [{'text': 'book.txt', 'val-fraction': 0.1, 'skip-bad': False}]"
        in plain
    )


def test_a_model_of_a_mixture_is_evaluated_on_each_of_its_inputs(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["a mixture"], "--steps", 1)
    done = pealm("eval", "--ckpt", "run", "--on", "perplexity", "--output", "both.json")
    assert done.code == 0, done.err
    both, one = json.loads(Path("both.json").read_text()), {}
    assert [*both["metrics"]] == [
        f"{key}/text-{i}" for i in (1, 2) for key in ("loss", "perplexity", "bits_per_byte")
    ]
    assert [note.partition(":")[0] for note in both["notes"]] == ["text-1", "text-2"]
    for i, options in enumerate((["--input.text", "book.txt"], ["--input.text", "other.txt"]), 1):
        assert pealm("eval", "--ckpt", "run", "--on", "perplexity", *options, "--output", "one.json").code == 0
        one[i] = json.loads(Path("one.json").read_text())
        assert [*one[i]["metrics"]] == ["loss", "perplexity", "bits_per_byte"]  # of the whole text that was named
    assert both["n"] == int(0.1 * 9000) + int(0.2 * 3800 + 0.5)
    assert both["metrics"]["loss/text-1"]["value"] == pytest.approx(one[1]["metrics"]["loss"]["value"], rel=0.05)


def test_conversations_are_evaluated_on_what_is_learned(pealm: Callable[..., Any], folder: Path) -> None:
    train(pealm, "run", *INPUTS["conversations"], "--steps", 1)
    done = pealm("--plugin", "play.py", "eval", "--ckpt", "run", "--on", "perplexity")
    assert done.code == 0 and "40 documents (val)" in done.out
    learned = sum(len(f"{i}, {i + 1}.") for i in range(40))
    assert f"{learned:,} tokens, {learned:,} bytes" in done.out
