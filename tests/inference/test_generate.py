"""From logits to tokens, and the window as it fills."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.config.settings import Sampling
from pealm_core.inference.generate import (
    Stopper,
    generate_ids,
    generate_steps,
    start_token,
    stream_decoder,
)
from pealm_core.inference.kv_cache import KVCache
from pealm_core.inference.sampling import next_token, probabilities

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Chars, Table

LOGITS = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()


def test_temperature_is_a_power_of_the_probabilities() -> None:
    p = probabilities(LOGITS, Sampling(temperature=0.5))
    squares = torch.tensor([0.25, 0.04, 0.04, 0.01])
    torch.testing.assert_close(p[0], squares / squares.sum())


def test_temperature_zero_is_greedy() -> None:
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


@pytest.mark.parametrize(
    ("p", "kept"), [(0.1, [0.5, 0.2, 0.2, 0.1]), (0.3, [5 / 9, 2 / 9, 2 / 9, 0]), (0.5, [1.0, 0, 0, 0])]
)
def test_min_p_keeps_what_has_a_share_of_the_likeliest(p: float, kept: list[float]) -> None:
    torch.testing.assert_close(probabilities(LOGITS, Sampling(min_p=p))[0], torch.tensor(kept))


def test_cuts_follow_one_another() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # top-k leaves 4/9, 3/9, 2/9, of which the first two make up 0.7; min-p leaves those of 3/4 and more
    found = probabilities(logits, Sampling(top_k=3, top_p=0.7, min_p=0.7))[0]
    torch.testing.assert_close(found, torch.tensor([4 / 7, 3 / 7, 0, 0]))
    assert probabilities(logits, Sampling(top_k=3, top_p=0.7, min_p=0.8))[0].tolist() == [1, 0, 0, 0]


def test_the_repetition_penalty_is_ctrls() -> None:
    logits, seen = torch.tensor([[2.0, 1.5, -1.0, -1.5]]), torch.tensor([[True, False, True, False]])
    sampling = Sampling(repetition_penalty=2.0)
    expected = torch.tensor([1.0, 1.5, -2.0, -1.5]).softmax(-1)
    torch.testing.assert_close(probabilities(logits, sampling, seen)[0], expected)
    assert next_token(logits, Sampling(repetition_penalty=2.0, temperature=0), seen=seen).tolist() == [1]


def test_the_penalty_counts_the_prompt_and_what_was_drawn() -> None:
    model = Table(torch.tensor([4.0, 3.9, 3.8, 3.7, 0, 0, 0]).expand(7, 7).clone(), block_size=3)
    sampling = Sampling(max_new_tokens=4, temperature=0, repetition_penalty=4.0)
    found = [ids.tolist() for ids, _ in generate_steps(model, [[0, 5, 5, 5], [1, 5, 5, 5]], sampling)]
    assert found == [[1, 0], [2, 2], [3, 3], [0, 0]]  # also what has left the window; then all are penalised


def test_draws_follow_the_probabilities() -> None:
    noise = torch.empty(20_000, 4).exponential_(generator=torch.Generator().manual_seed(0))
    draws = next_token(LOGITS.expand(20_000, -1), Sampling(), noise)
    assert torch.equal(
        draws, torch.multinomial(LOGITS.exp().expand(20_000, -1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    )
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


def test_prompts_and_samples_of_a_batch_stand_side_by_side() -> None:
    successor = torch.full((7, 7), -50.0)
    for i in range(7):
        successor[i, (i + 1) % 7] = 50.0
    model = Table(successor, block_size=4)
    sampling = Sampling(max_new_tokens=6, temperature=0, num_samples=2)
    ids = [ids.tolist() for ids, _ in generate_steps(model, [[0, 1], [3, 4]], sampling)]
    assert ids == [[(2 + i) % 7] * 2 + [(5 + i) % 7] * 2 for i in range(6)]


def test_no_new_tokens_run_no_model() -> None:
    model = Table(torch.zeros(7, 7))
    assert list(generate_ids(model, [0], Sampling(max_new_tokens=0))) == [] == model.windows


def test_a_cache_gives_the_rows_that_are_asked_for() -> None:
    cache = KVCache(n_layer=2, batch=3, n_head=1, length=4, head_dim=1)
    rows = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    for layer in range(2):
        cache.append(layer, rows, 10 * rows)
    cache.advance(1)
    picked, doubled = cache.select(torch.tensor([2, 0, 2, 1])), cache.repeat(2)
    new = torch.zeros(4, 1, 1, 1)
    keys, values = picked.append(1, new, new)
    assert keys[:, 0, :, 0].tolist() == [[3, 0], [1, 0], [3, 0], [2, 0]] and values[0, 0, 0, 0] == 30
    keys, _ = doubled.append(0, torch.zeros(6, 1, 1, 1), torch.zeros(6, 1, 1, 1))
    assert keys[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert (cache.length, picked.length, doubled.length) == (1, 1, 1)


PIECES = {
    "in a piece": (["ab END c"], ["END"], "ab "),
    "across pieces": (["ab E", "N", "D c", "more"], ["END"], "ab "),
    "a false start": (["EN", "EEN", "Dx"], ["END"], "ENE"),
    "the first of several": (["one two", " three"], ["three", "two"], "one "),
    "never": (["ab E", "N"], ["END"], "ab EN"),
    "at once": (["END"], ["END"], ""),
    "a newline": (["line", "\n", "next"], ["\n"], "line"),
    "its own start": (["aaaab"], ["aab"], "aa"),
}


@pytest.mark.parametrize("case", PIECES)
def test_a_stop_string_is_never_shown_nor_a_part_of_it(case: str) -> None:
    pieces, stops, text = PIECES[case]
    for parts in (pieces, list("".join(pieces))):
        stopper, shown = Stopper(stops), ""
        for part in parts:
            shown += stopper.feed(part)
            assert text.startswith(shown)
        assert shown + stopper.flush() == text
        assert stopper.done == (case != "never")


def test_text_that_starts_no_stop_string_is_not_held_back() -> None:
    assert Stopper(["END"]).feed("ab") == "ab" and Stopper([]).feed("E") == "E"


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

        def decode(self, ids: Any) -> str:
            return bytes(ids).decode("utf-8", "replace")

    step = stream_decoder(Bytes())
    pieces = [step(byte) for byte in "aé😀b".encode()]
    assert pieces == ["a", "", "é", "", "", "", "😀", "b"]
