"""Weights from elsewhere (`--init`) and weights for elsewhere (`pealm convert`)."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import pealm_core
from pealm_core import UserError
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.tensors import read_tensors, without_wrappers

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


def test_a_run_becomes_weights_only_once(pealm: Run, run: Path, tmp_path: Path) -> None:
    done = pealm("convert", run, tmp_path / "w")
    assert done.code == 0 and "MB of weights" in done.out
    assert not (tmp_path / "w" / "optimizer.safetensors").exists()
    assert pealm_core.load(tmp_path / "w").generate("the", seed=1, max_new_tokens=5) == pealm_core.load(run).generate(
        "the", seed=1, max_new_tokens=5
    )
    again = pealm("convert", tmp_path / "w", tmp_path / "w2")  # what wrote nothing is not a success
    assert again.code == 2 and "nothing was written" in again.err and not (tmp_path / "w2").exists()
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
    assert done.code == 2 and "exists already" in done.err and (tmp_path / "full" / "mine").exists()
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
    assert done.code == 2 and "is 'char-transformer', not 'char-bigram'" in done.err
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


@pytest.mark.parametrize(
    "name", ["empty.pt", "noise.pt", "cut.pt", "empty.safetensors", "noise.bin", "fifo", "fifo.pt"]
)
def test_a_file_that_holds_no_weights_is_one_line(pealm: Run, book: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "fifo" in name:
        os.mkfifo(path)
    elif name == "cut.pt":
        torch.save({"weight": torch.zeros(50)}, path)
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_bytes(b"" if "empty" in name else b"\x80\x02 noise")
    done = pealm("train", "char-transformer", "--input.text", book, "--init", path, "--out", tmp_path / "on")
    assert done.code == 2 and name in done.err and len(done.err.splitlines()) == 1
    assert "bug in pealm" not in done.err and not (tmp_path / "on").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.transformer."])
def test_prefixes_of_wrappers_are_stripped(
    pealm: Run, run: Path, book: Path, tmp_path: Path, prefix: str, suffix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in pealm_core.read_checkpoint(run).model.items()}
    source = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, source)
    else:
        save_file({n: t.clone() for n, t in state.items()}, source, {"license": "mit"})
    base = ("train", "char-transformer", "--input.text", book, *SMALL, "--steps", 1, "--init", source)
    done = pealm(*base, "--out", tmp_path / "on")
    assert done.code == 0, done.err
    assert first_loss(done.out) == pytest.approx(checkpoint.state_of(run / "best")["val_loss"], abs=1e-3)


def test_a_models_own_prefixes_stay() -> None:
    one = torch.ones(1)
    assert without_wrappers({"module.w": one}, {"module.w": one}) == {"module.w": one}
    assert without_wrappers({"_orig_mod.module.w": one}, {"module.w": one}) == {"module.w": one}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.n-head", 4), "--model.n-head 4: the weights of --init RUN have 2; leave the option out"),
        (("--model.n-embd", 24), "--model.n-embd 24: the weights of --init RUN have 16"),
        (("--model.n-head", 3), "n-head 3 does not divide n-embd"),
    ],
)
def test_sizes_belong_to_the_weights(
    pealm: Run, run: Path, book: Path, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    base = ("train", "char-transformer", "--input.text", book, "--steps", 1, "--init", run, "--out", tmp_path / "on")
    done = pealm(*base, *options)
    assert done.code == 2 and message.replace("RUN", str(run)) in done.err and len(done.err.splitlines()) == 1
    assert pealm(*base, "--model.n-head", 2, "--model.dropout", 0.1, "--model.block-size", 32).code == 0


def test_names_with_their_distribution_are_the_same_models(pealm: Run, run: Path, book: Path, tmp_path: Path) -> None:
    model = "pealm-char-transformer/char-transformer"
    done = pealm("train", model, "--input.text", book, "--steps", 1, "--init", run, "--out", tmp_path / "on")
    assert done.code == 0, done.err


def spoil(run: Path, value: float) -> None:
    """Give a run best weights with one number of this value."""
    saved = pealm_core.read_checkpoint(run)
    tensors = dict(saved.model)
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 1)
    tensors[name] = tensors[name].clone()
    tensors[name][0] = value
    checkpoint.save(
        run / "best", model=tensors, config=saved.config, tokenizer=saved.tokenizer, state={"step": 8}, replace=True
    )


def test_weights_that_are_no_numbers_are_refused(pealm: Run, run: Path, book: Path, tmp_path: Path) -> None:
    spoil(run, float("nan"))
    base = ("train", "char-transformer", "--input.text", book, "--steps", 1)
    for command in (
        ("convert", run, tmp_path / "w"),
        ("convert", run, tmp_path / "w", "--dtype", "bf16"),
        ("sample", "--ckpt", run),
        (*base, "--init", run, "--out", tmp_path / "on"),
    ):
        done = pealm(*command)
        assert done.code == 2 and "NaN or infinite" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_a_precision_that_can_not_hold_the_weights_is_refused(pealm: Run, run: Path, tmp_path: Path) -> None:
    spoil(run, 1e5)
    done = pealm("convert", run, tmp_path / "w", "--dtype", "fp16")
    assert done.code == 2 and "beyond 65,504, the largest in fp16" in done.err and not (tmp_path / "w").exists()
    assert pealm("convert", run, tmp_path / "w", "--dtype", "bf16").code == 0


def test_what_is_read_can_be_written(run: Path, tmp_path: Path) -> None:
    saved = pealm_core.read_checkpoint(run)
    parts: Any = {"config": saved.config, "tokenizer": saved.tokenizer, "state": saved.state}
    pealm_core.write_checkpoint(tmp_path / "w", model=saved.model, **parts)
    again = pealm_core.read_checkpoint(tmp_path / "w")
    assert again.config == saved.config and again.state == saved.state
    for path in (saved.path / "model.safetensors", *saved.tokenizer.iterdir()):
        assert (again.path / path.relative_to(saved.path)).read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="w exists already"):
        pealm_core.write_checkpoint(tmp_path / "w", model=saved.model, **parts)
    with pytest.raises(UserError, match=r"what was to be written as .*x does not fit the model"):
        pealm_core.write_checkpoint(tmp_path / "x", model={}, **parts)
    assert not (tmp_path / "x").exists()
    vocabulary = pealm_core.load_tokenizer(saved.config, saved.tokenizer)
    sizes = {"name": "char-transformer", "block_size": 16, "n-layer": 1, "n_embd": 16, "n_head": 2}
    pealm_core.write_checkpoint(tmp_path / "y", model=saved.model, config={"model": sizes}, tokenizer=vocabulary)
    short: Any = {"max_new_tokens": 5, "seed": 1}
    texts = {pealm_core.load(path).generate("the", **short) for path in (run, tmp_path / "w", tmp_path / "y")}
    assert len(texts) == 1


def test_a_format_that_writes_nothing_is_no_success(
    pealm: Run, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pealm_gpt2.convert.export_folder", lambda source, target: None)
    done = pealm("convert", run, tmp_path / "w", "--to", "pealm-gpt2/hf")
    assert (
        done.code == 3 and "pealm-gpt2: exporter of format 'pealm-gpt2/hf' wrote nothing" in done.err and not done.out
    )


def test_a_model_too_large_for_memory_is_the_users_choice(pealm: Run, book: Path, tmp_path: Path) -> None:
    sizes = ("--model.n-embd", 10**6, "--model.n-head", 1, "--model.block-size", 16)
    done = pealm("train", "char-transformer", "--input.text", book, *sizes, "--steps", 1, "--out", tmp_path / "r")
    assert done.code == 2 and "model char-transformer does not fit into memory" in done.err
    assert len(done.err.splitlines()) == 1


def test_the_tokenizer_is_that_of_the_weights(pealm: Run, book: Path, tmp_path: Path) -> None:
    """Not the model's default, unless it is asked for."""
    start = ("train", "sprout", "--input.text", book, *SMALL, "--steps", 1)
    assert pealm(*start, "--tokenizer", "bpe", "--tokenizer.vocab-size", 300, "--out", tmp_path / "base").code == 0
    done = pealm(*start, "--init", tmp_path / "base", "--out", tmp_path / "run")
    assert done.code == 0 and "tokenizer bpe →" not in done.out and "vocabulary" not in done.err, done.err
    tokenizers = [pealm_core.load(tmp_path / name).tokenizer for name in ("base", "run")]
    assert tokenizers[0].encode("the quick") == tokenizers[1].encode("the quick")
    done = pealm(*start, "--init", tmp_path / "base", "--tokenizer", "char", "--out", tmp_path / "other")
    assert done.code == 0 and "tokenizer bpe → char: the weights were trained with other tokens" in done.out
    config = tmp_path / "other.toml"
    config.write_text(f'[train]\ninit = "{tmp_path / "base"}"\n')
    done = pealm(*start, "--config", config, "--print-config")
    assert 'name = "bpe"' in done.out and "vocab-size = 300" in done.out
