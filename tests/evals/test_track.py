"""`--track`: evaluations during training, equal to `pealm eval` of the checkpoints, on all ranks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core import load_saved_tokenizer
from pealm_core.training import validation

Pealm = Callable[..., Any]
Lines = Callable[[Path], list[dict[str, Any]]]
SMALL = [
    "char-transformer",
    "--model.n-layer",
    "1",
    "--model.n-embd",
    "16",
    "--model.n-head",
    "2",
    "--model.block-size",
    "32",
    "--batch-size",
    "8",
    "--warmup-steps",
    "2",
    "--eval-tokens",
    "2000",
    "--model.dropout",
    "0.1",
]


def training(runs: Path, out: Path) -> list[str]:
    track = (
        f"--track multiple-choice:file={runs / 'questions.jsonl'} --track perplexity --track-every 4 --track-limit 5"
    )
    return ["train", *SMALL, "--input.text", str(runs / "text.txt"), "--out", str(out), *track.split()]


def tracked(lines: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    return {line["step"]: {k: v for k, v in line.items() if "/" in k} for line in lines if "perplexity/loss" in line}


def test_values_are_those_of_eval_on_the_checkpoints(pealm: Pealm, runs: Path, tmp_path: Path, lines: Lines) -> None:
    out = tmp_path / "run"
    done = pealm(*training(runs, out), "--steps", 10, "--save-every", 4, "--keep", 9)
    assert done.code == 0, done.err
    found = tracked(lines(out))
    assert list(found) == [4, 8, 10]  # every four steps, and the last one
    assert "multiple-choice/acc_norm 0." in done.out or "multiple-choice/acc_norm 1" in done.out
    for step, values in found.items():
        ckpt = out / "checkpoints" / f"step-{step:08}"
        for on in (("multiple-choice", "--eval.file", runs / "questions.jsonl"), ("perplexity",)):
            result = pealm("eval", "--ckpt", ckpt, "--on", *on, "--limit", 5, "--output", tmp_path / "one.json")
            assert result.code == 0, result.err
            metrics = json.loads((tmp_path / "one.json").read_text())["metrics"]
            for name, metric in metrics.items():
                assert values[f"{on[0]}/{name}"] == metric["value"], (step, name)
    assert len(found[4]) == 5
    # training is the same without it
    pealm(*training(runs, tmp_path / "plain")[:-8], "--steps", 10)
    keys = ("loss", "val_loss", "grad_norm")
    assert [[line.get(k) for k in keys] for line in lines(out)] == [
        [line.get(k) for k in keys] for line in lines(tmp_path / "plain")
    ]
    # and it continues when the run resumes
    assert pealm("train", "--out", out, "--steps", 13).code == 0
    assert list(tracked(lines(out))) == [4, 8, 10, 12, 13]


def test_two_processes_track_the_values_of_one(
    pealm: Pealm, ranks: Any, runs: Path, tmp_path: Path, lines: Lines
) -> None:
    same = ("--steps", "4", "--model.dropout", "0")  # which differs by rank
    done = pealm(*training(runs, tmp_path / "one"), *same)
    assert done.code == 0, done.err
    done = ranks(2, *training(runs, tmp_path / "two"), *same)
    assert [rank.err for rank in done if rank.code] == []
    one, two = tracked(lines(tmp_path / "one")), tracked(lines(tmp_path / "two"))
    bits = [lines(tmp_path / name)[0]["val_bits_per_byte"] for name in ("one", "two")]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    assert two[4] == pytest.approx(one[4], rel=1e-4)


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("hellasag", "did you mean 'hellaswag'?"),
        ("multiple-choice:file", "give it as NAME, or as NAME:key=value:key=value"),
        ("multiple-choice:fil=x", "did you mean '--eval.file'?"),
        ("multiple-choice:file=none.jsonl", "none.jsonl: can't be read"),
        ("multiple-choice", "needs a file of questions"),
        ("kindergarten", "kindergarten takes no --limit"),
    ],
)
def test_mistakes_end_the_run_before_it_starts(
    track: str, message: str, pealm: Pealm, runs: Path, tmp_path: Path
) -> None:
    line = ["train", *SMALL, "--input.text", runs / "text.txt", "--out", tmp_path / "run", "--steps", 2]
    done = pealm(*line, "--track", track, *(("--track-limit", 5) if "limit" in message else ()))
    assert done.code == 2 and message in done.err, done.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_empty_document_does_not_end_the_run(
    pealm: Pealm, tmp_path: Path, lines: Lines, local: Callable[..., Path]
) -> None:
    plugin = local(
        "gaps",
        """
        from pealm_core import DatasetSpec, hookimpl

        class Gaps:
            def documents(self, split):
                yield from ["", "abc " * 200, "bca " * 200]

        @hookimpl
        def pealm_datasets():
            return DatasetSpec(name="gaps", summary="x", factory=Gaps)
        """,
    )
    line = ["train", *SMALL, "--input.gaps", "--steps", 2, "--out", tmp_path / "run"]
    done = pealm("--plugin", plugin, *line, "--track", "perplexity", "--track-limit", 1)
    assert done.code == 0, done.err
    assert "perplexity/loss" in lines(tmp_path / "run")[-1]


def test_validation_is_logged_in_bits_per_byte(
    pealm: Pealm, runs: Path, tmp_path: Path, lines: Lines, local: Any
) -> None:
    for line in (line for line in lines(runs / "a") if "val_loss" in line):
        assert line["val_bits_per_byte"] == pytest.approx(line["val_loss"] / math.log(2))  # a character is a byte
    text = (runs / "text.txt").read_text()
    val = text[int(0.9 * len(text)) :]
    tokens = len(load_saved_tokenizer(runs / "words").encode(val))
    first = next(line for line in lines(runs / "words") if "val_loss" in line)
    ratio = first["val_bits_per_byte"] * math.log(2) / first["val_loss"]
    assert ratio == pytest.approx(tokens / len(val.encode()), rel=0.03) and ratio < 0.8
    plugin = local(
        "halves",
        """
        from pealm_core import ObjectiveSpec, hookimpl

        class Half:
            def __init__(self, model, tokenizer):
                pass

            def loss(self, model, batch):
                return model(batch["idx"], batch["targets"])[1] / 2, {}

        @hookimpl
        def pealm_objectives():
            return ObjectiveSpec(name="half", summary="x", factory=Half)
        """,
    )
    line = ["train", *SMALL, "--input.text", runs / "text.txt", "--steps", 1]
    assert pealm("--plugin", plugin, *line, "--objective", "half", "--out", tmp_path / "half").code == 0
    assert not any("val_bits_per_byte" in each for each in lines(tmp_path / "half"))


def test_a_mixture_has_bits_per_byte_as_a_whole_if_all_inputs_have(
    pealm: Pealm, runs: Path, tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "accents.txt").write_text("éàü " * 3000)  # 7 bytes in 4 characters
    (tmp_path / "mix.toml").write_text(
        f'[[input]]\ntext = "{runs / "text.txt"}"\nweight = 3\n[[input]]\ntext = "{tmp_path / "accents.txt"}"\n'
    )

    def train(out: Path) -> dict[str, float]:
        done = pealm("train", *SMALL, "--config", tmp_path / "mix.toml", "--steps", 1, "--out", out)
        assert done.code == 0, done.err
        return lines(out)[-1]

    line = train(tmp_path / "mix")
    one, other = (line[f"val_bits_per_byte/text-{number}"] for number in (1, 2))
    assert one == pytest.approx(line["val_loss/text-1"] / math.log(2))  # a character is a byte
    assert other == pytest.approx(line["val_loss/text-2"] / math.log(2) * 4 / 7, rel=0.01)
    assert line["val_bits_per_byte"] == pytest.approx((3 * one + other) / 4)

    known = iter([1.0, None])  # bytes of a token
    monkeypatch.setattr(validation, "_bytes_per_token", lambda *_: next(known))
    line = train(tmp_path / "half")
    assert {name for name in line if "bits" in name} == {"val_bits_per_byte/text-1"}
