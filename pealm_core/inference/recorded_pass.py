"""The forward pass for one new token of each row: recorded once and repeated, where that can be done."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import pealm_cpu
from pealm_core.config.paths import printable
from pealm_core.hardware import cuda_graph
from pealm_core.inference.kv_cache import KVCache, RaggedCache, UnsupportedError

SPAN = 256  # a recorded pass attends to the cache up to a multiple of it
WORTH = 32  # new tokens that cost about as much as recording

_failed = False  # in this process: recording is not tried again


class FixedCache(RaggedCache):
    """The first `span` places of a cache; the position of the next token is a tensor, which a recorded pass reads.

    Models that use only `positions`, `attend` and `advance` can be recorded. Raises UnsupportedError for the rest.
    """

    def __init__(self, cache: KVCache, position: Tensor, span: int) -> None:
        self._layers = [tuple(part.narrow(2, 0, span) for part in layer) for layer in cache._layers]
        self._position, keys = position, self._layers[0][0]
        starts = cache._places()[0]
        begin = starts if any(starts) else [0]
        self._starts = torch.tensor(begin, device=keys.device)[:, None]  # (B, 1), or (1, 1)
        self._slots = torch.arange(span, device=keys.device)
        aligned = -(-span // 16) * 16  # else attention copies it
        self._bias = torch.zeros(len(begin), 1, 1, aligned, device=keys.device, dtype=keys.dtype)[..., :span]

    def begin(self) -> None:
        """Hide the places after the new token's."""
        hidden = (self._slots > self._position) | (self._slots < self._starts)
        self._bias.zero_().masked_fill_(hidden[:, None, None], -torch.inf)

    def positions(self, tokens: int) -> Tensor:
        """Return the position of each row's new token."""
        return self._position - self._starts

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Add a key and a value to every row; return attention over the places up to it."""
        keys, values = self._layers[layer]
        keys.index_copy_(2, self._position, k.to(keys.dtype))
        values.index_copy_(2, self._position, v.to(values.dtype))
        queries = q.reshape(len(q), keys.shape[1], -1, q.shape[-1]).to(keys.dtype)  # a group's are a sequence
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=self._bias).reshape(q.shape)

    def advance(self, tokens: int) -> None:
        """Leave the position to the caller."""


class Recorded:
    """A model's pass for one token, recorded once for each span of the cache."""

    def __init__(
        self, model: Any, cache: KVCache, record: Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None = None
    ) -> None:
        self._model, self._cache = model, cache
        self._in_c = record is None and cache.device.type == "cpu"  # which skips hidden places: one span is enough
        self._record = record or (self._record_in_c if self._in_c else cuda_graph.record)
        keys = cache._layers[0][0]
        self._capacity, length = keys.shape[2], cache._places()[1]
        for layer in cache._layers:
            for part in layer:
                part.narrow(2, length, self._capacity - length).zero_()  # a hidden place must not be NaN
        self._idx = torch.zeros(len(keys), 1, dtype=torch.long, device=keys.device)
        self._position = torch.zeros(1, dtype=torch.long, device=keys.device)
        self._passes: dict[int, Callable[[], Tensor]] = {}
        self._weights, self._memory = _parts(model) if self._in_c else [], list[int]()

    def __call__(self, idx: Tensor) -> Tensor:
        """Compute the logits (B, 1, V) after a new token of each row, (B, 1)."""
        global _failed
        length = self._cache._places()[1]
        span = self._capacity if self._in_c else min(self._capacity, length // SPAN * SPAN + SPAN)
        self._idx.copy_(idx)
        self._position.fill_(length)
        if self._in_c and (memory := [weight.data_ptr() for weight in self._weights]) != self._memory:
            self._memory, self._passes = memory, {}  # of weights that are elsewhere now
        if span not in self._passes and not _failed:
            try:
                self._passes[span] = self._record(self._pass(FixedCache(self._cache, self._position, span)))
            except UnsupportedError:
                self._passes[span] = self._plain
            except RuntimeError as error:
                if self._in_c:  # nothing is wrong: the model does what only Python can
                    self._passes[span] = self._plain
                    return self._plain()
                _failed, reason = True, printable((str(error) or type(error).__name__).splitlines()[0])
                print(f"pealm: no CUDA graph of a token's pass ({reason}); generating goes without", file=sys.stderr)
        run = self._passes.get(span, self._plain)
        if run == self._plain:
            return run()
        logits = run().clone()  # the next call overwrites them
        self._cache.advance(1)
        return logits

    def _record_in_c(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Record a pass, and try it for other tokens at the next place, which stays hidden until it is written."""
        before = self._idx.clone(), self._position.clone()

        def change() -> None:
            self._idx.copy_((self._idx - 1).abs())
            self._position.add_(1).clamp_(max=self._capacity - 1)

        try:
            return pealm_cpu.record(run, change)
        finally:
            self._idx.copy_(before[0])
            self._position.copy_(before[1])

    def _plain(self) -> Tensor:
        logits: Tensor = self._model(self._idx, cache=self._cache)[0]
        return logits

    def _pass(self, cache: FixedCache) -> Callable[[], Tensor]:
        def run() -> Tensor:
            cache.begin()
            # On a GPU, the kernels that take a mask and need no plan for each shape.
            kernels = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
            with nullcontext() if self._in_c else sdpa_kernel(kernels):
                logits: Tensor = self._model(self._idx, cache=cache)[0]
            return logits

        return run


def one_token_pass(model: Any, cache: Any, tokens: int, *, graphs: bool = True) -> Callable[[Tensor], Tensor]:
    """Return a function from each row's new token (B, 1) to logits (B, 1, V). tokens: how many will come, at most."""
    able = graphs and not _failed and tokens >= WORTH and type(cache) in (KVCache, RaggedCache)
    if able and (cache.device.type == "cuda" or (cache.device.type == "cpu" and _can_run_in_c(model))):
        return Recorded(model, cache)
    return lambda idx: model(idx, cache=cache)[0]


def _can_run_in_c(model: Any) -> bool:
    """Return whether there is a C compiler, and nobody watches the model's modules."""
    return pealm_cpu.has_compiler() and not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    )


def _parts(model: Any) -> list[Tensor]:
    """Return the tensors that a model's products read."""
    return [part for weight in model.parameters() for part in getattr(weight, "parts", (weight,))]
