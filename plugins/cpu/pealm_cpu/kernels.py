"""Products that torch has no fast function for, in C: compiled on this machine when first used.

No compiler is needed: where there is none, or torch has no OpenMP library whose threads can be shared, torch's own
functions are used.
"""

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

FEW = 8  # most rows that a product takes
FLAGS = ["-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-mprefer-vector-width=512"] * (platform.machine() in ("x86_64", "AMD64"))


@cache
def library() -> ctypes.CDLL | None:
    """Compile kernels.c by the compiler that the environment variable CC names, else `cc`; None if that fails."""
    openmp = sorted(Path(torch.__file__).with_name("lib").glob("libgomp*"))
    if not openmp:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:  # compiling takes less than a second; a file kept is a risk
            library = Path(folder, "kernels.so")
            files = [str(Path(__file__).with_suffix(".c")), str(openmp[0]), "-o", str(library)]
            command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, "-shared", "-fPIC", *files]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            compiled = ctypes.CDLL(str(library))
            compiled.run.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
            compiled.linear.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 3 + [ctypes.c_int]
            compiled.int8_linear.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 3 + [ctypes.c_int]
            return compiled
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def has_compiler() -> bool:
    """Return whether kernels.c can be compiled here; the first call compiles it."""
    return library() is not None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Compute `F.linear` of up to FEW rows of fp32 numbers on the CPU; None without a compiler, or where it can't.

    Shapes: x (..., in), weight (out, in), bias (out,).
    """
    n, k = weight.shape
    fits = 0 < k == x.shape[-1] and x.numel() <= FEW * k and (bias is None or bias.shape == (n,))
    parts = [part for part in (x, weight, bias) if part is not None]
    if not fits or not all(part.is_contiguous() and part.dtype == torch.float32 for part in parts):
        return None
    if (compiled := library()) is None:
        return None
    y = x.new_empty(*x.shape[:-1], n)
    pointers = [tensor if tensor is None else tensor.data_ptr() for tensor in (x, weight, bias, y)]
    compiled.linear(*pointers, x.numel() // k, n, k, torch.get_num_threads())
    return y


class Int8Product:
    """The product of fp32 x (..., in), rounded to 127ths of each row's largest number, and an int8 matrix (out, in).

    unit: by output channel, (out,): the matrix's scale divided by 127. All are on the CPU; shapes are not checked.
    """

    def __init__(self, library: ctypes.CDLL, weight: Tensor, unit: Tensor) -> None:
        self._run, self.weight, self.unit = library.int8_linear, weight, unit
        self.offsets = 128 * weight.sum(-1, dtype=torch.int32)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Add bias (out,) to the product. Raises MemoryError."""
        n, k = self.weight.shape
        x, y = x.contiguous(), x.new_empty(*x.shape[:-1], n)
        shift = bias if bias is None else bias.contiguous()
        tensors = x, self.weight, self.offsets, self.unit, shift, y
        pointers = [tensor if tensor is None else tensor.data_ptr() for tensor in tensors]
        if self._run(*pointers, x.numel() // k, n, k, torch.get_num_threads()):
            raise MemoryError
        return y


def int8_product(weight: Tensor, unit: Tensor) -> Int8Product | None:
    """Return such a product, or None without a compiler."""
    compiled = library()
    return None if compiled is None else Int8Product(compiled, weight, unit)
