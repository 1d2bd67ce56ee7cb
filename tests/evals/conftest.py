"""Two small runs over the same characters, and one with another tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LINES = (
    f"{a} {b} fox jumps over the {c} dog.\n" for a in "tma" for b in ("quick", "red") for c in ("lazy", "old", "big")
)
TEXT = "Answer: " + "".join(LINES) * 20


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text.txt, questions.jsonl and the runs a, b and words."""
    from pealm_core import train

    root = tmp_path_factory.mktemp("runs")
    (root / "text.txt").write_text(TEXT)
    questions = [
        {"question": f"the {a} fox jumps over the", "choices": [f"{b} dog", "god yzal"], "answer": 0}
        for a in ("quick", "red")
        for b in ("lazy", "old", "big")
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 32}
    small: dict[str, Any] = {"steps": 6, "batch_size": 8, "eval_tokens": 2000, "warmup_steps": 2, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_CACHE", str(root / "cache"))
        model, text = {"name": "char-transformer", **sizes}, {"text": str(root / "text.txt")}
        train(model, text, out=root / "a", lr=3e-3, **small)
        train(model, text, out=root / "b", lr=3e-2, **small)
        train(model, text, out=root / "words", tokenizer={"name": "bpe", "vocab_size": 300}, **small)
    return root


@pytest.fixture
def lines() -> Callable[[Path], list[dict[str, Any]]]:
    return lambda run: [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
