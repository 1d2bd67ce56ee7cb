"""Each file of examples/ trains 20 steps, resumes to the bit, and learns with two processes what it learns with one."""

import ast
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import pealm_core

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
SIZES = "--model.block-size 16 --model.n-layer 1 --model.n-embd 16 --model.n-head 2"
QUICK = "--steps 20 --batch-size 4 --save-every 10 --eval-every 10 --eval-tokens 200 --warmup-steps 4 --lr 0.01"
EXACT = "--dtype fp32 --device cpu"
MODEL = "model.safetensors"
CLOCKS = {"seconds", "tokens_per_second"}

# Runs by name: their file, and the command line after `train`, run in a folder with the texts and the teacher.
RUNS = {
    "experts": ("mixture_of_experts", f"moe {SIZES} --input.text book.txt"),
    "messages": ("messages", f"char-transformer {SIZES} --input.messages talk.jsonl"),
    "schedule": (
        "inverse_sqrt_cooldown",
        f"char-transformer {SIZES} --input.text book.txt --schedule inverse-sqrt-cooldown",
    ),
    "z-loss": ("z_loss", f"char-transformer {SIZES} --input.text book.txt --objective z-loss"),
    "distillation": (
        "distillation",
        f"char-transformer {SIZES} --input.text book.txt --objective distillation --objective.teacher teacher",
    ),
    "mixture": ("", f"char-transformer {SIZES} --config {EXAMPLES / 'mixture.toml'}"),
    "csv": ("csv_logger", f"char-transformer {SIZES} --input.text book.txt"),
    "bytes": ("byte_tokenizer", f"char-transformer {SIZES} --input.text book.txt --tokenizer bytes"),
    "diffusion": (
        "masked_diffusion",
        f"bidirectional {SIZES} --input.text book.txt --objective masked-diffusion",
    ),
    "lora": ("lora", "char-transformer --input.text book.txt --init teacher --adapter low-rank"),
}
COMMANDS = ["look_inside"]  # files that train nothing


def plugin(file: str) -> list[str]:
    return ["--plugin", str(EXAMPLES / f"{file}.py")] if file else []


def line(name: str, out: Path) -> list[str]:
    file, words = RUNS[name]
    return [*plugin(file), "train", *words.split(), *QUICK.split(), *EXACT.split(), "--out", str(out)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Texts, conversations, a teacher, and a run of each example in runs/. Also the working directory."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    (folder / "plays.txt").write_text("all the world's a stage. " * 100)
    (folder / "letters.txt").write_text("dear friend, thank you. " * 100)
    turns = [[f"what is {n} and 1?", f"{n + 1}"] for n in range(40)]
    roles = ("user", "assistant")
    talks = [[{"role": role, "content": text} for role, text in zip(roles, turn, strict=True)] for turn in turns]
    (folder / "talk.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    for file in FILES:
        sys.modules.pop(file.stem, None)


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    """The runs that exist already."""
    return {}


@pytest.fixture
def run_of(pealm: Callable[..., Any], folder: Path, trained: dict[str, Path]) -> Callable[[str], Path]:
    """Return the run of an example, which is trained at the first use."""

    def train(name: str) -> Path:
        if name not in trained:
            out = folder / "runs" / name
            if name in ("distillation", "lora") and not (folder / "teacher").exists():
                teacher = f"train char-transformer {SIZES} --input.text book.txt {QUICK} --out teacher"
                assert pealm(*teacher.split()).code == 0
            done = pealm(*line(name, out))
            assert done.code == 0 and "continues without" not in done.err, done.err
            trained[name] = out
        return trained[name]

    return train


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in lines]


def test_every_example_is_here_and_uses_public_names_only() -> None:
    assert {file for file, _ in RUNS.values() if file} | {*COMMANDS} == {file.stem for file in FILES}
    for file in FILES:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [module for module in modules if module.startswith("pealm_") and module != "pealm_core"], file
            if isinstance(node, ast.ImportFrom) and node.module == "pealm_core":
                assert all(hasattr(pealm_core, alias.name) for alias in node.names), file
        assert f"pealm --plugin examples/{file.name} " in (ast.get_docstring(tree) or ""), file


def test_the_docs_list_every_example_with_its_lines() -> None:
    table = re.findall(r"\(\.\./examples/([\w.]+)\) \| (\d+) \|", (ROOT / "docs" / "plugins.md").read_text())
    files = [*FILES, EXAMPLES / "mixture.toml"]
    assert {name: int(lines) for name, lines in table} == {
        file.name: len(file.read_text().splitlines()) for file in files
    }


@pytest.mark.parametrize("name", RUNS)
def test_it_learns_and_resumes_to_the_bit(
    name: str, run_of: Callable[[str], Path], pealm: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    straight, resumed = run_of(name), tmp_path / "resumed"
    lines = rows(straight)
    assert [row["step"] for row in lines] == list(range(21))
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000020")
    if json.loads((straight / "best" / "state.json").read_text())["step"] == 20:
        shutil.rmtree(resumed / "best")
    done = pealm(*plugin(RUNS[name][0]), "train", "--out", resumed)
    assert done.code == 0 and "resuming from" in done.out and "continues without" not in done.err, done.err
    assert rows(resumed) == lines
    paths = [path.relative_to(straight) for path in straight.rglob("*.safetensors")]
    for path in (*paths, Path("metrics.csv"), Path("samples.jsonl")):
        if (straight / path).exists():
            assert (straight / path).read_bytes() == (resumed / path).read_bytes(), path
    assert Path("checkpoints/step-00000020/model.safetensors") in paths


TWO = """
import json, os, sys
from pealm_core.cli import main

end, os._exit = os._exit, sys.exit  # which `main` calls after each command
for words in json.loads(sys.argv[1]):
    os.environ["PEALM_PLUGINS"] = ""
    try:
        main(words)
    except SystemExit as error:
        if error.code:
            end(error.code)
import torch.distributed as dist
dist.barrier()
end(0)
"""


@pytest.fixture
def pairs(folder: Path, run_of: Callable[[str], Path]) -> Callable[[str], Path]:
    """Return the run of an example by two processes, each with two passes a step. One torchrun trains all of them."""

    def train() -> None:
        run_of("distillation")  # its teacher
        (folder / "two.py").write_text(TWO)
        lines = [[*line(name, folder / "pairs" / name), "--micro-batch-size", "1"] for name in RUNS]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PEALM_DISABLE_PLUGINS": "report"}
        command = [*torchrun, str(folder / "two.py"), json.dumps(lines)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "continues without" not in done.stderr, done.stderr[-3000:]

    def pair(name: str) -> Path:
        if not (folder / "pairs").exists():
            train()
        return folder / "pairs" / name

    return pair


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_learns(
    name: str, run_of: Callable[[str], Path], pairs: Callable[[str], Path]
) -> None:
    one, two = rows(run_of(name)), rows(pairs(name))
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for own, other in zip(one, two, strict=True):
        assert (own["step"], own["tokens"], own.get("lr")) == (other["step"], other["tokens"], other.get("lr"))
        for key in own:
            tolerance = 1e-3 if key in ("grad_norm", "busiest_expert") else 2e-5
            assert other[key] == pytest.approx(own[key], rel=tolerance), (own["step"], key)


# ---------------------------------------------------------------- what each one is for


def test_the_experts_balance_is_in_the_log_and_not_in_the_validation_loss(run_of: Callable[[str], Path]) -> None:
    lines = rows(run_of("experts"))
    assert all(0.9 < row["balance_loss"] < 2 and 0.25 <= row["busiest_expert"] <= 0.5 for row in lines[1:])
    lm = open_run("mixture_of_experts", run_of("experts"))
    idx = torch.arange(8).reshape(2, 4)
    targets = torch.tensor([[1, -100, 3, 4], [2, 2, -100, -100]])
    loss = lm.model(idx, targets)[1]
    logits = lm.model(idx)[0]
    assert torch.equal(loss, F.cross_entropy(logits[targets >= 0], targets[targets >= 0]))
    lm.model.train()
    _, trained, metrics = lm.model(idx, targets)
    assert trained.item() == pytest.approx(loss.item() + 0.01 * metrics["balance_loss"].item())


def open_run(file: str, run: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_PLUGINS", str(EXAMPLES / f"{file}.py"))
        return pealm_core.load(run, device="cpu", dtype="fp32")


def test_a_mixture_of_experts_passes_the_conformance_kit(
    pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEALM_DISABLE_PLUGINS", raising=False)
    done = pealm(*plugin("mixture_of_experts"), "plugins", "check", "mixture_of_experts")
    assert done.code == 0, done.out


def test_only_the_assistant_is_learned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a reply is that of its tokens and of the token that ends it."""
    module = loaded("messages")
    dataset = module.Messages(module.Config(path=folder / "talk.jsonl", val_every=4))
    train, val = ([*dataset.documents(split)] for split in ("train", "val"))
    assert (len(train), len(val)) == (30, 10)
    assert [(part.special or part.text, part.learn) for part in val[1]] == [
        ("<|user|>", False),
        ("what is 4 and 1?", False),
        ("<|end|>", False),
        ("<|assistant|>", False),
        ("5", True),
        ("<|end|>", True),
    ]


def loaded(file: str) -> Any:
    """Return an example's module."""
    from pealm_core.plugins.loading import PluginHost

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_PLUGINS", str(EXAMPLES / f"{file}.py"))
        PluginHost.installed()
    return sys.modules[file]


@pytest.mark.parametrize("text", ["[1]", "no json", '[{"role": "user"}]', '[{"role": "judge", "content": ""}]'])
def test_a_wrong_conversation_is_named(pealm: Callable[..., Any], folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "talk.jsonl").write_text(f'[{{"role": "user", "content": ""}}]\n{text}\n')
    words = [*plugin("messages"), "train", "char-transformer", "--input.messages", tmp_path / "talk.jsonl"]
    done = pealm(*words, "--out", tmp_path / "r")
    assert done.code == 2 and f"{tmp_path / 'talk.jsonl'}, line 2: not a list of messages" in done.err


def test_a_reply_comes_from_the_command(run_of: Callable[[str], Path], pealm: Callable[..., Any]) -> None:
    done = pealm(*plugin("messages"), "reply", "what is 2 and 1?", "--ckpt", run_of("messages"))
    assert done.code == 0 and done.out.endswith("\n"), done.err


def test_the_rate_falls_as_its_formula_says(run_of: Callable[[str], Path]) -> None:
    rates = [row["lr"] for row in rows(run_of("schedule"))[1:]]
    warm = [0.01 * step / 4 for step in range(1, 5)]
    expected = [0.01 * (1 + n / 200) ** -0.5 * min(1, (1 - n / 16) / 0.2) for n in range(16)]
    assert rates == pytest.approx([*warm, *expected])


def test_the_z_loss_is_in_the_training_loss_alone(run_of: Callable[[str], Path]) -> None:
    plain, z = rows(run_of("csv")), rows(run_of("z-loss"))
    assert z[1]["loss"] == pytest.approx(plain[1]["loss"] + 1e-4 * z[1]["log_z2"], abs=1e-5)
    assert z[0]["val_loss"] == plain[0]["val_loss"]


def test_a_student_gets_closer_to_its_teacher(run_of: Callable[[str], Path]) -> None:
    lines = rows(run_of("distillation"))
    assert lines[-1]["teacher_loss"] < lines[1]["teacher_loss"]
    for row in lines[1:]:
        assert row["loss"] == pytest.approx((row["text_loss"] + row["teacher_loss"]) / 2)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "--objective.teacher RUN is missing"),
        ("--objective.teacher nowhere", "nowhere: no such file or folder"),
        ("--objective.teacher teacher --input.text plays.txt", "the teacher teacher has another tokenizer"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    run_of: Callable[[str], Path], pealm: Callable[..., Any], tmp_path: Path, words: str, reason: str
) -> None:
    run_of("distillation")
    common = f"train char-transformer {SIZES} --input.text book.txt --objective distillation"
    done = pealm(*plugin("distillation"), *common.split(), *words.split(), "--out", tmp_path / "r")
    assert done.code == 2 and reason in done.err


def test_the_csv_has_every_step_and_the_validations(run_of: Callable[[str], Path]) -> None:
    with (run_of("csv") / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = rows(run_of("csv"))[1:]
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in lines]
    assert [row["step"] for row in table if row["val_loss"]] == ["10", "20"]


def test_any_text_is_sampled_from_bytes(run_of: Callable[[str], Path], pealm: Callable[..., Any]) -> None:
    words = ["sample", "--ckpt", run_of("bytes"), "--prompt", "Où ", "-n", 8, "--seed", 1]
    done = pealm(*plugin("byte_tokenizer"), *words)
    assert done.code == 0 and done.out.startswith("Où ")


def test_text_is_unmasked_around_the_prompt(run_of: Callable[[str], Path], pealm: Callable[..., Any]) -> None:
    words = [*plugin("masked_diffusion"), "sample-diffusion", "--ckpt", run_of("diffusion"), "--prompt", "the fox"]
    first, second, third = (pealm(*words, "--steps", 5, "--seed", seed).out for seed in (1, 1, 2))
    assert first == second != third
    assert all(text.startswith("the fox") and len(text) == 17 and "<|mask|>" not in text for text in (first, third))


def test_what_is_masked_depends_on_the_sample_alone() -> None:
    objective = loaded("masked_diffusion").MaskedDiffusion(None, SimpleNamespace(specials={"<|mask|>": 99}))
    batch = {"idx": torch.arange(4000).reshape(400, 10) % 50, "sample": torch.arange(400)}
    all_rows = objective.prepare(batch, 7)
    some = objective.prepare({name: tensor[3:5] for name, tensor in batch.items()}, 7)
    assert torch.equal(some["idx"], all_rows["idx"][3:5])
    counts = all_rows["masked"].sum(1)
    assert torch.equal(all_rows["idx"] == 99, all_rows["masked"])
    assert counts.min() == 1 and counts.max() == 10 and abs(counts.float().mean() - 5.5) < 0.5


def test_a_merged_adapter_needs_no_plugin(
    run_of: Callable[[str], Path], pealm: Callable[..., Any], tmp_path: Path
) -> None:
    merged, ids = tmp_path / "merged", torch.arange(12)[None]
    done = pealm(*plugin("lora"), "convert", run_of("lora"), merged)
    assert done.code == 0, done.err
    assert {name.rpartition(".")[2] for name in load_file(run_of("lora") / "best" / MODEL)} == {"up", "down"}
    whole, adapted = pealm_core.load(merged, device="cpu", dtype="fp32"), open_run("lora", run_of("lora"))
    assert torch.allclose(whole.model(ids)[0], adapted.model(ids)[0], atol=1e-5)
    base = pealm_core.load("teacher", device="cpu", dtype="fp32")
    assert not torch.allclose(whole.model(ids)[0], base.model(ids)[0], atol=1e-3)


@pytest.mark.parametrize("name", ["csv", "experts"])
def test_attention_and_hidden_states_are_kept(
    run_of: Callable[[str], Path], pealm: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    words = ["look-inside", "the fox", "--ckpt", run_of(name), "--out", tmp_path / "inside.safetensors"]
    done = pealm(*plugin("look_inside"), *plugin(RUNS[name][0]), *words)
    assert done.code == 0 and "layer 0: mean norm" in done.out, done.err
    kept = load_file(tmp_path / "inside.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "hidden": (2, 7, 16),
        "attention": (1, 2, 7, 7),
    }
    weights = kept["attention"][0]
    assert torch.allclose(weights.sum(-1), torch.ones(2, 7)) and not weights.triu(1).any()


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_commands_in_its_docstring_are_valid(file: Path, pealm: Callable[..., Any], folder: Path) -> None:
    text = (ast.get_docstring(ast.parse(file.read_text())) or "").replace("\\\n", " ")
    for command in (line.strip() for line in text.splitlines() if line.startswith("    pealm ")):
        words = shlex.split(command.replace("examples/", f"{EXAMPLES}/"))[1:]
        name = words[words.index("train") if "train" in words else 2]
        if name == "train" and "--input" in command:
            done = pealm(*words, "--print-config")
            assert done.code == 0, done.err
        elif name != "train":
            options = pealm(*words[: words.index(name) + 1], "--help").out
            assert all(option in options for option in words if option.startswith("-") and option != "--plugin")
