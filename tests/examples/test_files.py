"""Each file of examples/ trains 20 steps, resumes to the bit, and learns with two processes what it learns with one."""

import ast
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import pealm_core

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
SIZES = "--model.block-size 16 --model.n-layer 1 --model.n-embd 16 --model.n-head 2"
QUICK = "--steps 20 --batch-size 4 --save-every 10 --eval-every 10 --eval-tokens 200 --warmup-steps 4 --lr 0.01"
EXACT = "--dtype fp32 --device cpu"
CLOCKS = {"seconds", "tokens_per_second"}

# Runs by name: their file, and the command line after `train`, run in a folder with the texts and the teacher.
RUNS = {
    "experts": ("mixture_of_experts", f"moe {SIZES} --input.text book.txt"),
    "messages": ("messages", f"char-transformer {SIZES} --input.messages talk.jsonl"),
    "schedule": (
        "inverse_sqrt_cooldown",
        f"char-transformer {SIZES} --input.text book.txt --schedule inverse-sqrt-cooldown",
    ),
    "ema": ("ema", f"char-transformer {SIZES} --input.text book.txt --sample-every 20"),
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
            if name == "distillation" and not (folder / "teacher").exists():
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


def tensors(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name).tolist() for name in opened.keys()}  # noqa: SIM118 (not a dict)


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
