"""The command and the evaluator pass the conformance kit, and count correctly."""

from pathlib import Path
from typing import Any

import pytest

from pealm_testing import CommandConformance, EvaluatorConformance
from pealm_wordcount.words import count, words


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("One, two -- two; it's three three THREE!")
    return path


class TestCommand(CommandConformance):
    spec = "wordcount"

    @pytest.fixture
    def arguments(self, text: Path) -> list[str]:
        return [str(text), "--top", "2"]

    def test_output(self) -> None:
        ended = self.run(*self.arguments)
        assert ended.out.split() == ["7", "words,", "4", "different", "ones", "3", "three", "2", "two"]


class TestEvaluator(EvaluatorConformance):
    spec = "wordcount"

    @pytest.fixture
    def config(self, text: Path) -> dict[str, Any]:
        return {"text": text, "samples": 3, "tokens": 20}


def test_words(text: Path) -> None:
    assert count(text) == {"one": 1, "two": 2, "it's": 1, "three": 3}
    assert words("naïve café 42 x_y") == ["naïve", "café", "x", "y"]
