"""Every command of the tutorial works, in the order of the pages and at toy sizes, and prints what the pages show."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_outputs", ROOT / "scripts" / "docs_outputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_outputs"] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


outputs = script()


def labels(text: str) -> set[str]:
    """The first word of every line that a command of pealm labels, and the names of metrics (not those of a kind)."""
    return {*re.findall(r"^([a-z-]+) ", text, re.MULTILINE), *re.findall(r"^  ([a-z][^:]+?)  ", text, re.MULTILINE)}


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
            commands = step.commands
            for pattern, replacement in SHORTER:
                commands = re.sub(pattern, replacement, commands)
            printed = run_block(commands, tmp_path, env)
            if "same" in step.how:
                assert step.shown(printed) == step.output, f"{name}: {step.commands}"
            elif commands.startswith("pealm") and re.search(r"\b(train|eval)\b", commands):
                assert step.output is None or labels(step.output) - SOMETIMES <= labels(printed), step.commands
            used += 1
    assert used >= 25
    sys.modules.pop("one_head", None)


@pytest.mark.parametrize("name", outputs.ORDER)
def test_a_page_has_what_each_page_has(name: str) -> None:
    page = (outputs.TUTORIAL / f"{name}.md").read_text()
    assert re.search(r"^You will ", page, re.MULTILINE)
    assert re.search(r"^!\[.+\]\(.+\.svg\)$", page, re.MULTILINE)
    assert '??? success "Answer"' in page.partition("## Exercise")[2].partition("## Read next")[0]
    for step in outputs.steps(page):
        assert step.output != "", f"{step.commands}: run scripts/docs_outputs.py {name}"


def test_the_lines_that_a_page_keeps() -> None:
    step = outputs.Step("seq 9", "", " first 2, last 1")
    assert step.shown("1\n2\n3\n4\n5\n") == "1\n2\n...\n5\n"
    assert step.shown("1\n2\n3\n") == "1\n2\n3\n"
    assert outputs.Step("seq 9", "", "").shown("\n1  \n2\n") == "1\n2\n"
