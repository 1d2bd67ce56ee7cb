"""The key-value cache of attention, and attention over it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache:
    """Keys and values of every layer for up to `length` tokens, allocated once.

    A model appends each layer's new keys and values, and advances once at the end of its forward pass:

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
        shape = (batch, n_head, length, head_dim)
        self._layers = [
            tuple(torch.empty(shape, device=device, dtype=dtype) for _ in ("keys", "values")) for _ in range(n_layer)
        ]
        self.length = 0  # tokens held so far

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, n_head, T, head_dim) keys and values of a layer; gives those of all tokens held, T included."""
        keys, values = self._layers[layer]
        new = k.shape[2]
        keys.narrow(2, self.length, new).copy_(k)  # narrow: a fraction of what an index costs
        values.narrow(2, self.length, new).copy_(v)
        return keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

    def repeat(self, n: int) -> "KVCache":
        """A cache in which every row became n rows, as `repeat_interleave` orders them."""
        return self._map(lambda held: held.repeat_interleave(n, dim=0))

    def select(self, index: Tensor) -> "KVCache":
        """A cache of the rows that a 1-D index names, in its order; a row may come several times or not at all."""
        return self._map(lambda held: held.index_select(0, index))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "KVCache":
        other = object.__new__(KVCache)
        other._layers = [tuple(change(held) for held in layer) for layer in self._layers]
        other.length = self.length
        return other


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of the last T of S tokens over all of them, each over none that follows it.

    q: (B, n_head, T, head_dim); k, v: (B, n_head, S, head_dim) with S >= T. Gives the shape of q.
    """
    t, s = q.shape[2], k.shape[2]
    if t == s or t == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=t == s, dropout_p=dropout)
    mask = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
