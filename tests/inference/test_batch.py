"""Texts of different lengths in one batch, and guessed tokens: each text is the one that it would be alone."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core import ContinuousBatch, KVCache, Sampling
from pealm_core.inference import kv_cache
from pealm_core.inference.batch import Guess
from pealm_core.inference.generate import generate_steps
from pealm_core.inference.kv_cache import RaggedCache, UnsupportedError
from pealm_core.inference.kv_cache import _gather as gather
from pealm_core.inference.lm import LM, Sample

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Chars, Table, Windowed
from test_recorded_pass import MODELS, SIZES

LENGTHS = (1, 5, 5, 32, 40, 31)  # the block has 32
SAMPLINGS = {
    "greedy": Sampling(max_new_tokens=28, temperature=0, num_samples=2),
    "seeded": Sampling(max_new_tokens=28, seed=5, num_samples=2, repetition_penalty=1.3, top_k=9),
}


def sprout() -> Any:
    from pealm_sprout.config import SproutConfig
    from pealm_sprout.model import Sprout

    return Sprout(SproutConfig(**SIZES, ngram=3, smear=5))


def strange() -> Any:
    """A model that asks its cache for `length`, as one that knows nothing of rows of different lengths."""
    model = MODELS["gpt2"]()
    forward = model.forward

    def run(idx: Any, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        assert cache is None or cache.length >= 0
        return forward(idx, targets, cache=cache, at=at)

    model.forward = run
    return model


MAKERS = {**MODELS, "sprout": sprout, "a stranger": strange}


def make(name: str) -> Any:
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(31, (length,), generator=generator).tolist() for length in LENGTHS]


def write(model: Any, texts: Sequence[Sequence[int]], sampling: Sampling) -> list[tuple[int, ...]]:
    steps = [ids.tolist() for ids, _ in generate_steps(model, texts, sampling)]
    return [*zip(*steps, strict=True)]


@contextmanager
def passes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of the model's inputs."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    yield shapes
    hook.remove()


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_row_is_the_same_alone_and_beside_rows_of_other_lengths(name: str, kind: str) -> None:
    model, sampling = make(name), SAMPLINGS[kind]
    with passes(model) as shapes:
        rows = write(model, prompts(), sampling)
    alone = [row for prompt in prompts() for row in write(model, [prompt], sampling)]
    assert rows == alone and len(rows) == 12
    joined = [shape for shape in shapes if shape[1] == 1 and shape[0] > 4]
    assert (len(joined) > 1) == (name != "a stranger")  # which is tried once


@pytest.mark.parametrize("samples", [1, 2])
def test_a_cache_with_its_own_attention_is_used_as_it_is(samples: int) -> None:
    """It inherits `join`, and could be recorded, but both would attend to what its own attention hides."""
    model = Windowed(block_size=80).eval()
    sampling = Sampling(max_new_tokens=40, temperature=0, num_samples=samples)
    for texts in ([[1, 2, 3]], [[1, 2, 3], [4, 5, 6, 7, 8, 9]]):
        wanted = [*generate_steps(model, texts, sampling, use_cache=False)]
        assert write(model, texts, sampling) == [*zip(*(ids.tolist() for ids, _ in wanted), strict=True)]


def test_a_seeded_text_is_the_same_after_others_have_ended() -> None:
    model, sampling, texts = make("gpt2"), SAMPLINGS["seeded"], [[1, 2], [3, 4]]
    whole, active, some = write(model, texts, sampling), {*range(4)}, list[list[int]]()
    for step, (ids, _) in enumerate(generate_steps(model, texts, sampling, active=active)):
        some.append(ids.tolist())
        active -= {0, 2} if step == 2 else set()
    assert [*zip(*some[3:], strict=True)] == [whole[1][3:], whole[3][3:]]


# Requests that join and end between two steps.

REQUESTS = {
    "greedy": Sampling(max_new_tokens=40, temperature=0),
    "seeded": Sampling(max_new_tokens=9, seed=5, num_samples=3, top_k=9),
    "penalized": Sampling(max_new_tokens=25, seed=6, repetition_penalty=1.5, temperature=0.7),
    "long": Sampling(max_new_tokens=31, seed=7, top_p=0.9),
}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "a stranger"])
def test_a_request_is_the_same_alone_and_among_others(name: str, use_cache: bool) -> None:
    model, batch = make(name), ContinuousBatch(make(name), use_cache=use_cache)
    waiting, texts = [*enumerate(REQUESTS.values())], dict[Any, list[int]]()
    added = []

    def step(new: Sequence[Any] = ()) -> None:
        rows, ids, logits = batch.step(new)
        assert len(rows) == len(ids) == len(logits) and {*new} <= {*rows}
        for row, token in zip(rows, ids.tolist(), strict=True):
            texts[row].append(token)

    for count in range(200):
        if waiting and count % 3 == 0:
            number, sampling = waiting.pop(0)
            added.append(batch.add([prompts()[number]], sampling))
            texts |= {row: [] for row in added[-1]}
            if number % 2:
                step(added[-1])  # the others' next tokens come later
                assert all(len(texts[row]) == 1 for row in added[-1])
        if count == 5:
            extra = batch.add([[1] * 32], REQUESTS["long"])
            texts |= {row: [] for row in extra}
        if count == 8:
            batch.end(extra)  # in the midst
        if count > 8 and all(row.remaining <= 0 for row in texts):
            break
        step()
    batch.end(())
    assert len(texts[extra[0]]) == 3 and not batch._batch._parts  # no cache stays in memory
    for prompt, sampling, own in zip(prompts(), REQUESTS.values(), added, strict=False):
        assert [tuple(texts[row]) for row in own] == write(model, [prompt], sampling)


def test_requests_share_passes() -> None:
    model = make("gpt2")
    batch = ContinuousBatch(model)
    with passes(model) as shapes:
        batch.add([[1, 2, 3]], Sampling(max_new_tokens=9, temperature=0))
        batch.step()
        batch.add([[1, 2, 3, 4], [5]], Sampling(max_new_tokens=3, temperature=0))
        batch.add([[5]], Sampling(max_new_tokens=3, temperature=0))
        for _ in range(7):
            batch.step()
    assert sorted(shapes[:5]) == [(1, 1)] * 3 + [(1, 3), (1, 4)] and shapes[5:] == [(4, 1)] * 2 + [(1, 1)] * 4


@torch.inference_mode()
def spoil(cache: Any, row: int) -> None:
    for layer in cache._layers:
        for tensor in layer:
            tensor[row] = math.nan


def test_new_rows_take_the_places_of_ended_ones() -> None:
    """Each text is the one that it is alone, nothing of an ended row reaches it, and caches are seldom copied."""
    model, sampling, copies = make("llama"), Sampling(max_new_tokens=20, temperature=0), list[int]()
    batch, texts = ContinuousBatch(model), dict[Any, list[int]]()
    step = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "_gather", lambda parts: (copies.append(step), gather(parts))[1])
        for step in range(120):
            if step % 4 == 0:
                (row,) = batch.add([[step % 31] * (1 + step % 3)], sampling)
                texts[row] = []
            for part in batch._batch._parts[:1]:
                for place, old in enumerate(part.rows):
                    if old.remaining <= 0:
                        spoil(part.cache, place)
            rows, ids, _ = batch.step()
            for row, token in zip(rows, ids.tolist(), strict=True):
                texts[row].append(token)
    assert len(texts) == 30 and len([step for step in copies if step > 20]) <= 4, copies
    for step, text in zip(range(0, 120, 4), texts.values(), strict=True):
        assert write(model, [[step % 31] * (1 + step % 3)], sampling)[0][: len(text)] == tuple(text)


def test_a_place_is_refused_where_there_is_no_room() -> None:
    def cache(rows: int, tokens: int, length: int) -> KVCache:
        made = KVCache(n_layer=1, batch=rows, n_head=1, length=length, head_dim=2)
        made.append(0, *torch.randn(2, rows, 1, tokens, 2))
        made.advance(tokens)
        return made

    long = cache(3, 4, 9)
    assert long.put([1], cache(1, 5, 9)) is None  # longer than all
    assert long.put([1], cache(1, 2, 8)) is None  # 6 more tokens, where 5 fit
    put = long.put([2, 0], new := cache(2, 2, 7))
    assert put is not None and put._places() == ([2, 0, 2], 4, 9)
    torch.testing.assert_close(put._layers[0][0][[2, 0], :, 2:4], new._layers[0][0][:, :, :2])
    assert not put._layers[0][1][[2, 0], :, :2].any()


def test_rows_that_ended_leave_the_batch() -> None:
    model, active = make("gpt2"), {*range(8)}
    with passes(model) as shapes:
        for step, (ids, logits) in enumerate(
            generate_steps(
                model,
                [[i] * (i + 1) for i in range(8)],
                dataclasses.replace(SAMPLINGS["greedy"], num_samples=1),
                active=active,
            )
        ):
            assert len(ids) == len(logits) == len(active)
            active -= {step}
    assert step == 7 and shapes[8:] == [(7, 1), (7, 1), (5, 1), (5, 1), (3, 1), (2, 1), (1, 1)]


def test_a_finished_text_does_not_change_the_others() -> None:
    logits = torch.full((7, 7), -50.0)
    for i in range(7):
        logits[i, (i + 1) % 7] = 50.0
    lm, samples = LM(Table(logits), Chars(), {}), [Sample() for _ in range(3)]
    sampling = Sampling(max_new_tokens=9, temperature=0, stop=("fg", "ga"))
    for _ in lm.write([[0], [3, 4], [5, 6, 0, 1, 2]], sampling, samples):
        pass
    assert [sample.text for sample in samples] == ["bcde", "", "de"]
    assert [len(sample.ids) for sample in samples] == [6, 2, 4]


def test_attention_never_sees_what_is_before_a_row() -> None:
    torch.manual_seed(0)

    def cache(rows: int, tokens: int) -> KVCache:
        made = KVCache(n_layer=1, batch=rows, n_head=2, length=12, head_dim=4)
        for part in made._layers[0]:
            part.fill_(math.nan)
        made.append(0, torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4))
        made.advance(tokens)
        return made

    caches = [cache(1, 2), cache(2, 5), cache(1, 5)]
    joined = caches[0].join(caches[1:])
    assert isinstance(joined, RaggedCache)
    for new in (1, 3, 1):
        q, k, v = torch.randn(3, 4, 4, new, 4).unbind()
        k, v = k[:, :2], v[:, :2]  # two queries a key
        found = joined.attend(0, q, k, v)
        assert joined.positions(new)[:, 0].tolist() == [one.length for one in caches for _ in one._layers[0][0]]
        joined.advance(new)
        rows = [slice(0, 1), slice(1, 3), slice(3, 4)]
        alone = [one.attend(0, q[r], k[r], v[r]) for one, r in zip(caches, rows, strict=True)]
        for one in caches:
            one.advance(new)
        torch.testing.assert_close(found, torch.cat(alone))
    for use in (lambda: joined.length, lambda: joined.append(0, k, v)):
        with pytest.raises(UnsupportedError):
            use()
    even = joined.select(torch.tensor([3, 1]))
    assert type(even) is KVCache and even.length == 10
    again = caches[0].join([even])
    assert again._places() == ([3, 0, 0], 10, 15)
    assert joined.select(torch.tensor([0, 0])).length == 7


# Guesses.

REPEATING = [3, 1, 4, 1, 5, 9, 2, 6] * 3


@pytest.mark.parametrize("guess", [1, 16])
@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("name", ["gpt2", "sprout"])
def test_guesses_change_no_token(name: str, kind: str, guess: int) -> None:
    model, one = make(name), dataclasses.replace(SAMPLINGS[kind], num_samples=1)
    for prompt in (REPEATING, [7], prompts()[4]):
        plain = write(model, [prompt], one)
        assert write(model, [prompt], dataclasses.replace(one, speculate=guess)) == plain


def test_guesses_for_one_text_do_not_reach_another() -> None:
    model, one = make("a stranger"), Sampling(max_new_tokens=28, temperature=0)
    texts = [REPEATING, [7]]  # whose caches can't be joined
    assert write(model, texts, dataclasses.replace(one, speculate=4)) == write(model, texts, one)
    batch = ContinuousBatch(model, guess=4)
    first = batch.add(texts[:1], one)
    drawn = {first[0]: list[int]()}
    for step in range(28):
        if step == 9:
            drawn |= {row: [] for row in batch.add(texts[1:], one)}
        rows, ids, _ = batch.step()
        for row, token in zip(rows, ids.tolist(), strict=True):
            drawn[row].append(token)
    alone = [write(model, [text], one)[0] for text in texts]
    assert [tuple(row) for row in drawn.values()] == [alone[0], alone[1][:19]]


def test_a_repeating_text_takes_fewer_passes() -> None:
    model, sampling = make("gpt2"), Sampling(max_new_tokens=60, temperature=0, speculate=16)
    for parameter in model.parameters():
        parameter.data.zero_()  # every token is 0
    with passes(model) as shapes:
        (row,) = write(model, [[5]], sampling)
    assert row == (0,) * 60 and len(shapes) < 30
    with passes(model) as shapes:
        write(model, [[5]], dataclasses.replace(sampling, speculate=0))
    assert len(shapes) == 60


def test_a_cache_that_can_not_be_cut_gets_no_guesses() -> None:
    model = make("gpt2")
    cut = KVCache.cut
    try:
        del KVCache.cut
        with passes(model) as shapes:
            write(model, [REPEATING], Sampling(max_new_tokens=8, temperature=0, speculate=4))
    finally:
        KVCache.cut = cut  # type: ignore[method-assign]
    assert {shape[1] for shape in shapes[1:]} == {1}


def test_guesses_leave_the_distribution_as_it_is() -> None:
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])  # after 0; after others 0.7 for 0
    table = torch.stack([p, *[torch.tensor([0.7, 0.1, 0.1, 0.1])] * 3])
    model = make("gpt2")
    # A bigram with a real cache: the guesses are verified by its logits.
    model.config = dataclasses.replace(model.config, vocab_size=4)
    forward = model.forward

    def run(idx: Any, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        forward(idx, cache=cache)
        return table.log()[idx if at is None else idx[:, at]], None

    model.forward = run
    pairs = torch.zeros(4, 4)
    with passes(model) as shapes:
        (row,) = write(model, [[0]], Sampling(max_new_tokens=1200, seed=1, speculate=4))
    for one, two in zip((0, *row), row, strict=False):
        pairs[one, two] += 1
    seen = pairs.sum(-1, keepdim=True)
    error = (table * (1 - table) / seen).sqrt()
    assert ((pairs / seen - table).abs() < 4 * error).all()
    assert len(shapes) < 1180  # and some guesses were right


def test_wrong_guesses_become_rare() -> None:
    guess, guesses, text, last = Guess(8), 0, list[int](), 0
    for token in range(1000):
        for one in (1, 2, 3, 100 + token):
            text.append(one)
            last = len(guess(text, 8, last))
            guesses += bool(last)
    assert 10 < guesses < 70
