"""Every command of the tutorial works, in the order of the pages and at toy sizes, and prints what the pages show."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
# What makes a command short: (pattern, replacement) on the block of commands.
SHORTER = [
    (r"(pealm train char-bigram .*)", r"\1 --steps 4 --eval-tokens 2000"),
    (r"--steps 2500", "--steps 4 --eval-tokens 2000"),
    (r"--steps 1500", "--steps 3 --eval-tokens 2000"),
    (r"(pealm train --out .*) --steps 1600", r"\1 --steps 4"),
    (r"--steps 500", "--steps 3 --eval-tokens 2000"),
    (r"--steps (200|2000|2500)", "--steps 3 --eval-tokens 2000"),
    (r"--input.questions 5", r"\g<0> --input.stories 60"),
    (r"--input.stories 40000", "--input.stories 60"),
    (r"(-n) (200|150|300|100)", r"\1 8"),
    (r"--on perplexity --input.tinyshakespeare", "--on perplexity --input.text short.txt"),
    (r"(--on kindergarten) --eval.stories 100", r"\1 --eval.stories 4"),
    (r"(--on kindergarten-questions)", r"\1 --eval.questions 8"),
]
SOMETIMES = {
    "step",
    "tokenizing",
    "vocabulary",
    "one",
    "distinct",
    "accepted ones that are new",
}  # lines that depend on the time, the cache, the size


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


outputs = script("docs_outputs")
notebooks = script("docs_notebooks")


def shorter(commands: str) -> str:
    for pattern, replacement in SHORTER:
        commands = re.sub(pattern, replacement, commands)
    return commands


def labels(text: str) -> set[str]:
    """The first word of every line that a command of pealm labels, and the names of metrics (not those of a kind)."""
    return {*re.findall(r"^([a-z-]+:?) ", text, re.MULTILINE), *re.findall(r"^  ([a-z][^:]+?)  ", text, re.MULTILINE)}


@pytest.mark.slow
def test_every_command_works_and_prints_what_is_shown(tmp_path: Path, shakespeare: Path, run_block: Any) -> None:
    made = outputs.prepare(tmp_path, shakespeare)
    env = {name: made[name] for name in ("PEALM_CACHE", "NO_COLOR", "COLUMNS")}
    (tmp_path / "short.txt").write_text(shakespeare.read_text()[:3000])
    used = 0
    for name in outputs.ORDER:
        page = (outputs.TUTORIAL / f"{name}.md").read_text()
        for file, text in outputs.files(page).items():
            (tmp_path / file).write_text(text)
        for step in outputs.steps(page):
            commands = shorter(step.commands)
            printed = run_block(commands, tmp_path, env)
            if "same" in step.how:
                assert step.shown(printed) == step.output, f"{name}: {step.commands}"
            elif step.output is not None and re.match(r"pealm .*\b(train|eval)\b", commands):
                shown, now = labels(step.output) - SOMETIMES, labels(printed) - SOMETIMES
                assert shown <= now, step.commands
                if "eval" in commands and not re.search("first|last", step.how):
                    assert shown == now, step.commands
            used += 1
    assert used >= 25
    sys.modules.pop("one_head", None)


@pytest.mark.parametrize("name", outputs.ORDER)
def test_a_page_has_what_each_page_has(name: str) -> None:
    page = (outputs.TUTORIAL / f"{name}.md").read_text()
    assert re.search(r"^You will ", page, re.MULTILINE) and re.search(
        r"^\*Time on two CPU cores: .+\*$", page, re.MULTILINE
    )
    assert re.search(r"`(pea|pealm_core|plugins)/", page.partition("## Read next")[2])
    assert re.search(r"^!\[.+\]\(.+\.svg\)$", page, re.MULTILINE)
    assert '??? success "Answer"' in page.partition("## Exercise")[2].partition("## Read next")[0]
    for step in outputs.steps(page):
        assert step.output != "", f"{step.commands}: run scripts/docs_outputs.py {name}"


def test_the_lines_that_a_page_keeps() -> None:
    step = outputs.Step("seq 9", "", " first 2, last 1")
    assert step.shown("1\n2\n3\n4\n5\n") == "1\n2\n...\n5\n"
    assert step.shown("1\n2\n3\n") == "1\n2\n3\n"
    assert outputs.Step("seq 9", "", "").shown("\n1  \n2\n") == "1\n2\n"


def notebook(name: str) -> Any:
    return nbformat.reads(notebooks.notebook(outputs.TUTORIAL / f"{name}.md"), as_version=4)


def run(book: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a notebook in a folder; return what its cells print. A cell that fails fails the test."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return ["".join(out.get("text", "") for out in cell.get("outputs", [])) for cell in book.cells]


@pytest.mark.parametrize("name", outputs.ORDER)
def test_a_notebook_has_all_of_its_page(name: str) -> None:
    page, book = (outputs.TUTORIAL / f"{name}.md").read_text(), notebook(name)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"][1:]  # the first one finds the clone
    files = [f"%%writefile {file}\n{text}".strip() for file, text in outputs.files(page).items()]
    assert [cell.source for cell in code if cell.source.startswith("%%writefile")] == files
    shell = [cell for cell in code if cell.source.startswith("%%bash")]
    assert [c.source for c in shell] == [f"%%bash -e\n{step.commands}".strip() for step in outputs.steps(page)]
    shown = ["".join(out.text for out in cell.outputs) for cell in shell]
    assert shown == [step.output or "" for step in outputs.steps(page)]
    assert len(code) == len(files) + len(shell)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "<summary>Answer</summary>" in text and "???" not in text and "<!--" not in text
    assert not re.search(r"\]\((?!https?:|attachment:)", text)


def test_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    book = notebook("neuron")
    book.cells = [cell for cell in book.cells if "python -m pea" not in cell.source]  # it takes three seconds
    (tmp_path / "notes").mkdir()
    shown = ["".join(out.text for out in cell.get("outputs", [])) for cell in book.cells]
    printed = run(book, tmp_path / "notes", monkeypatch)
    pairs = [(was, now) for was, now in zip(shown, printed, strict=True) if was]
    assert len(pairs) == 2 and all(was == now for was, now in pairs)


@pytest.mark.slow
def test_every_notebook_runs(tmp_path: Path, shakespeare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEALM_CACHE", outputs.prepare(tmp_path, shakespeare)["PEALM_CACHE"])
    (tmp_path / "short.txt").write_text(shakespeare.read_text()[:3000])
    for name in outputs.ORDER:
        book = notebook(name)
        for cell in book.cells:
            if cell.source.startswith("%%bash"):
                cell.source = shorter(cell.source)
        run(book, tmp_path, monkeypatch)
