"""Key-value cache, and causal attention with or without it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache:
    """Keys and values of every layer for up to `length` tokens, allocated once.

    Under autocast, fp32 becomes the dtype of autocast, in which attention then reads the keys and values. A model
    appends each layer's new keys and values, and advances once at the end of its forward pass. If it uses `positions`
    and `attend` instead of `length` and `append`, CUDA graphs make it faster.

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

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, n_head, T, head_dim) keys and values of a layer; return those of all tokens so far."""
        keys, values = self._layers[layer]
        new = k.shape[2]
        keys.narrow(2, self.length, new).copy_(k)  # narrow is several times faster than indexing
        values.narrow(2, self.length, new).copy_(v)
        return keys.narrow(2, 0, self.length + new), values.narrow(2, 0, self.length + new)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Append a layer's new keys and values; return the attention of their queries to all tokens so far."""
        return causal_attention(q, *self.append(layer, k, v), dropout=dropout)

    def positions(self, tokens: int) -> Tensor:
        """Return the positions of the next tokens, 1-D."""
        return torch.arange(self.length, self.length + tokens, device=self.device)

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has appended."""
        self.length += tokens

    @property
    def device(self) -> torch.device:
        """The device of the keys and values."""
        return self._layers[0][0].device

    def repeat(self, n: int) -> "KVCache":
        """Return a cache with every row repeated n times, in the order of `repeat_interleave`."""
        return self.select(torch.arange(len(self._layers[0][0]), device=self.device).repeat_interleave(n))

    def select(self, index: Tensor) -> "KVCache":
        """Return a cache of the rows in a 1-D index, in its order; a row may occur several times or not at all."""
        other = object.__new__(KVCache)
        other._layers = [tuple(tensor.index_select(0, index) for tensor in layer) for layer in self._layers]
        other.length = self.length
        return other


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of the last T of S tokens, each over itself and the tokens before it.

    q: (B, n_head, T, head_dim); k, v: (B, n_kv_head, S, head_dim) with S >= T. Returns the shape of q. n_kv_head may
    be a divisor of n_head (grouped-query attention, Ainslie et al. 2023): each key and value then serves as many
    adjacent queries, and isn't repeated in memory.
    """
    t, s = q.shape[2], k.shape[2]
    grouped: dict[str, Any] = {} if q.shape[1] == k.shape[1] else {"enable_gqa": True}
    if grouped and t == 1:  # a group's queries of one token are a sequence to attention, which needs no mask
        queries = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        return F.scaled_dot_product_attention(queries, k, v, dropout_p=dropout).reshape(q.shape)
    if t == s or t == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=t == s, dropout_p=dropout, **grouped)
    mask = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, **grouped)
