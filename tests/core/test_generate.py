"""From logits to tokens, and the window as it fills."""

import math
import sys
from pathlib import Path

import pytest
import torch

from pealm_core.generate import generate_ids, next_token, probabilities, start_token, stream_decoder
from pealm_core.settings import Sampling

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Chars, Table

LOGITS = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()


def test_temperature_is_a_power_of_the_probabilities() -> None:
    p = probabilities(LOGITS, Sampling(temperature=0.5))
    squares = torch.tensor([0.25, 0.04, 0.04, 0.01])
    torch.testing.assert_close(p[0], squares / squares.sum())


def test_temperature_zero_is_greedy() -> None:
    assert probabilities(LOGITS, Sampling(temperature=0)).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert next_token(LOGITS, Sampling(temperature=0)).tolist() == [0]


@pytest.mark.parametrize(("k", "kept"), [(1, [1.0, 0, 0, 0]), (4, [0.5, 0.2, 0.2, 0.1]), (9, [0.5, 0.2, 0.2, 0.1])])
def test_top_k(k: int, kept: list[float]) -> None:
    torch.testing.assert_close(probabilities(LOGITS, Sampling(top_k=k))[0], torch.tensor(kept))


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.4, [1.0, 0, 0, 0]),
        (0.65, [5 / 7, 2 / 7, 0, 0]),
        (0.85, [5 / 9, 2 / 9, 2 / 9, 0]),
        (1.0, [0.5, 0.2, 0.2, 0.1]),
    ],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_share(p: float, kept: list[float]) -> None:
    got = sorted(probabilities(LOGITS, Sampling(top_p=p))[0].tolist(), reverse=True)
    assert got == pytest.approx(kept, abs=1e-6)


def test_draws_follow_the_probabilities() -> None:
    draws = next_token(LOGITS.expand(20_000, -1), Sampling(), torch.Generator().manual_seed(0))
    shares = torch.bincount(draws, minlength=4) / 20_000
    assert (shares - LOGITS.exp()[0]).abs().max() < 4 * math.sqrt(0.25 / 20_000)


def test_a_full_window_starts_again_from_its_last_half() -> None:
    successor = torch.full((7, 7), -50.0)
    for i in range(7):
        successor[i, (i + 1) % 7] = 50.0
    model = Table(successor, block_size=4)
    ids = [int(t[0]) for t in generate_ids(model, [0], Sampling(max_new_tokens=8, temperature=0))]
    assert ids == [1, 2, 3, 4, 5, 6, 0, 1]
    assert model.windows == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [3, 4],
        [3, 4, 5],
        [3, 4, 5, 6],
        [6, 0],
    ]


def test_a_long_prompt_keeps_its_last_block() -> None:
    model = Table(torch.zeros(7, 7), block_size=3)
    list(generate_ids(model, [1, 2, 3, 4, 5], Sampling(max_new_tokens=1)))
    assert model.windows == [[3, 4, 5]]


def test_the_seed_decides() -> None:
    model = Table(torch.zeros(7, 7))

    def draw(seed: int) -> list[list[int]]:
        return [t.tolist() for t in generate_ids(model, [0], Sampling(max_new_tokens=20, seed=seed, num_samples=3))]

    assert draw(1) == draw(1) != draw(2)
    rows = list(zip(*draw(1), strict=True))
    assert len(set(rows)) == 3  # the samples of a batch differ


def test_start_token() -> None:
    class Eot(Chars):
        eot_id = 5

    class Newline(Chars):
        def encode(self, text: str) -> list[int]:
            return [3] if text == "\n" else super().encode(text)

    class Neither(Chars):
        def encode(self, text: str) -> list[int]:
            raise ValueError("unknown")

    assert [start_token(t) for t in (Eot(), Newline(), Neither())] == [5, 3, 0]


def test_a_decoder_made_from_decode_never_shows_half_a_character() -> None:
    class Bytes(Chars):
        vocab_size = 256

        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode("utf-8", "replace")

    step = stream_decoder(Bytes())
    pieces = [step(byte) for byte in "aé😀b".encode()]
    assert pieces == ["a", "", "é", "", "", "", "😀", "b"]
