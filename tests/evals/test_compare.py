"""`pealm compare`: the values of `pealm eval`, paired row by row."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_evals.compare import _metrics, _notes, _show
from pealm_evals.paired import mcnemar

Pealm = Callable[..., Any]


def test_losses_are_those_of_eval_and_are_compared_passage_by_passage(
    pealm: Pealm, runs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "compared.json"
    text = ("--input.text", runs / "text.txt")
    done = pealm("compare", runs / "a", runs / "b", *text, "--output", output)
    assert done.code == 0, done.err
    found = json.loads(output.read_text())
    assert found["models"] == [str(runs / "a"), str(runs / "b")]
    assert list(found["metrics"]) == ["loss", "bits_per_byte"]
    for number, name in enumerate("ab"):
        pealm("eval", "--ckpt", runs / name, *text, "--output", tmp_path / "one.json")
        alone = json.loads((tmp_path / "one.json").read_text())["metrics"]
        for metric, table in found["metrics"].items():
            assert table["models"][number]["value"] == pytest.approx(alone[metric]["value"], rel=1e-5)
    a, b = found["metrics"]["loss"]["models"]
    assert b["difference"] == pytest.approx(b["value"] - a["value"]) and b["low"] < b["difference"] < b["high"]
    assert abs(b["high"] - b["low"]) < abs(b["difference"])  # they differ clearly
    assert "p" not in b and found["metrics"]["loss"]["rows"] > 8
    assert f"perplexity: {found['metrics']['loss']['rows']} rows, the same for each model" in done.out
    assert "McNemar" not in done.out  # which is for right and wrong
    assert f" {b['difference']:+.4f} " in done.out and f" {b['low']:+.4f} to {b['high']:+.4f}" in done.out
    assert done.out.count("the model was trained on this text") == 1  # said of both
    assert [line.split()[0] for line in done.out.splitlines()[2:4]] == ["loss", str(runs / "b")]
    assert isinstance(found["notes"], list) and all(note in done.out.splitlines() for note in found["notes"])


def test_models_with_different_tokenizers_are_compared_by_bytes(pealm: Pealm, runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "compared.json"
    text = ("--input.text", runs / "text.txt")
    done = pealm("compare", runs / "a", runs / "words", runs / "b", *text, "--output", output)
    assert done.code == 0, done.err
    metrics = json.loads(output.read_text())["metrics"]
    assert list(metrics) == ["bits_per_byte"]  # losses per token can't be compared
    pealm("eval", "--ckpt", runs / "words", *text, "--output", tmp_path / "one.json")
    alone = json.loads((tmp_path / "one.json").read_text())["metrics"]["bits_per_byte"]["value"]
    assert metrics["bits_per_byte"]["models"][1]["value"] == pytest.approx(alone, rel=1e-5)
    assert metrics["bits_per_byte"]["rows"] > 8


def test_accuracies_have_mcnemar_s_test(pealm: Pealm, runs: Path, tmp_path: Path) -> None:
    on = ("--on", "multiple-choice", "--eval.file", runs / "questions.jsonl", "--output", tmp_path / "found.json")
    done = pealm("compare", runs / "a", runs / "b", *on)
    assert done.code == 0, done.err
    table = json.loads((tmp_path / "found.json").read_text())["metrics"]["acc"]
    credits = []
    for name in "ab":
        pealm("eval", "--ckpt", runs / name, *on, "--eval.details", "true")
        found = json.loads((tmp_path / "found.json").read_text())
        credits.append([row["acc"] for row in found["details"]])
    assert table["rows"] == 6 and "too few rows" in done.out and "p (McNemar)" in done.out
    assert [entry["value"] for entry in table["models"]] == [sum(own) / 6 for own in credits]
    assert table["models"][1]["p"] == mcnemar(*([value == 1 for value in own] for own in credits))


def test_rows_on_which_choices_tie_are_left_out_of_mcnemar_s_test() -> None:
    def p(first: list[float], second: list[float]) -> float | None:
        table = _metrics(
            "x", ["acc"], [[{"line": n, "acc": v} for n, v in enumerate(own)] for own in (first, second)]
        )
        found: float | None = table["acc"]["models"][1].get("p")
        return found

    sure = [1.0] * 9 + [0.0], [0.0] * 8 + [1.0, 1.0]
    assert p(*sure) == mcnemar(*([value == 1 for value in own] for own in sure)) != 1
    assert p([*sure[0], 1 / 3, 1.0, 0.5], [*sure[1], 0.0, 0.5, 0.5]) == p(*sure)
    for credit in (0.8, 2 / 3):  # not those of a choice
        assert p([*sure[0], credit], [*sure[1], 0.0]) is None


@pytest.mark.parametrize("rows", [7, 8])
def test_fewer_than_eight_rows_have_no_interval(rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    details = [[{"line": n, "acc": float(n % k == 0)} for n in range(rows)] for k in (2, 3, 4)]
    table = _metrics("x", ["acc"], details)
    _show({"evaluation": "x", "models": ["a", "b", "c"], "metrics": table, "notes": []})
    for entry, line in zip(table["acc"]["models"][1:], capsys.readouterr().out.splitlines()[3:], strict=True):
        assert ("low" in entry) == (rows == 8)
        assert [line.count("too few rows"), line.count(" to ")] == ([0, 1] if rows == 8 else [1, 0])


def test_notes_on_one_model_have_its_name() -> None:
    notes = ["shared", "of a"], ["of b", "shared"], ["shared"]
    assert _notes(["a", "b", "c"], notes) == ["shared", "a: of a", "b: of b"]


def test_stories_are_compared_one_by_one(pealm: Pealm, tmp_path: Path) -> None:
    from pealm_core import train

    small: dict[str, Any] = {"steps": 2, "batch_size": 8, "eval_tokens": 2000, "warmup_steps": 1, "device": "cpu"}
    model = {"name": "char-transformer", "n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 32}
    for name, rate in (("a", 1e-3), ("b", 3e-2)):
        train(model, {"kindergarten": 1, "stories": 100}, out=tmp_path / name, lr=rate, **small)
    on = ("--on", "kindergarten", "--eval.stories", 9, "--output", tmp_path / "found.json")
    done = pealm("compare", tmp_path / "a", tmp_path / "b", *on)
    assert done.code == 0, done.err
    compared = json.loads((tmp_path / "found.json").read_text())["metrics"]
    assert list(compared) == ["stories accepted", "sentences accepted", "loss (nats per character)", "loss / floor"]
    for number, name in enumerate("ab"):
        pealm("eval", "--ckpt", tmp_path / name, *on)
        alone = json.loads((tmp_path / "found.json").read_text())["metrics"]
        for metric, table in compared.items():
            assert table["rows"] == 9
            assert table["models"][number]["value"] == pytest.approx(alone[metric]["value"])
    quotient = compared["loss / floor"]["models"][1]
    assert quotient["high"] < 0 and "p" not in quotient and "p" in compared["stories accepted"]["models"][1]


def test_what_can_t_be_compared(pealm: Pealm, runs: Path, local: Callable[..., Path]) -> None:
    plugin = local(
        "no_rows",
        """
        from pealm_core import EvalResult, EvaluatorSpec, hookimpl

        class Evaluator:
            def evaluate(self, model, tokenizer, *, config, progress):
                return EvalResult(metrics={"x": (1.0, 0.0)}, n=1)

        @hookimpl
        def pealm_evaluators():
            return EvaluatorSpec(name="no-rows", summary="x", factory=Evaluator)
        """,
    )
    for words, message in (
        ((runs / "a",), "OTHER"),
        ((runs / "a", runs / "none"), "none"),
        ((runs / "a", runs / "b", "--on", "multiple-choice"), "needs a file of questions"),
        ((runs / "a", runs / "b", "--limit", 2, "--output", runs / "text.txt"), "not a file of results"),
    ):
        done = pealm("compare", *words)
        assert done.code == 2 and message in done.err, done.err
    done = pealm("--plugin", plugin, "compare", runs / "a", runs / "b", "--on", "no-rows")
    assert done.code == 2 and "no-rows tells no value for each row" in done.err


def test_results_are_written_when_nobody_reads_what_is_shown(runs: Path, tmp_path: Path) -> None:
    for command, others in (("eval", ["--ckpt", str(runs / "a")]), ("compare", [str(runs / "a"), str(runs / "b")])):
        reader, writer = os.pipe()
        os.close(reader)
        options = ["--on", "perplexity", "--input.text", str(runs / "text.txt"), "--output", str(tmp_path / command)]
        code = subprocess.run([sys.executable, "-m", "pealm", command, *others, *options], stdout=writer).returncode
        os.close(writer)
        assert code == 0 and json.loads((tmp_path / command).read_text())
