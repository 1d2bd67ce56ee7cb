"""The plugin: stories as a dataset, and the evaluation against models whose figures are known."""

import json
import math
import os
import string
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pealm_kindergarten as kg
from pealm_char.tokenizer import CharTokenizer
from pealm_core import EvalResult
from pealm_kindergarten.config import StoriesConfig, TellingConfig
from pealm_kindergarten.dataset import Kindergarten
from pealm_kindergarten.evaluator import SCORED, Telling

CONFIG = {"input": {"kindergarten": 1, "stories": 200}}


@cache
def tokenizer() -> CharTokenizer:
    made = CharTokenizer()
    made.fit(Kindergarten(StoriesConfig(stories=3000)).documents("train"))
    return made


def printable() -> CharTokenizer:
    made = CharTokenizer()
    made.fit([string.printable])
    return made


class Teller(torch.nn.Module):
    """Tells given stories, whatever it is asked, and finds every next character equally likely."""

    def __init__(self, stories: list[str], made: CharTokenizer) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=made.vocab_size, block_size=256)
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.texts = [made.encode(story + "\n") for story in stories]

    def forward(self, idx: Any, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        logits = self.zero.detach().expand(*idx.shape, self.config.vocab_size)
        if at != [-1]:
            return logits[:, at], None
        t = idx.shape[1] - 1  # how many characters were told so far
        out = torch.full((len(idx), 1, self.config.vocab_size), -1e9)
        for row in range(len(idx)):
            text = self.texts[row % len(self.texts)]
            out[row, 0, int(text[t]) if t < len(text) else 0] = 0.0
        return (out if len(idx) > 1 else out.clone()), None


class Oracle(torch.nn.Module):
    """Scores each story with `excess` times the nats that the grammar needs for it, all on its first character."""

    def __init__(self, made: CharTokenizer, excess: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=made.vocab_size, block_size=256)
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.tokenizer, self.excess = made, excess

    def forward(self, idx: Any, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        following = idx.roll(-1, dims=1)
        following[:, -1] = int(self.tokenizer.encode("\n")[0])
        logits = torch.nn.functional.one_hot(following, self.config.vocab_size).float().log()
        for row, ids in enumerate(idx.tolist()):
            nats = -self.excess * kg.log_prob(self.tokenizer.decode(ids[1:]).rstrip("\n"))  # padding is id 0
            logits[row, 0] = math.log1p(-math.exp(-nats)) - math.log(self.config.vocab_size - 1)
            logits[row, 0, following[row, 0]] = -nats
        return logits[:, at], None


def evaluate(
    stories: list[str], n: int = 4, config: dict[str, Any] = CONFIG, made: CharTokenizer | None = None
) -> EvalResult:
    made = made or tokenizer()
    return Telling(TellingConfig(stories=n)).evaluate(
        Teller(stories, made), made, config=config, progress=lambda done, total: None
    )


def test_the_dataset_tells_lines_that_never_mix_splits() -> None:
    data = Kindergarten(StoriesConfig(seed=3, stories=500))
    train, val = list(data.documents("train")), list(data.documents("val"))
    assert (len(train), len(val)) == (500, 50)
    assert not set(train) & set(val)
    assert all(text.endswith("\n") and kg.derivations(text[:-1]) == 1 for text in train[:50] + val)
    assert list(data.documents("train")) == train != list(Kindergarten(StoriesConfig(4, 500)).documents("train"))
    assert data.entropy_floor == kg.entropy_floor()


def test_a_uniform_model_is_scored_as_such() -> None:
    result = evaluate([kg.story(9, 0)])
    value, _ = result.metrics["loss (nats per character)"]
    assert value == pytest.approx(math.log(tokenizer().vocab_size), abs=1e-4)
    floor, _ = result.metrics["floor of these stories"]
    assert result.metrics["loss / floor"][0] == pytest.approx(value / floor)
    assert result.metrics["entropy floor"] == (kg.entropy_floor(), 0.0)


def test_the_loss_is_compared_with_the_floor_of_the_same_stories() -> None:
    """A model that needs 1.05 times the grammar's nats for every story has no sampling error in the quotient."""
    made = tokenizer()
    telling, texts = Telling(TellingConfig(stories=20)), list(kg.stories("val", SCORED, 20))
    model = Oracle(made, 1.05)
    telling.tell = lambda *args: texts  # type: ignore[method-assign]  # it can't generate
    for text, nats in zip(texts, telling.losses(model, made, texts, lambda done: None), strict=True):
        assert nats == pytest.approx(-1.05 * kg.log_prob(text), rel=1e-4)
    metrics = telling.evaluate(model, made, config={}, progress=lambda done, total: None).metrics
    assert metrics["loss / floor"] == (pytest.approx(1.05, rel=1e-5), pytest.approx(0, abs=1e-5))
    value, error = metrics["floor of these stories"]
    assert error > 0.01 * value and value == pytest.approx(kg.entropy_floor(), abs=5 * error)
    assert metrics["loss (nats per character)"][0] == pytest.approx(1.05 * value)


class Draws(Oracle):
    """Generates each character with the same probability, or without end the character `only`."""

    def __init__(self, made: CharTokenizer, only: str = "") -> None:
        super().__init__(made, 1.0)
        self.logits = torch.zeros(made.vocab_size)
        if only:
            self.logits[int(made.encode(only)[0])] = 100.0

    def forward(self, idx: Any, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        return self.logits.expand(*idx.shape, -1)[:, at], None


def test_stories_are_drawn_in_batches_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_kindergarten.evaluator.BATCH", 3)
    made, done = tokenizer(), list[int]()

    def tell(model: Draws, **settings: Any) -> list[str]:
        return Telling(TellingConfig(**{"stories": 7, **settings})).tell(model, made, done.append)

    told = tell(Draws(made))
    assert done == [3, 6, 7] and len({*told}) == len(told) == 7
    assert told == tell(Draws(made)) and not {*told} & {*tell(Draws(made), seed=1)}
    assert all("\n" not in text for text in told)
    endless = tell(Draws(made, "a"), stories=2)
    assert endless == ["a" * (kg.max_length() + 1)] * 2 and not any(map(kg.parse, endless))
    assert len({*tell(Draws(made, "a"), temperature=100.0)}) == 7


def test_a_model_that_ends_at_once_gets_zero() -> None:
    metrics = evaluate([""]).metrics
    assert metrics["stories accepted"] == metrics["sentences accepted"] == (0.0, 0.0)


HOSTILE = """On Friday '"'; Ella !"said !! $(touch made) `touch made` \\" > made & ; touch made #"""


@pytest.mark.parametrize("text", [HOSTILE, "--help", "$HOME is 'mine'!", ""])
def test_the_explanation_s_command_can_be_pasted(text: str, tmp_path: Path) -> None:
    """Into a shell with history expansion, as an interactive one."""
    result = evaluate([text], made=printable())
    (line,) = [note.partition("why: ")[2] for note in result.notes if "why: " in note]
    pasted = subprocess.run(
        ["bash", "--norc"],
        input=f"set -o history -H\nexport HOME=/nowhere\n{line}\necho code $?\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=60,
    )
    assert pasted.stdout == f"{kg.explain(text)}\ncode 1\n", pasted.stderr
    assert not list(tmp_path.iterdir())


def test_the_grammars_own_stories_are_accepted_and_new_ones_are_told_from_known_ones() -> None:
    known = next(kg.stories("train", 1, 1))
    result = evaluate([known])
    assert result.metrics["stories accepted"] == (1.0, 0.0)
    assert result.metrics["sentences accepted"][0] == 1.0
    assert result.metrics["accepted ones that are new"] == (0.0, 0.0)
    fresh = next(kg.stories("val", 77, 1))
    assert evaluate([fresh]).metrics["accepted ones that are new"][0] == 1.0
    assert "accepted ones that are new" not in evaluate([fresh], config={}).metrics


def test_a_spoilt_story_counts_by_its_sentences_and_is_shown() -> None:
    whole = kg.story(9, 1)
    spoilt = whole.replace(". ", ". Hello there. ", 1)
    sentences = len(kg.check_sentences(spoilt))
    result = evaluate([spoilt])
    assert result.metrics["stories accepted"][0] == 0.0
    assert result.metrics["sentences accepted"][0] == pytest.approx((sentences - 1) / sentences)
    assert any("Hello there." in line for line in result.notes)


def test_a_run_shows_the_floor_and_its_evaluation(pealm: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "r"
    args = ("--input.kindergarten", 7, "--input.stories", 2000, "--steps", 3, "--eval-tokens", 500, "--out", run)
    result = pealm("train", "char-bigram", *args)
    assert result.code == 0, result.err
    assert f"(floor {kg.entropy_floor():.4f})" in result.out and "no model can do better" in result.out
    z_loss = Path(__file__).resolve().parents[2] / "examples" / "z_loss.py"
    other = pealm("--plugin", z_loss, "train", "char-bigram", "--objective", "z-loss", *args[:-1], tmp_path / "z")
    assert other.code == 0 and "(floor" not in other.out  # it is the floor of the plain loss alone
    output = tmp_path / "e.json"
    result = pealm("eval", "--ckpt", run, "--on", "kindergarten", "--eval.stories", 3, "--output", output)
    assert result.code == 0, result.err
    metrics = json.loads(output.read_text())["metrics"]
    assert metrics["entropy floor"]["value"] == pytest.approx(kg.entropy_floor())
    assert metrics["loss / floor"]["value"] > 10


def test_a_model_that_never_saw_the_letters_gets_one_line(
    pealm: Callable[..., Any], book: Path, tmp_path: Path
) -> None:
    assert pealm("train", "char-bigram", "--input.text", book, "--steps", 2, "--out", tmp_path / "r").code == 0
    result = pealm("eval", "--ckpt", tmp_path / "r", "--on", "kindergarten", "--eval.stories", 2)
    assert result.code == 2 and "--on kindergarten: character" in result.err
