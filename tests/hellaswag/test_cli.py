"""`pealm eval` with HellaSwag: the table, the file, several processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pealm_core import read_checkpoint, write_checkpoint
from pealm_core.checkpoints.folder import state_of

Pealm = Callable[..., Any]


@pytest.fixture
def run(pealm: Pealm, tmp_path: Path) -> Path:
    """A small trained model over characters."""
    text = tmp_path / "text.txt"
    text.write_text("A man is on a roof. he falls off. A dog runs up to him and licks his face.\n" * 60)
    args = ("--input.text", text, "--steps", 30, "--tokenizer.unknown", "replace", "--out", tmp_path / "run")
    small = ("--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--model.block-size", 64)
    assert pealm("train", "char-transformer", *args, *small, "--eval-every", 0).code == 0
    return tmp_path / "run"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    ctx = {"activity_label": "Roofs", "ctx_a": "A man is on a roof.", "ctx_b": "he", "ctx": "A man is on a roof. he"}
    endings = ["falls off.", "flies to the moon and back.", "eats it.", "licks his face."]
    lines = [{**ctx, "ctx": f"{'so ' * i}{ctx['ctx']}", "endings": endings, "label": i % 4} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_table_and_the_file_tell_all(pealm: Pealm, run: Path, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    args = ("eval", "--ckpt", run, "--on", "hellaswag", "--eval.file", rows, "--output", output)
    result = pealm(*args, "--limit", 20, "--eval.details", "true", "--eval.style", "harness")
    assert result.code == 0, result.err
    first, acc, acc_norm, *_ = result.out.splitlines()
    assert first.startswith("hellaswag on char-transformer: n = 20 in ") and first.endswith("/s")
    found = json.loads(output.read_text())
    for line, name in ((acc, "acc"), (acc_norm, "acc_norm")):
        metric = found["metrics"][name]
        assert line.split() == [name, f"{metric['value']:.4f}", "±", f"{metric['stderr']:.4f}"]
    assert (found["n"], found["style"], found["evaluation"], found["limit"]) == (20, "harness", "hellaswag", 20)
    assert found["rows_per_second"] > 0
    assert found["checkpoint_sha256"] == state_of(run / "best")["files"]["model.safetensors"][1]
    assert found["config"]["model"]["n-embd"] == 16 and found["config"]["eval"]["name"] == "hellaswag"
    assert {"pealm-core", "pealm-hellaswag", "pealm-char-transformer"} <= found["versions"].keys()
    right = [row["choice"] == row["label"] for row in found["details"]]
    assert sum(right) / 20 == found["metrics"]["acc"]["value"]
    assert all(len(row["log_likelihood"]) == 4 for row in found["details"])
    assert pealm(*args).code == 0
    assert json.loads(output.read_text())["details"] == []


def test_it_is_the_default_for_a_model_that_names_no_text(
    pealm: Pealm, run: Path, rows: Path, tmp_path: Path
) -> None:
    source = read_checkpoint(run)
    config = {name: source.config[name] for name in ("model", "tokenizer")}
    write_checkpoint(tmp_path / "alone", model=source.model, config=config, tokenizer=source.tokenizer)
    result = pealm("eval", "--ckpt", tmp_path / "alone", "--eval.file", rows)
    assert result.out.startswith("hellaswag on char-transformer: n = 30 in "), result.err
    assert "written" not in result.out and [p.name for p in tmp_path.glob("**/evals")] == []  # it is not in a run
    result = pealm("eval", "--ckpt", tmp_path / "alone", "--input.text", tmp_path / "text.txt")
    assert result.out.startswith("perplexity on char-transformer"), result.err
    for _ in range(2):  # a run's own text is the default, and results are replaced
        result = pealm("eval", "--ckpt", run / "best")
        assert result.out.startswith("perplexity on char-transformer"), result.err
    result = pealm("eval", "--ckpt", run, "--on", "hellaswag", "--eval.file", rows, "--limit", 3)
    kept = sorted(path.name for path in (run / "evals").iterdir())
    assert kept == ["hellaswag-30-limit-3.json", "perplexity-30.json"]
    assert json.loads((run / "evals" / kept[0]).read_text())["n"] == 3
    before = (run / "evals" / kept[1]).read_bytes()  # of the validation text
    for _ in range(2):  # another text, and other settings: each in a file of its own
        pealm("eval", "--ckpt", run, "--input.text", tmp_path / "text.txt")
        pealm("eval", "--ckpt", run, "--eval.stride", 3)
    assert len([*(run / "evals").iterdir()]) == 4 and (run / "evals" / kept[1]).read_bytes() == before
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (run / "evals").iterdir():
        path.unlink()
    (run / "evals").rmdir()
    (run / "evals").symlink_to(elsewhere)
    result = pealm("eval", "--ckpt", run)
    assert result.code == 0 and "the results are not kept" in result.err and not [*elsewhere.iterdir()]


def test_two_processes_write_the_file_that_one_writes(
    pealm: Pealm, ranks: Any, run: Path, rows: Path, tmp_path: Path
) -> None:
    args = ["eval", "--ckpt", run, "--on", "hellaswag", "--eval.file", rows, "--eval.details", "true", "--output"]
    assert pealm(*args, tmp_path / "one.json").code == 0
    first, second = ranks(2, *args, tmp_path / "two.json")
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert first.out.startswith("hellaswag on") and second.out == ""
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    for found in (one, two):
        del found["rows_per_second"]
    for a, b in zip(one.pop("details"), two.pop("details"), strict=True):
        for name in ("log_likelihood", "normalized"):
            assert a.pop(name) == pytest.approx(b.pop(name), abs=1e-5)
        assert a == b
    assert one == two


def test_a_bad_row_is_the_user_s_mistake(pealm: Pealm, run: Path, rows: Path, tmp_path: Path) -> None:
    rows.write_text(rows.read_text().replace('"label": 2', '"label": 7', 1))
    result = pealm(
        "eval", "--ckpt", run, "--on", "hellaswag", "--eval.file", rows, "--output", tmp_path / "results.json"
    )
    assert result.code == 2
    assert result.err == f"pealm: {rows}, line 3: 'label' must be 0 to 3, not 7\n"
    assert not (tmp_path / "results.json").exists()
    for words, message in (
        (("--limit", 0), "0 is not in the range x>=1"),
        (("--on", "hellaswag", "--input.text", rows), "unknown option --input.text"),
        (("--on", "kindergarten", "--limit", 3), "kindergarten takes no --limit"),
        (("--on", "hellaswag", "--eval.style", "raw"), "--eval.style must be one of completion, harness, not 'raw'"),
    ):
        result = pealm("eval", "--ckpt", run, *words)
        assert result.code == 2 and message in result.err, result.err
