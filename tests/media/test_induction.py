"""scripts/induction.py trains, draws and scores; the docs have its picture and its program."""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_it_trains_and_draws(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("induction", ROOT / "scripts" / "induction.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = script.text(3).splitlines()
    assert len(lines) == 3 and all(line == line[: len(line) // 5] * 5 for line in lines)
    script.MODEL |= {"n_layer": 1, "n_head": 2, "n_embd": 16}
    book = script.text(100)
    script.text = lambda lines: book  # instead of 8,000
    script.train(tmp_path / "run", 2)
    scores = script.draw(tmp_path / "run", tmp_path / "picture.svg")
    assert len(scores) == 1 and len(scores[0]) == 2 and all(0 < score < 1 for score in scores[0])
    assert (tmp_path / "picture.svg").read_text().count("<svg") == 1


def test_the_programs_of_the_page_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prints what the page shows; the second has shipped weights in place of the trained ones."""
    page = (ROOT / "docs" / "induction-heads.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    import pealm_core

    monkeypatch.chdir(ROOT)
    exec(compile(first[0], "page", "exec"), {})
    assert rounded(capsys.readouterr().out) == rounded(first[1])
    lm = pealm_core.load(ROOT / "weights" / "sprout-stories", device="cpu")
    monkeypatch.setattr(pealm_core, "load", lambda path: lm)
    exec(compile(second[0], "page", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("tensor([[") and "probability of each letter: [" in printed


def rounded(printed: str) -> str:
    """Without the second decimal, which differs between CPUs."""
    return re.sub(r"\b(?:0|1)\.\d\d\b", lambda number: f"{float(number[0]):.1f}", printed)


def test_the_picture_of_the_lookup(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "induction.py"))
    script["draw_lookup"](ROOT / "weights" / "sprout-kindergarten", tmp_path / "lookup.svg")
    assert (tmp_path / "lookup.svg").read_text().count("<svg") == 1


def test_heads_look_answers_up_and_none_repeats() -> None:
    import pealm_core

    script = runpy.run_path(str(ROOT / "scripts" / "induction.py"))
    lm = pealm_core.load(ROOT / "weights" / "sprout-kindergarten", device="cpu")
    scores = script["lookups"](lm, 60)
    assert sum(map(len, scores.values())) == 2 * len(scores["all"]) > 40
    assert (sum(scores["all"]) / len(scores["all"])).max() > 0.1  # evenly spread: 0.02
    assert script["repetition"](lm).max() < 0.03
