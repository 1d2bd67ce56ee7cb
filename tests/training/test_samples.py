"""What a training tells of itself beside its metrics: texts on the way (samples.jsonl) and facts (run.json)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.checkpoints.tensors import read_tensors
from pealm_core.training.run_folder import Run

SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8)
CONSTANT = ("--warmup-steps", 0, "--schedule.min-lr-ratio", 1.0)  # a rate that does not know the run's length
SAMPLES = ("--sample-every", 3, "--sample-prompt", "the ")
LAST = "checkpoints/step-00000007/model.safetensors"
TIMES = ("tokens_per_second", "seconds")


def lines(run: Path, name: str = "samples.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(run, "metrics.jsonl")]


def facts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


@pytest.fixture
def train(pealm: Callable[..., Any], book: Path) -> Callable[..., Any]:
    def run(out: Path, *args: object) -> Any:
        return pealm("train", "char-transformer", "--input.text", book, "--out", out, *SMALL, *CONSTANT, *args)

    return run


def test_texts_come_every_k_steps_and_change_nothing(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    args = ("--steps", 7, "--model.dropout", 0.2, "--lr", 0.01, "--save-every", 3)
    assert train(tmp_path / "without", *args).code == 0
    assert not (tmp_path / "without" / "samples.jsonl").exists()
    assert train(tmp_path / "with", *args, *SAMPLES).code == 0
    assert timeless(tmp_path / "with") == timeless(tmp_path / "without")
    with_, without = (read_tensors(tmp_path / run / LAST)[0] for run in ("with", "without"))
    assert with_.keys() == without.keys() and all(torch.equal(with_[name], without[name]) for name in with_)
    texts = lines(tmp_path / "with")
    assert [(line["step"], line["tokens"], line["prompt"]) for line in texts] == [(3, 384, "the "), (6, 768, "the ")]
    assert all(len(line["text"]) == 200 for line in texts) and texts[0]["text"] != texts[1]["text"]
    # It is what the weights of that step write.
    ckpt = ("--ckpt", tmp_path / "with" / "checkpoints" / "step-00000006")
    result = pealm("sample", *ckpt, "--prompt", "the ", "-n", 200, "--seed", 1337, "--no-stream")
    assert result.out.strip("\n") == ("the " + texts[1]["text"]).strip("\n")


def test_a_run_that_goes_on_repeats_no_text(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    assert train(tmp_path / "straight", "--steps", 9, *SAMPLES).code == 0
    assert train(tmp_path / "parts", "--steps", 6, "--save-every", 4, *SAMPLES).code == 0
    with (tmp_path / "parts" / "samples.jsonl").open("a") as file:
        file.write('{"step": 9, "tok')  # as a kill leaves it
    newest = tmp_path / "parts" / "checkpoints" / "step-00000006" / "state.json"
    newest.write_text("{}")  # no valid checkpoint: the one of step 4 is the newest
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 9).code == 0
    assert (tmp_path / "parts" / "samples.jsonl").read_bytes() == (
        tmp_path / "straight" / "samples.jsonl"
    ).read_bytes()
    assert pealm("train", "--out", tmp_path / "parts", "--steps", 10, "--sample-every", 0).code == 0


def test_a_prompt_that_the_tokenizer_can_t_express_is_found_before_the_first_step(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    result = train(tmp_path / "r", "--steps", 3, "--sample-every", 1, "--sample-prompt", "naïve")
    assert result.code == 2 and result.err.startswith("pealm: --sample-prompt: ") and "ï" in result.err
    assert not (tmp_path / "r").exists()


def test_one_of_two_processes_writes_and_both_learn_on(
    train: Callable[..., Any], ranks: Callable[..., Any], tmp_path: Path, book: Path
) -> None:
    line = ["train", "char-transformer", "--input.text", book, "--out", tmp_path / "two", "--steps", 4]
    done = ranks(2, *line, *SMALL, *CONSTANT, "--sample-every", 2, "--dtype", "fp32")
    assert [rank.err for rank in done if rank.code] == []
    assert train(tmp_path / "one", "--steps", 4, "--dtype", "fp32").code == 0
    for two, one in zip(timeless(tmp_path / "two"), timeless(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert [line["step"] for line in lines(tmp_path / "two")] == [2, 4]
    assert facts(tmp_path / "two")["processes"] == 2


def test_the_run_records_what_it_was_and_how_it_ended(
    train: Callable[..., Any], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    assert train(tmp_path / "r", "--steps", 3).code == 0
    found = facts(tmp_path / "r")
    assert found["status"] == "done" and found["entropy_floor"] is None and found["device"] == "cpu"
    assert found["vocab_size"] == 28 and found["first_val_loss"] == pytest.approx(3.33, abs=0.2)
    assert train(tmp_path / "broken", "--steps", 60, "--lr", 1e30, "--grad-clip", 0).code == 1
    assert facts(tmp_path / "broken")["status"] == "failed"
    stories = ("--input.kindergarten", 1, "--input.stories", 200)
    assert pealm("train", "char-bigram", *stories, "--steps", 2, "--out", tmp_path / "k").code == 0
    assert facts(tmp_path / "k")["entropy_floor"] == pytest.approx(0.1228, abs=1e-4)  # its tokens are characters


def test_a_disk_that_refuses_the_record_ends_no_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", {})
    (tmp_path / "r" / "run.json").mkdir()
    run.record(status="running")
    run.close()
    assert [path.name for path in (tmp_path / "r").iterdir() if path.suffix == ".tmp"] == []
