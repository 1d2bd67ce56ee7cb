"""Weights of 4 bits for products on a CPU. The only calls of torch's private int4 functions are here."""

from typing import Self

import torch
from torch import Tensor

from pealm_cpu.int8 import Int8Weight

GROUP = 32  # numbers along a row that share a scale and a zero point
NAMES = ("_convert_weight_to_int4pack_for_cpu", "_weight_int4pack_mm_for_cpu")


class Int4Weight(Int8Weight):
    """A matrix (out, in) of 16 levels, spread evenly over the range of each group of numbers; not for embeddings.

    Rows are multiplied in bf16. Every function but `F.linear` sees the dequantized matrix.
    """

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Return whether torch's product takes a weight of this shape and device."""
        shaped = weight.dim() == 2 and len(weight) % 16 == 0 and weight.shape[1] % GROUP == 0
        return shaped and weight.device.type == "cpu" and all(hasattr(torch.ops.aten, name) for name in NAMES)

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Round a weight to the nearest such matrix."""
        groups = weight.detach().float().view(len(weight), -1, GROUP)  # (out, groups, GROUP)
        low, high = groups.aminmax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_min(1e-8).bfloat16()
        zero = (low + 8 * scale).bfloat16()  # of the level 8
        q = ((groups - zero) / scale + 8).round().clamp_(0, 15).to(torch.int32).flatten(1)
        packed = getattr(torch.ops.aten, NAMES[0])(q, 1)
        return cls(
            weight.new_empty(()).expand(weight.shape),
            packed,
            torch.cat([scale, zero], -1).transpose(0, 1).contiguous(),
        )

    def plain(self) -> Tensor:
        """Return the dequantized matrix."""
        return self.linear(torch.eye(self.weight.shape[1], dtype=self.weight.dtype)).t().contiguous()

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply in bf16."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        y: Tensor = getattr(torch.ops.aten, NAMES[1])(rows, self.parts[0], GROUP, self.parts[1]).to(x.dtype)
        return (y if bias is None else y + bias).view(*x.shape[:-1], y.shape[-1])
