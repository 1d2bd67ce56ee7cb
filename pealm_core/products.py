"""The faster library for a CPU's matrix products.

torch multiplies fp32 matrices by MKL, which has no AVX-512 code for AMD's processors; oneDNN, which torch carries,
too, has. On a Zen 5 oneDNN does 195 GFLOP/s a core and MKL 93, in fp32 either way.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class OneDNN(TorchFunctionMode):
    """Inside, large linear layers in fp32 on a CPU are oneDNN's, forward and backward."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and not kwargs:
            x, weight = args[:2]
            rows = x.numel() // x.shape[-1]
            # Too little to multiply does not pay; a result of many megabytes would be copied for it.
            pays = weight.numel() >= 2**16 and rows >= 4 and rows * weight.shape[0] <= 2**23
            if pays and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu":
                return F.linear(x.to_mkldnn(), *args[1:]).to_dense()
        return func(*args, **(kwargs or {}))


def products(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, matrix products are those of the faster library for this device."""
    return OneDNN() if device.type == "cpu" and _avx512_elsewhere() else nullcontext()


@cache
def _avx512_elsewhere() -> bool:
    """Whether the CPU has AVX-512 and is not Intel's."""
    about = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and about.exists()
        and "GenuineIntel" not in about.read_text()
    )
