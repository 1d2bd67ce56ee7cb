"""The key-value cache of attention, and attention over it."""

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
        shape = (n_layer, 2, batch, n_head, length, head_dim)
        self._store = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0  # tokens held so far

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, n_head, T, head_dim) keys and values of a layer; gives those of all tokens held, T included."""
        end = self.length + k.shape[2]
        self._store[layer, 0, :, :, self.length : end] = k
        self._store[layer, 1, :, :, self.length : end] = v
        return self._store[layer, 0, :, :, :end], self._store[layer, 1, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

    def repeat(self, n: int) -> "KVCache":
        """A cache in which every row became n rows, as `repeat_interleave` orders them."""
        other = object.__new__(KVCache)
        other._store, other.length = self._store.repeat_interleave(n, dim=2), self.length
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
