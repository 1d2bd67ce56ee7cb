"""Weights from elsewhere (`--init`) and weights for elsewhere (`pealm convert`)."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pealm_core
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors

SMALL = ("--model.block-size", 16, "--model.n-layer", 1, "--model.n-embd", 16, "--model.n-head", 2, "--batch-size", 8)
Run = Callable[..., Any]


@pytest.fixture
def run(pealm: Run, book: Path, tmp_path: Path) -> Path:
    done = pealm(
        "train",
        "char-transformer",
        "--input.text",
        book,
        *SMALL,
        "--steps",
        8,
        "--lr",
        0.01,
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    return tmp_path / "run"


def first_loss(out: str) -> float:
    return float(out.split("validation loss ")[1].split()[0])


def test_a_run_becomes_weights_only_and_again_is_a_no_op(pealm: Run, run: Path, tmp_path: Path) -> None:
    done = pealm("convert", run, tmp_path / "w")
    assert done.code == 0 and "read back and compared" in done.out
    assert not (tmp_path / "w" / "optimizer.safetensors").exists()
    assert pealm_core.load(tmp_path / "w").generate("the", seed=1, max_new_tokens=5) == pealm_core.load(run).generate(
        "the", seed=1, max_new_tokens=5
    )
    again = pealm("convert", tmp_path / "w", tmp_path / "w2")
    assert again.code == 0 and "weights-only already" in again.out and not (tmp_path / "w2").exists()
    step = checkpoint.steps(run)[-1]
    assert (
        pealm("convert", step, tmp_path / "s").code == 0 and not (tmp_path / "s" / "optimizer.safetensors").exists()
    )


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_another_precision_halves_the_file_and_still_loads(
    pealm: Run, run: Path, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    assert pealm("convert", run, tmp_path / "w", "--dtype", name).code == 0
    tensors, _ = read_tensors(tmp_path / "w" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {dtype}
    exact = read_tensors(run / "best" / "model.safetensors")[0]
    for key, tensor in tensors.items():
        torch.testing.assert_close(tensor.float(), exact[key], rtol=1e-2, atol=1e-3)
    assert pealm("sample", "--ckpt", tmp_path / "w", "-n", 3).code == 0


def test_what_is_there_stays(pealm: Run, run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    done = pealm("convert", run, tmp_path / "full")
    assert done.code == 2 and "is there already" in done.err and (tmp_path / "full" / "mine").exists()
    assert pealm("convert", tmp_path / "nothing", tmp_path / "x").code == 2
    assert pealm("convert", run, tmp_path / "x", "--to", "nonsense").code == 2
    assert pealm("convert", run, tmp_path / "x", "--to", "hf", "--from", "hf").code == 2
    damaged = run / "best" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = pealm("convert", run, tmp_path / "x")
    assert done.code == 2 and str(damaged) in done.err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["run", "safetensors", "pt", "nested"])
def test_training_starts_from_other_weights(pealm: Run, run: Path, book: Path, tmp_path: Path, kind: str) -> None:
    state = pealm_core.load(run).model.state_dict()
    source = {"run": run, "safetensors": run.parent / "w.safetensors"}.get(kind, tmp_path / "w.pt")
    if kind == "safetensors":
        source.write_bytes((run / "best" / "model.safetensors").read_bytes())
    elif kind == "pt":
        torch.save(state, source)
    elif kind == "nested":
        torch.save({"model": {f"module.{name}": t for name, t in state.items()}, "step": 3}, source)
    sizes = () if kind == "run" else SMALL  # a run brings its sizes along
    done = pealm(
        "train",
        "char-transformer",
        "--input.text",
        book,
        *sizes,
        "--steps",
        1,
        "--init",
        source,
        "--out",
        tmp_path / "on",
    )
    assert done.code == 0, done.err
    assert first_loss(done.out) == pytest.approx(checkpoint.state_of(run / "best")["val_loss"], abs=1e-3)
    assert "init" in (tmp_path / "on" / "config.toml").read_text()


def test_weights_that_do_not_fit_are_named(pealm: Run, run: Path, book: Path, tmp_path: Path) -> None:
    base = ("train", "char-transformer", "--input.text", book, "--steps", 1, "--out", tmp_path / "on")
    torch.save({"nonsense": torch.zeros(2)}, tmp_path / "w.pt")
    done = pealm(*base, "--init", tmp_path / "w.pt")
    assert done.code == 2 and "is missing" in done.err and "does not fit" in done.err
    other = tmp_path / "other.txt"
    other.write_text("0123456789" * 100)
    done = pealm(
        "train", "char-transformer", "--input.text", other, "--steps", 1, "--init", run, "--out", tmp_path / "on"
    )
    assert done.code == 2 and "is not among" in done.err
    done = pealm("train", "char-bigram", "--input.text", book, "--init", run, "--out", tmp_path / "on")
    assert done.code == 2 and "is a 'char-transformer', no 'char-bigram'" in done.err
    done = pealm(*base, "--init", "nothing-there")
    assert done.code == 2 and "no such run, checkpoint or file of weights" in done.err
    assert not (tmp_path / "on").exists()


class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("pwned",))


def test_a_pickle_that_wants_to_run_code_is_refused(
    pealm: Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in (("evil.pt", pickle.dumps({"model": Evil()})), ("noise.pt", b"\x00\x01 no weights")):
        (tmp_path / name).write_bytes(data)
        done = pealm("train", "char-transformer", "--input.text", book, "--init", name, "--out", tmp_path / "on")
        assert done.code == 2 and name in done.err and len(done.err.splitlines()) == 1
    assert "was refused" in pealm("train", "char-bigram", "--input.text", book, "--init", "evil.pt").err
    assert not (tmp_path / "pwned").exists()
