"""`pealm_core.train`: what the command does, from Python; and the names that Python shows."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pealm_core
from pealm_core import UserError

SMALL = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 8}


def weights(run: Path) -> bytes:
    (newest,) = sorted((run / "checkpoints").glob("step-*"))[-1:]
    return (newest / "model.safetensors").read_bytes()


def test_it_trains_as_the_command_does(pealm: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    options = ("--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--model.block-size", 8)
    options += (
        "--schedule",
        "wsd",
        "--schedule.decay-fraction",
        0.5,
        "--optimizer.beta1",
        0.8,
        "--without",
        "gc,heap",
    )
    line = ("train", "char-transformer", "--input.text", book, "--steps", 4, "--batch-size", 4, "--warmup-steps", 1)
    assert pealm(*line, *options, "--out", tmp_path / "a").code == 0
    run = pealm_core.train(
        {"name": "char-transformer", **SMALL},
        {"text": book},
        out=tmp_path / "b",
        steps=4,
        batch_size=4,
        warmup_steps=1,
        schedule={"name": "wsd", "decay_fraction": 0.5},
        optimizer={"beta1": 0.8},
        without=["gc", "heap"],
    )
    assert run == tmp_path / "b"
    assert weights(run) == weights(tmp_path / "a")
    assert pealm_core.train(out=str(run), steps=5) == run  # resumes
    assert '"step": 5' in (run / "metrics.jsonl").read_text()
    assert len(pealm_core.load(run).generate("the", max_new_tokens=5)) == 8


def test_a_new_run_has_a_folder_of_its_own(
    pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} " * 300)
    mixture = [{"text": "one.txt", "weight": 3}, {"text": "two.txt", "weight": 1}]
    run = pealm_core.train("char-bigram", mixture, steps=1, batch_size=2)
    assert run.parent == Path("runs/char-bigram") and (run / "best").is_dir()
    with pytest.raises(UserError, match="no such file"):
        pealm_core.train("char-bigram", {"text": "none.txt"}, steps=1)
    assert [*run.parent.iterdir()] == [run]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a model"),
        ({"model": "char-bigram"}, "needs an input"),
        ({"model": "char-bigram", "input": "tinyshakespear"}, "did you mean 'tinyshakespeare'"),
        ({"model": "char-bigram", "input": "tinyshakespeare", "stepz": 3}, "did you mean '--steps'"),
        ({"model": "char-bigram", "input": "tinyshakespeare", "optimizer": {"nme": 3}}, "--optimizer.nme"),
        ({"model": "char-bigram", "input": "tinyshakespeare", "lr": -1}, "--lr must be above 0"),
        ({"model": "gpt2-pretrained", "input": "tinyshakespeare"}, "is trained as gpt2"),
        ({"model": "char-bigram", "input": "tinyshakespeare", "micro_batch_size": 3}, "does not divide"),
    ],
)
def test_mistakes_are_user_errors(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pealm_core.train(**arguments)


def test_python_shows_every_public_name_without_loading_torch() -> None:
    code = "import sys, pealm_core; names = dir(pealm_core); assert 'torch' not in sys.modules; print(*names)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"train", "load", "LM", "ModelSpec", "use_plugin", "hookimpl"} <= {*names}
    for name in names:
        getattr(pealm_core, name)
    from pealm_core import public

    heavy = [n for n, v in vars(public).items() if n[0] != "_" and not isinstance(v, type(sys))]
    assert {*heavy} <= {*names}
    assert pealm_core.__all__ == names
    import pydoc

    page = pydoc.plain(pydoc.render_doc(pealm_core))
    assert "train(model:" in page and "class LM" in page and "steps=1000" in page
