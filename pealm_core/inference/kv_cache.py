"""Key-value cache, and causal attention with or without it."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 64  # more tokens that rows of different lengths get room for, so that others can take the place of ended ones


class UnsupportedError(AttributeError):
    """A model uses what a cache of another kind can't give it: its pass then runs without that cache."""


class KVCache:
    """Keys and values of every layer for up to `length` tokens, allocated once.

    Under autocast, fp32 becomes the dtype of autocast, in which attention then reads the keys and values. A model
    appends each layer's new keys and values, and advances once at the end of its forward pass. If it uses
    `positions` and `attend` instead of `length` and `append`, rows of different lengths share a pass, and a recorded
    pass makes it faster. A subclass with an `attend` of its own goes without both.

    >>> cache = KVCache(n_layer=1, batch=2, n_head=4, length=8, head_dim=16)
    >>> k = v = torch.zeros(2, 4, 3, 16)
    >>> keys, values = cache.append(0, k, v)
    >>> cache.advance(3)
    >>> keys.shape, cache.length
    (torch.Size([2, 4, 3, 16]), 3)
    """

    def __init__(
        self,
        *,
        n_layer: int,
        batch: int,
        n_head: int,
        length: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape, device = (batch, n_head, length, head_dim), torch.device(device or torch.get_default_device())
        if (dtype or torch.get_default_dtype()) == torch.float32 and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        self._layers = [
            tuple(torch.empty(shape, device=device, dtype=dtype) for _ in ("keys", "values")) for _ in range(n_layer)
        ]
        self.length = 0  # tokens in the cache

    def __init_subclass__(cls) -> None:
        """Take `join` and `put` from a subclass with its own `attend`: their result would attend as this class."""
        if "attend" in vars(cls) and "join" not in vars(cls):
            cls.join = cls.put = None  # type: ignore[assignment, method-assign]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, n_head, T, head_dim) keys and values of a layer; return those of all tokens so far."""
        return self._store(layer, k, v, self.length)

    def _store(self, layer: int, k: Tensor, v: Tensor, end: int) -> tuple[Tensor, Tensor]:
        keys, values = self._layers[layer]
        new = k.shape[2]
        keys.narrow(2, end, new).copy_(k)  # narrow is several times faster than indexing
        values.narrow(2, end, new).copy_(v)
        return keys.narrow(2, 0, end + new), values.narrow(2, 0, end + new)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Append a layer's new keys and values; return the attention of their queries to all tokens so far."""
        return causal_attention(q, *self.append(layer, k, v), dropout=dropout)

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of each row's next tokens, (B, T), or (1, T) where they are those of all rows."""
        return torch.arange(self.length, self.length + tokens, device=self.device)[None]

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

    def cut(self, tokens: int) -> None:
        """Forget the last tokens of every row."""
        self.advance(-tokens)

    @property
    def device(self) -> torch.device:
        """The device of the keys and values."""
        return self._layers[0][0].device

    def repeat(self, n: int) -> "KVCache":
        """Return a cache with every row repeated n times, in the order of `repeat_interleave`."""
        return self.select(torch.arange(len(self._layers[0][0]), device=self.device).repeat_interleave(n))

    def select(self, index: Tensor) -> "KVCache":
        """Return a cache of the rows in a 1-D index, in its order; a row may occur several times or not at all."""
        other = copy.copy(self)
        other._layers = [tuple(tensor.index_select(0, index) for tensor in layer) for layer in self._layers]
        return other

    def join(self, others: Sequence["KVCache"]) -> "KVCache":
        """Return a cache of the rows of this one and of others, which may have different numbers of tokens."""
        return _gather([(cache, None) for cache in (self, *others)])

    def put(self, rows: Sequence[int], other: "KVCache") -> "KVCache | None":
        """Return a cache in which another one's rows replace `rows`, in this one's memory; None: there is no room."""
        (starts, end, last), (begins, stop, until) = self._places(), other._places()
        last = max(last, end + until - stop)
        if stop - min(begins) > end or last > self._layers[0][0].shape[2]:
            return None
        _copy(other, None, stop - min(begins), self._layers, rows, end)
        for row, begin in zip(rows, begins, strict=True):
            starts[row] = end - stop + begin
        return RaggedCache(self._layers, starts, end, last)

    def _places(self) -> tuple[list[int], int, int]:
        """Return where each row begins, where all of them end, and where they will at most."""
        layer = self._layers[0][0]
        return [0] * len(layer), self.length, layer.shape[2]


class RaggedCache(KVCache):
    """A cache of rows that end at the same place and begin at different ones; no row sees what is before it.

    Models use `positions`, `attend` and `advance`. Raises UnsupportedError for the rest.
    """

    join, put = KVCache.join, KVCache.put

    def __init__(self, layers: Any, starts: Sequence[int], end: int, last: int) -> None:
        self._layers, self._begin, self._end, self._last, keys = layers, [*starts], end, last, layers[0][0]
        self._starts = torch.tensor(self._begin, device=keys.device)[:, None]  # (B, 1)
        before = torch.arange(keys.shape[2], device=keys.device) < self._starts
        self._bias = torch.zeros(before.shape, device=keys.device, dtype=keys.dtype)  # (B, S)
        self._bias = self._bias.masked_fill_(before, -torch.inf)[:, None, None]

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedError(name)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Raise UnsupportedError: not all of what it would return is a row's own."""
        raise UnsupportedError("append")

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Append a layer's new keys and values; return the attention of their queries to their row so far."""
        keys, values = self._store(layer, k, v, self._end)
        return _attention(q, keys, values, self._bias.narrow(3, 0, keys.shape[2]), dropout)

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of each row's next tokens, (B, T)."""
        return torch.arange(self._end, self._end + tokens, device=self.device) - self._starts

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self._end += tokens

    def select(self, index: Tensor) -> KVCache:
        """Return a cache of the rows in a 1-D index."""
        return _gather([(self, index)])

    def _places(self) -> tuple[list[int], int, int]:
        return [*self._begin], self._end, self._last


def _gather(parts: Sequence[tuple[KVCache, Tensor | None]]) -> KVCache:
    """Copy rows of caches, all or those of an index, into a cache in which the longest begins at 0."""
    lengths, more = list[list[int]](), 0
    for cache, index in parts:
        starts, end, last = cache._places()
        lengths.append([end - starts[row] for row in (range(len(starts)) if index is None else index.tolist())])
        more = max(more, last - end)
    flat = sum(lengths, list[int]())
    width, ragged, row = max(flat), len({*flat}) > 1, 0
    size, capacity = len(flat), width + more + ROOM * ragged
    layers = [
        tuple(tensor.new_empty(size, tensor.shape[1], capacity, tensor.shape[3]) for tensor in layer)
        for layer in parts[0][0]._layers
    ]
    for (cache, index), own in zip(parts, lengths, strict=True):
        _copy(cache, index, max(own), layers, slice(row, row := row + len(own)), width)
    if ragged:
        return RaggedCache(layers, [width - length for length in flat], width, width + more)
    even = object.__new__(KVCache)
    even._layers, even.length = layers, width
    return even


def _copy(cache: KVCache, index: Tensor | None, length: int, layers: Any, rows: Any, end: int) -> None:
    """Copy the last `length` places of a cache , of all rows or those of an index, to places that end at `end`."""
    stop = cache._places()[1]
    for own, layer in zip(cache._layers, layers, strict=True):
        for tensor, to in zip(own, layer, strict=True):
            part = tensor.narrow(2, stop - length, length)
            part = part if index is None else part.index_select(0, index)
            to[rows, :, : end - length] = 0  # a hidden NaN would show
            to[rows, :, end - length : end] = part


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of the last T of S tokens, each over itself and the tokens before it.

    q: (B, n_head, T, head_dim); k, v: (B, n_kv_head, S, head_dim) with S >= T. Returns the shape of q. n_kv_head may
    be a divisor of n_head (grouped-query attention, Ainslie et al. 2023): each key and value then serves as many
    adjacent queries, and isn't repeated in memory.
    """
    return _attention(q, k, v, None, dropout)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Compute `causal_attention`; bias: 0, or -inf for keys that a row does not see, (B, 1, 1, S)."""
    t, s = q.shape[2], k.shape[2]
    grouped: dict[str, Any] = {} if q.shape[1] == k.shape[1] else {"enable_gqa": True}
    if grouped and t == 1:  # a group's queries of one token are a sequence to attention, which needs no causal mask
        queries = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        return F.scaled_dot_product_attention(queries, k, v, attn_mask=bias, dropout_p=dropout).reshape(q.shape)
    if bias is None and (t == s or t == 1):
        return F.scaled_dot_product_attention(q, k, v, is_causal=t == s, dropout_p=dropout, **grouped)
    mask: Any = bias
    if t > 1:
        mask = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
        mask = mask if bias is None else mask & (bias == 0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, **grouped)
