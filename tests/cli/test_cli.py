"""The command line: help, config, sampling, and one clear line for every mistake."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.cli import command_group

ROOT = Path(__file__).resolve().parents[2]
Pealm = Callable[..., Any]


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained bigram."""
    folder = tmp_path_factory.mktemp("ckpt")
    text = folder / "text.txt"
    text.write_text("hello world\n" * 300)
    args = ["train", "char-bigram", "--input.text", str(text), "--steps", "30", "--out", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "pealm", *args], check=True, capture_output=True)
    return folder / "run"


def test_help_of_every_command(pealm: Pealm) -> None:
    top = pealm("--help").out
    for command in ("train", "sample", "eval", "prepare", "clean", "plugins"):
        assert command in top
        assert pealm(command, "--help").code == 0
    general = pealm("train", "--help").out
    assert "char-bigram" in general and "--input.tinyshakespeare" in general and "--model." not in general
    special = pealm("train", "char-transformer", "--input.text", "x", "--help").out
    for text in ("--model.n-layer INT", "--input.text TEXT", "--input.val-fraction", "--tokenizer.unknown", "--lr"):
        assert text in special


def test_help_follows_the_config_and_the_checkpoint(pealm: Pealm, ckpt: Path, book: Path) -> None:
    page = pealm("train", "--config", ckpt / "config.toml", "--lr", "x", "--help").out
    assert "Model (char-bigram):" in page and "--input.val-fraction" in page and "config.toml]" in page
    assert "Model (char-bigram):" in pealm("sample", "--ckpt", ckpt, "--help").out
    assert "Evaluation (perplexity):" in pealm("eval", "--ckpt", ckpt, "--on", "perplexity", "--help").out
    assert "--optimizer.fused true|false" in pealm("train", "--help").out


def test_help_is_shown_although_the_rest_of_the_line_is_wrong(pealm: Pealm) -> None:
    result = pealm("train", "no-such-model", "--help")
    assert result.code == 0 and "Usage: pealm train" in result.out


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("train", "--help"),
        ("train", "char-transformer", "--input.text", "x", "--help"),
        ("sample", "--help"),
        ("eval", "--help"),
        ("plugins",),
        ("clean", "--help"),
        ("train", "char-transformer", "--input.text", "x", "--model.n-head", "3"),
        ("train", "char-transformer", "--input.text", "x", "--batch-size", "8", "--micro-batch-size", "3"),
        ("sample", "--ckpt", "no-such-folder"),
    ],
)
def test_these_never_import_torch(args: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom pealm_core.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'tiktoken', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "incomplete", "options"),
    [
        ("train char-bigram", "--model.", ["--model.block-size"]),
        ("train char-bigram --input.text x", "--input.v", ["--input.val-fraction"]),
        ("train no-such-model", "--lr", ["--lr"]),
        ("sample", "--temp", ["--temperature"]),
    ],
)
def test_the_shell_completes_options(words: str, incomplete: str, options: list[str]) -> None:
    shell = ShellComplete(command_group.pealm, {}, "pealm", "_PEALM_COMPLETE")
    assert [item.value for item in shell.get_completions(words.split(), incomplete)] == options


def test_python_m_pealm_is_pealm() -> None:
    done = subprocess.run([sys.executable, "-m", "pealm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pealm, version 0.")


def test_print_config_says_where_every_value_comes_from(pealm: Pealm, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[train]\nlr = 0.5\n[input]\ntext = "a.txt"\nval-fraction = 0.2\n')
    out = pealm("train", "char-bigram", "--config", file, "--seed", 7, "--print-config").out
    values = tomllib.loads(out)
    assert (values["train"]["lr"], values["train"]["seed"], values["input"]["val-fraction"]) == (0.5, 7, 0.2)
    rows = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in out.splitlines() if " = " in line}
    assert rows["lr"] == str(file) and rows["seed"] == "command line"
    assert rows["steps"] == "recipe" and rows["eval-every"] == "default"


def test_the_command_lines_dataset_replaces_the_files(pealm: Pealm, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[model]\nname = "char-bigram"\n[input]\ntext = "a.txt"\nval-fraction = 0.2\n')
    out = pealm("train", "--config", file, "--input.tinyshakespeare", "--print-config").out
    assert tomllib.loads(out)["input"] == {"tinyshakespeare": True}


def test_underscores_work_too(pealm: Pealm) -> None:
    out = pealm(
        "train", "char-bigram", "--input.text", "x", "--batch_size", 9, "--input.val_fraction=0.3", "--print-config"
    ).out
    values = tomllib.loads(out)
    assert (values["train"]["batch-size"], values["input"]["val-fraction"]) == (9, 0.3)


def train(*args: object) -> tuple[object, ...]:
    return ("train", "char-transformer", "--input.text", "BOOK", *args)


MISTAKES = {
    "no model": (("train",), "train needs a model: pealm train MODEL; pealm train --help lists"),
    "no input": (("train", "char-bigram"), "train needs an input"),
    "unknown command": (("trian",), "unknown command 'trian'; did you mean 'train'? (commands: train, sample, eval,"),
    "no command like it": (("xyz",), "unknown command 'xyz' (commands: train, sample, eval,"),
    "old flag": (("train", "--model.no-bias", "gpt2", "--input.text", "x"), "unknown option --model.no-bias"),
    "unknown table": (train("--modle.n-layer", 3), "unknown option --modle.n-layer; did you mean '--model.n-layer'?"),
    "vocabulary size": (train("--model.vocab-size", 3), "unknown option --model.vocab-size"),
    "second name": (train("--model.name", "gpt2"), "unknown option --model.name"),
    "old name": (train("--decay-share", 0.5), "unknown option --decay-share (see: pealm train --help)"),
    "no value": (train("--model.n-layer"), "'--model.n-layer' requires an argument"),
    "no value of a field": (train("--input.val-fraction", "--lr", 1), "--input.val-fraction needs a value"),
    "no value of a setting": (train("--lr"), "'--lr' requires an argument"),
    "flag's value": (train("--optimizer.fused", "on"), "--optimizer.fused must be true or false, not 'on'"),
    "two inputs with values": (("train", "char-bigram", "--input.text=x", "--input.tinyshakespeare=x"), "one input at a time"),
    "many layers": (train("--model.n-layer", 10**9), "--model.n-layer must be at most 10,000, not 1000000000"),
    "a large number": (train("--model.n-head", 99999999999999999999), "--model.n-head must be at most 1,000,000,000,000"),
    "a number of 4,000 digits": (train("--model.n-head", "9" * 4000), "--model.n-head must be at most 1,000,000,000,000"),
    "a number of 5,000 digits": (train("--steps", "9" * 5000), "--steps must be a whole number, not '999"),
    "a long name": (train("--out", "x" * 300), ": File name too long"),
    "a long name of a file": (train("--config", "x" * 300), ": can't be read: File name too long"),
    "not UTF-8": (("train", "char-bigram", "--input.text", "\udcff.txt"), "'\\udcff.txt' is not valid UTF-8; rename the file"),
    "device": (train("--config", "/dev/zero"), "/dev/zero: can't be read: not a regular file"),
    "folder": (train("--config", "EMPTY"), "EMPTY: can't be read: not a regular file"),
    "prompt device": (("sample", "--ckpt", "CKPT", "--prompt-file", "/dev/zero"), "/dev/zero: can't be read: not a regular file"),
    "denormal temperature": (("sample", "--ckpt", "CKPT", "--temperature", "1e-39"), "temperature 1e-39 is too small: use 0, or at least 0.0001"),
    "denormal top-p": (("sample", "--ckpt", "CKPT", "--top-p", "1e-320"), "--top-p must be at least 1e-06"),
    "many samples": (("sample", "--ckpt", "CKPT", "--num-samples", 10**9), "--num-samples must be at most 10,000"),
    "many tokens": (("sample", "--ckpt", "CKPT", "-n", 10**11), "--max-new-tokens must be at most 1,000,000,000"),
    "unknown model": (("train", "char-bigrm"), "unknown model 'char-bigrm'; did you mean 'char-bigram'?"),
    "unknown dataset": (("train", "char-bigram", "--input.txt", "x"), "unknown dataset 'txt'; did you mean 'text'?"),
    "unknown input key": (train("--input.val-fractoin", 1), "unknown option --input.val-fractoin; did you mean '--input.val-fraction'?"),
    "unknown tokenizer": (train("--tokenizer", "chars"), "unknown tokenizer 'chars'; did you mean 'char'?"),
    "unknown optimizer": (train("--optimizer", "adam"), "unknown optimizer 'adam'; did you mean 'adamw'?"),
    "unknown option": (train("--model.n-layr", 3), "unknown option --model.n-layr; did you mean '--model.n-layer'?"),
    "unknown flat option": (train("--stepz", 3), "--steps"),
    "unknown preset": (train("--preset", "huge"), "has no preset 'huge'"),
    "two inputs": (train("--input.tinyshakespeare"), "one input at a time"),
    "missing text": (("train", "char-bigram", "--input.text", "none.txt"), "--input.text none.txt: no such file"),
    "not divisible": (train("--batch-size", 12, "--micro-batch-size", 5), "does not divide --batch-size 12; try 4"),
    "heads": (train("--model.n-head", 3), "n-head 3 does not divide n-embd 128; try n-head 2"),
    "block": (train("--block-size", 129), "--block-size 129 is above the model's 128"),
    "negative": (train("--model.n-layer", -1), "--model.n-layer must be at least 1, not -1"),
    "zero": (train("--steps", 0), "--steps must be at least 1, not 0"),
    "nan": (train("--lr", "nan"), "--lr must be finite, not nan"),
    "infinite": (train("--max-seconds", "inf"), "--max-seconds must be finite, not inf"),
    "no number": (train("--lr", "fast"), "--lr must be a number, not 'fast'"),
    "no length": (train("--steps", "none"), "neither max_seconds nor epochs is set, so that training would never end; set one"),
    "seed": (train("--seed", 2**64), "--seed must be at most 9,223,372,036,854,775,807, not 18446744073709551616"),
    "both lengths": (train("--steps", 3, "--max-seconds", 3), "exclude each other"),
    "steps and epochs": (train("--epochs", 3, "--steps", 3), "exclude each other"),
    "no checkpoint": (("sample", "--ckpt", "EMPTY"), "EMPTY is not a checkpoint"),
    "missing checkpoint": (("sample", "--ckpt", "nowhere"), "nowhere: no such file or folder"),
    "other model": (("sample", "char-transformer", "--ckpt", "CKPT"), "is a checkpoint of 'char-bigram', not of"),
    "no weights": (("sample", "char-bigram"), "model 'char-bigram' has no weights of its own: give --ckpt PATH"),
    "nothing to sample": (("sample",), "no model was named: give --ckpt PATH"),
    "bad prompt": (("sample", "--ckpt", "CKPT", "--prompt", "h€"), "character '€' (position 1) is not among the 9"),
    "bad temperature": (("sample", "--ckpt", "CKPT", "--temperature", "-1"), "--temperature must be at least 0, not -1"),
    "bad tokenizer dir": (("sample", "--ckpt", "CKPT", "--tokenizer-dir", "nowhere"), "Directory 'nowhere' does not exist"),
    "no evaluation": (("eval", "--ckpt", "CKPT", "--on", "kindergarden"), "did you mean 'kindergarten'?"),
    "nothing to prepare": (("prepare", "text"), "nothing to prepare"),
    "unknown to prepare": (("prepare", "tinyshakespear"), "did you mean 'tinyshakespeare'?"),
    "unknown plugin": (("plugins", "show", "nothing"), "no plugin 'nothing' is installed"),
    "bad device": (("sample", "--ckpt", "CKPT", "--device", "tpu"), "tpu"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(
    case: str, pealm: Pealm, book: Path, ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "EMPTY").mkdir(parents=True)
    monkeypatch.chdir(work)
    args, words = MISTAKES[case]
    result = pealm(*({"BOOK": book, "CKPT": ckpt}.get(str(arg), arg) for arg in args))
    assert result.code == 2, result.err
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert [p.name for p in work.rglob("*")] == ["EMPTY"]  # nothing half-written


FILES = {
    "two spellings": ("[train]\nbatch-size = 3\nbatch_size = 4\n", "line 3: [train] batch_size and "),
    "nesting": ("a = " + "[" * 5000 + "]" * 5000, "c.toml: bad TOML: "),
    "5,000 digits": ("[train]\nsteps = " + "9" * 5000 + "\n", "c.toml: bad TOML: "),
    "4,000 digits": ("[train]\nsteps = " + "9" * 4000 + "\n", "c.toml, line 2: [train] steps must be at most 1,000,000,000,000"),
    "old name": ("[train]\ndecay-share = 0.5\n", "[train] decay-share: unknown key"),
    "typo": ("[train]\nlr = 0.1\nstpes = 3\n", "c.toml, line 3: [train] stpes: unknown key; did you mean 'steps'?"),
    "type": ('[train]\nlr = "fast"\n', "c.toml, line 2: [train] lr must be a number, not 'fast'"),
    "syntax": ("[train\n", "c.toml: bad TOML"),
    "table": ("[trian]\nlr = 1.0\n", "c.toml, line 1: [trian]: unknown table; did you mean 'train'?"),
    "no table": ("lr = 1.0\n", "lr"),
    "value": ("[model]\nn-layer = -3\n", "c.toml, line 2: [model] n-layer must be at least 1, not -3"),
    "name": ('[model]\nname = 3\n', "unknown model '3'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_mistakes_in_a_config_file_name_file_line_and_key(
    case: str, pealm: Pealm, book: Path, tmp_path: Path
) -> None:
    text, words = FILES[case]
    file = tmp_path / "c.toml"
    file.write_text(text)
    model = () if case == "name" else ("char-transformer",)
    result = pealm("train", *model, "--input.text", book, "--config", file)
    assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1


def test_a_plugins_defect_is_exit_code_3(pealm: Pealm, stranger: Callable[..., None], book: Path) -> None:
    stranger("pealm-owl", "import no_such_module")
    result = pealm("train", "owl", "--input.text", book)
    assert result.code == 3 and "unknown model 'owl'; pealm-owl 1.0 is not loaded: " in result.err
    assert pealm("plugins").code == 0
    shown = pealm("plugins", "show", "owl").out
    assert "ModuleNotFoundError" in shown and "no_such_module" in shown


def test_a_colliding_name_is_an_error_with_the_way_out(
    pealm: Pealm, stranger: Callable[..., None], book: Path, tmp_path: Path
) -> None:
    stranger(
        "pealm-mine",
        """
        from pealm_core import ModelSpec, hookimpl
        @hookimpl
        def pealm_models():
            return ModelSpec(name="char-bigram", summary="Mine", config="pealm_char_bigram.config:BigramConfig",
                             factory="pealm_char_bigram.model:Bigram")
        """,
    )
    result = pealm("train", "char-bigram", "--input.text", book)
    assert result.code == 2 and "say which: pealm-char-bigram/char-bigram or pealm-mine/char-bigram" in result.err
    run = tmp_path / "r"
    assert pealm("train", "pealm-mine/char-bigram", "--input.text", book, "--steps", 2, "--out", run).code == 0
    assert pealm("sample", "--ckpt", run, "-n", 5).code == 0
    assert "conflict" in pealm("plugins").out
    assert "char-bigram" in pealm("train", "--help").out


def test_a_model_of_another_shape_is_named(pealm: Pealm, ckpt: Path, tmp_path: Path) -> None:
    from pealm_core.checkpoints.tensors import read_tensors

    best = checkpoint.find(ckpt)
    tensors, _ = read_tensors(best / "model.safetensors")

    class Other:
        vocab_size = 2

        def save(self, folder: Path) -> None:
            (folder / "chars.json").write_text('"ab"')

    config = tomllib.loads((best / "config.toml").read_text())
    checkpoint.save(tmp_path / "c", model=tensors, config=config, tokenizer=Other(), state={})  # type: ignore[arg-type]
    result = pealm("sample", "--ckpt", tmp_path / "c")
    assert result.code == 2 and "table.weight is (9, 9) there and (2, 2) in the model" in result.err


def test_sampling(pealm: Pealm, ckpt: Path) -> None:
    args = ("sample", "--ckpt", ckpt, "-n", 30, "--seed", 1, "--prompt", "hel")
    streamed, whole = pealm(*args), pealm(*args, "--no-stream")
    assert streamed.code == 0 and streamed.out == whole.out
    assert streamed.out.startswith("hel") and len(streamed.out) == 3 + 30 + 1
    assert "30 tokens" in streamed.err and "tokens/s" in streamed.err
    assert pealm(*args[:-4], "--seed", 2, "--prompt", "hel").out != streamed.out
    several = pealm("sample", "char-bigram", "--ckpt", ckpt / "best", "--max-new-tokens", 5, "--num-samples", 3).out
    assert several.count("--- ") == 3
    named = pealm(*args, "--tokenizer-dir", ckpt / "best" / "tokenizer")
    assert named.out == streamed.out


def test_python_api(ckpt: Path) -> None:
    import pealm_core

    lm = pealm_core.load(ckpt)
    text = lm.generate("hel", max_new_tokens=4, temperature=0)
    assert text.startswith("hel") and len(text) == 7
    assert "".join(lm.stream("hel", max_new_tokens=4, temperature=0)) == text[3:]


def test_a_place_without_rights_is_one_line(pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pealm_core.checkpoints.folder.find", refuse)
    result = pealm("sample", "--ckpt", "theirs/run")
    assert result.code == 2 and result.err.startswith("pealm: theirs/run: Permission denied; choose another path")


def test_a_pipe_is_not_a_config(pealm: Pealm, book: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = pealm("train", "char-bigram", "--input.text", book, "--config", tmp_path / "pipe")
    assert result.code == 2 and "not a regular file" in result.err


def shell(line: str, **env: str) -> tuple[int, str, str]:
    line = line.replace("pealm", f"{sys.executable} -m pealm", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, env={**os.environ, **env})
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@pytest.mark.parametrize("command", ["--help", "train --help", "sample --ckpt {} -n 3", "plugins"])
def test_a_full_or_closed_stdout_is_one_line(command: str, ckpt: Path) -> None:
    line = f"pealm {command.format(ckpt)}"
    code, _, err = shell(f"{line} > /dev/full")
    assert (code, err) == (1, "pealm: standard output: No space left on device\n")
    code, _, err = shell(f"{line} >&-")
    assert (code, err) == (1, "pealm: standard output is closed; redirect it, for instance to /dev/null\n")
    assert shell(f"{line} 2>&- >&-")[0] == 1


def test_a_stdout_of_another_encoding_never_ends_a_command(tmp_path: Path) -> None:
    text, run = tmp_path / "text.txt", tmp_path / "rä"
    text.write_text("€ä " * 400, encoding="utf-8")
    for encoding, line in (
        ("ascii", f"pealm train char-bigram --input.text {text} --steps 2 --sample-every 1 --out {run}"),
        ("latin-1", f"pealm sample --ckpt {run} -n 20 --prompt €"),
        ("ascii", "pealm train --help"),
    ):
        code, _, err = shell(line, PYTHONIOENCODING=encoding)
        assert code == 0, err
    code, out, _ = shell(f"pealm sample --ckpt {run} --prompt € -n 0", PYTHONIOENCODING="latin-1")
    assert (code, out) == (0, "\\u20ac\n")


def test_ctrl_c_during_the_imports_is_one_line() -> None:
    code = (
        "import builtins, signal, os\nfrom pealm_core.cli import main\nload = builtins.__import__\n"
        "def slow(name, *rest):\n    if name == 'click':\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest)\nbuiltins.__import__ = slow\nmain(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pealm: interrupted\n")


@pytest.mark.parametrize("command", ["train char-bigram", "eval --ckpt {} --on perplexity"])
def test_world_size_without_rank_is_one_line(command: str, ckpt: Path, book: Path) -> None:
    line = f"pealm {command.format(ckpt)} --input.text {book}"
    code, _, err = shell(line, WORLD_SIZE="2")
    assert code == 2 and "WORLD_SIZE=2" in err and "no valid place among the processes" in err
    code, _, err = shell(line, WORLD_SIZE="two")
    assert code == 2 and "WORLD_SIZE=two" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16", "auto"])
def test_evaluating_in_another_precision(dtype: str, pealm: Pealm, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("hello world\n" * 20)
    line = (
        "eval",
        "--ckpt",
        ROOT / "weights" / "char-transformer",
        "--on",
        "perplexity",
        "--input.text",
        tmp_path / "t.txt",
    )
    done = pealm(*line, "--dtype", dtype, "--output", tmp_path / "o.json")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "o.json").read_text())
    plain = pealm(*line, "--output", tmp_path / "p.json")
    assert plain.code == 0 and written["dtype"] == dtype
    same = written["metrics"] == json.loads((tmp_path / "p.json").read_text())["metrics"]
    assert same == (dtype != "bf16")


def test_values_that_begin_with_a_dash_belong_to_their_option(pealm: Pealm, ckpt: Path) -> None:
    result = pealm("sample", "--stop", "--", "--ckpt", ckpt, "-n", 5, "--seed", 1)
    assert result.code == 0, result.err
    result = pealm("sample", "--prompt", "- milk", "gpt2-pretrained", "--tokenizer-dir", "nowhere")
    assert result.code == 2 and "Directory 'nowhere' does not exist" in result.err
    assert pealm("sample", f"--ckpt={ckpt}", "-n5", "--", "char-bigram").code == 0


COUNT = """
import click
from pealm_core import CommandSpec, hookimpl

@click.command()
def count():
    return 3

@hookimpl
def pealm_commands():
    return CommandSpec(name="count", summary="Count", command="pealm_count_plugin:count")
"""


def test_what_a_command_returns_is_not_its_exit_code(pealm: Pealm, stranger: Callable[..., None]) -> None:
    stranger("pealm-count", COUNT)
    result = pealm("count")
    assert (result.code, result.out, result.err) == (0, "", "")
