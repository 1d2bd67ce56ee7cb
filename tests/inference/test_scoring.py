"""Scores against closed forms, whatever the batch, the cache, the number of processes."""

import json
import math
import os
import random
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core.inference.kv_cache import KVCache
from pealm_core.inference.scoring import Request, Score, cover, score
from pealm_cpu import products

sys.path.insert(0, str(Path(__file__).parent))
from fakes import Attends, Attention, Config, Table, Uniform, Windowed


def test_a_uniform_model_scores_log_v_for_each_token() -> None:
    model = Uniform(Config(vocab_size=7, block_size=8))
    scores = score(model, [([0], [1, 2, 3]), ([0, 1], [0])])
    assert [s.log_prob for s in scores] == pytest.approx([-3 * math.log(7), -math.log(7)])
    assert [s.tokens for s in scores] == [3, 1]


def test_a_table_scores_the_sum_of_its_log_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 7)
    log_p = logits.log_softmax(-1)
    requests = [([0, 3], [1, 2]), ([5], [6]), ([1, 1, 1, 1], [2, 2, 2])]
    expected = [
        float(log_p[3, 1] + log_p[1, 2]),
        float(log_p[5, 6]),
        float(log_p[1, 2] + log_p[2, 2] + log_p[2, 2]),
    ]
    for batch_tokens in (1, 8, 1000, None):
        got = [s.log_prob for s in score(Table(logits), requests, batch_tokens=batch_tokens)]
        assert got == pytest.approx(expected, abs=1e-5)


def test_greedy_says_whether_argmax_would_write_it() -> None:
    logits = torch.eye(7).roll(1, dims=1) * 9  # i is followed by i + 1
    requests = [([0], [1, 2]), ([0], [1, 3]), ([0], [2]), ([4, 5], [6, 0, 1])]
    assert [s.greedy for s in score(Table(logits), requests)] == [True, False, False, True]


def test_a_long_context_loses_its_left_end() -> None:
    model = Table(torch.zeros(7, 7), block_size=4)
    scores = score(model, [([0, 1, 2, 3, 4, 5], [6, 0]), ([0, 1, 2], [6, 0])])
    assert [3, 4, 5, 6] in model.windows
    assert [s.cut for s in scores] == [3, 0]


def test_a_continuation_longer_than_the_block_is_scored_in_stretches() -> None:
    torch.manual_seed(1)
    logits = torch.randn(7, 7)
    ids = torch.randint(0, 7, (30,)).tolist()
    model = Table(logits, block_size=4)
    [whole] = score(model, [(ids[:3], ids[3:])])
    assert whole.log_prob == pytest.approx(sum(float(logits.log_softmax(-1)[a, b]) for a, b in pairwise(ids[2:])))
    assert (whole.tokens, whole.cut) == (27, 0)


def test_requests_that_cannot_be_scored() -> None:
    model = Uniform(Config(block_size=4))
    for request in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="a request has a context and tokens to score, not"):
            score(model, [request])
    assert score(model, []) == []


class RepeatOnly:
    """A cache with what the contract asks for and no more."""

    def __init__(self, inner: KVCache) -> None:
        self.inner = inner

    def repeat(self, n: int) -> "RepeatOnly":
        return RepeatOnly(self.inner.repeat(n))


class Select(RepeatOnly):
    """A cache that can pick rows."""

    def select(self, index: Tensor) -> "Select":
        return Select(self.inner.select(index))


class Cached(Attention):
    """The same with a cache."""

    def __init__(self, cache_type: Any = Select) -> None:
        super().__init__()
        self.cache_type = cache_type

    def make_cache(self, batch: int, length: int) -> Any:
        return self.cache_type(KVCache(n_layer=1, batch=batch, n_head=2, length=length, head_dim=4))


class Grouped(Attends):
    """The same with a key and value for both queries."""

    heads = 1


class Appends(Attention):
    """The same with a cache whose length it uses, so that requests can't be packed."""

    def forward(self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None) -> Any:
        return super().forward(idx, targets, cache=None if cache is None else Select(cache), at=at)

    def make_cache(self, batch: int, length: int) -> Any:
        return KVCache(n_layer=1, batch=batch, n_head=2, length=length, head_dim=4)


def near(expected: Any) -> Any:
    """Equal to 1e-5, or, as fp32 has seven digits, to one in a million."""
    return pytest.approx(expected, rel=1e-6, abs=1e-5)


def some_requests() -> list[Request]:
    """Four continuations for each of many contexts, some too long, and a few contexts with one."""
    rng = random.Random(5)
    requests: list[Request] = []
    for n in (1, 2, 5, 5, 6, 7, 9, 14, 23, 40):
        context = [rng.randrange(11) for _ in range(n)]
        requests += [(context, [rng.randrange(11) for _ in range(rng.randint(1, 12))]) for _ in range(4)]
    requests += [([rng.randrange(11)], [rng.randrange(11) for _ in range(n)]) for n in (1, 24, 25, 60)]
    examples = [rng.randrange(11) for _ in range(14)]  # questions after the same examples, or after some of them
    for n in (14, 14, 14, 9, 11, 14):
        context = examples[:n] + [rng.randrange(11) for _ in range(rng.randint(0, 3))]
        requests += [(context, [rng.randrange(11) for _ in range(rng.randint(1, 3))]) for _ in range(3)]
    return requests + requests[:2]


@torch.no_grad()
def one_by_one(model: Any, requests: list[Request]) -> list[float]:
    """The definition: each continuation that fits, after as much of its context as fits."""
    found = []
    for context, continuation in requests:
        ids = [*context, *continuation][-(model.config.block_size + 1) :]
        log_p = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[0]
        rows = range(len(ids) - 1 - len(continuation), len(ids) - 1)
        found.append(sum(float(log_p[row, ids[row + 1]]) for row in rows))
    return found


KINDS = [Attention, lambda: Cached(Select), lambda: Cached(RepeatOnly), Attends, Grouped, Appends, Windowed]


@pytest.mark.parametrize("make", KINDS)
def test_the_numbers_are_the_definition_s_whatever_the_batch_and_order(make: Any) -> None:
    model, requests = make(), some_requests()
    fitting = [request for request in requests if len(request[1]) <= 24]
    defined = near(one_by_one(model, fitting))
    assert [s.log_prob for s in score(model, fitting)] == defined
    whole = score(model, requests)
    order = random.Random(0).sample(range(len(requests)), len(requests))
    for batch_tokens in (1, 50, 10_000):
        shuffled = score(model, [requests[i] for i in order], batch_tokens=batch_tokens)
        for place, i in enumerate(order):
            assert shuffled[place].log_prob == near(whole[i].log_prob)
            assert (shuffled[place].tokens, shuffled[place].greedy, shuffled[place].cut) == (
                whole[i].tokens,
                whole[i].greedy,
                whole[i].cut,
            )


def test_a_context_is_run_once_and_only_continuations_get_logits() -> None:
    context, endings = [1] * 12, [[2] * 5, [3] * 5, [4] * 5, [5] * 5]
    model = Cached()
    score(model, [(context, ending) for ending in endings])
    assert (model.seen, model.asked) == (11 + 4 * 5, 4 * 5)
    plain = Attention()
    score(plain, [(context, ending) for ending in endings])
    assert (plain.seen, plain.asked) == (4 * (12 + 4), 4 * 5)


def test_packed_requests_run_what_they_have_in_common_once() -> None:
    rng = random.Random(0)
    examples, questions = [rng.randrange(11) for _ in range(12)], [[a, b] for a in range(11) for b in range(11)]
    requests = [(examples + question, [choice]) for question in questions for choice in (1, 2, 3, 4)]
    model = Attends()
    scores = score(model, requests)
    assert (model.seen, model.asked) == (12 + 11 + 121, 121)  # a beginning of a question is common to eleven
    assert [s.log_prob for s in scores] == near(one_by_one(model, requests))
    small = Attends()  # passes of 24 tokens, each after the examples
    assert [s.log_prob for s in score(small, requests, batch_tokens=24)] == near([s.log_prob for s in scores])
    assert small.seen < 1.1 * model.seen


def test_scores_are_told_as_they_come() -> None:
    requests, told, seen = some_requests(), {}, []
    scores = score(
        Cached(),
        requests,
        each=lambda i, result: told.setdefault(i, []).append(result),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert told == {i: [result] for i, result in enumerate(scores)}
    assert seen == sorted(seen) and seen[-1] == (len(requests), len(requests))


RANK = """
import json, sys
from pathlib import Path
import torch.distributed as dist
sys.path.insert(0, {folder!r})
from test_scoring import Cached, score, some_requests
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
model = Cached()
result = [[s.log_prob, s.tokens, s.greedy, s.cut] for s in score(model, some_requests())]
Path(sys.argv[1] + sys.argv[2]).write_text(json.dumps([result, model.seen]))
dist.barrier()
import os
os._exit(0)
"""


def test_two_ranks_share_the_work_and_have_the_same_scores(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK.format(folder=str(Path(__file__).parent))))
    command = [sys.executable, str(script), str(tmp_path / "store")]
    running = [subprocess.Popen([*command, str(rank)], env={**os.environ}) for rank in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    alone = Cached()
    expected = score(alone, some_requests())
    parts = [json.loads((tmp_path / f"store{rank}").read_text()) for rank in range(2)]
    for result, seen in parts:
        assert [row[0] for row in result] == near([s.log_prob for s in expected])
        assert [row[1:] for row in result] == [[s.tokens, s.greedy, s.cut] for s in expected]
        assert 0.2 * alone.seen < seen < 0.8 * alone.seen


def test_a_window_covers_every_token_once_at_any_stride() -> None:
    ids = list(range(50))
    for block in (1, 4, 7, 60):
        for stride in {1, 2, block // 2, block} & set(range(1, block + 1)):
            requests = cover(ids, block, stride)
            assert [i for _, continuation in requests for i in continuation] == ids[1:]
            assert all(len(context) + len(continuation) <= block + 1 for context, continuation in requests)
            assert all(context[-1] + 1 == continuation[0] for context, continuation in requests)
            assert all(len(continuation) == stride for _, continuation in requests[1:-1])
    with pytest.raises(ValueError, match="a window of 4 tokens can't have a stride of 5"):
        cover(ids, 4, 5)


def test_the_cpu_s_other_library_multiplies_as_exactly() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    torch.manual_seed(0)
    layer, x = nn.Linear(300, 400), torch.randn(3, 20, 300)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    with torch.inference_mode():
        plain = layer(x)
        with products(torch.device("cpu")):
            assert torch.allclose(layer(x).double(), exact, atol=1e-5)
        assert torch.allclose(plain.double(), exact, atol=1e-5)


def test_a_score_has_what_evaluators_read() -> None:
    assert Score(-1.5, 2, True) == Score(log_prob=-1.5, tokens=2, greedy=True, cut=0)
