"""GGUF, the files of llama.cpp: read in any precision as fp32, and written.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the tokenizer is in `gguf_vocabulary`.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pealm_core import UserError

MAGIC = b"GGUF"
MOST_PARTS = 10_000_000  # numbers and texts in a header; the largest vocabularies have a million
DTYPES = ("fp32", "fp16", "bf16", "q8_0")  # that are written


def is_family(path: Path, families: Iterable[str]) -> bool:
    """Return whether a path is a GGUF file of one of these architectures."""
    with suppress(UserError, OSError):
        return path.is_file() and GGUF(path).family in (*families,)
    return False


@lru_cache(maxsize=1)  # several families look at one file
def _reader(path: Path, size: int, changed: int) -> Any:
    """Return the gguf package's reader, which by itself does not notice where a file ends."""
    from gguf import GGUFReader

    class Checked(GGUFReader):
        parts = 0  # of the header

        def __setattr__(self, name: str, value: Any) -> None:
            # A slice of a memmap takes several times as long as one of the plain array over the same memory.
            super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *args: Any, **kwargs: Any) -> Any:
            self.parts += 1
            if self.parts > MOST_PARTS or int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("a count or an offset in it is too large")
            return super()._get(offset, dtype, count, *args, **kwargs)

    return Checked(path)


class GGUF:
    """A file's settings by key and its tensors by name; nothing but the header is read. Raises UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.is_file():
                raise ValueError("not a regular file" if path.exists() else "no such file")
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise ValueError("it is not GGUF")
            reader = _reader(path, path.stat().st_size, path.stat().st_mtime_ns)
            self.fields: Mapping[str, Any] = reader.fields
            self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        except Exception as error:  # of a reader that trusts offsets and counts
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} can't be read as GGUF, it may be truncated or damaged: {reason}") from None
        self.family = self.get("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key; of one that starts with a dot, of the architecture's. Raises UserError."""
        field = self.fields.get(f"{self.family}{key}" if key.startswith(".") else key)
        try:
            return default if field is None else field.contents()
        except Exception as error:
            raise UserError(f"{self.path} can't be read as GGUF: {key}: {error!r}") from None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in fp32, in our order of dimensions. Raises UserError for a precision that is unknown."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).reshape([*map(int, tensor.shape[::-1])])
        except Exception as error:
            kind = tensor.tensor_type.name
            raise UserError(f"{self.path}: {name} can't be read as {kind}: {str(error) or repr(error)}") from None
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy, which may be written to


def write_gguf(
    path: Path, family: str, fields: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]], dtype: str | None
) -> None:
    """Write a file: its settings, which are texts, numbers, flags and lists of them, and tensors with their names.

    A key that starts with a dot is the architecture's. dtype: one of DTYPES; None: as the tensors are. As in the
    files of llama.cpp, vectors and the table of positions are F32, and rows whose length is not a multiple of 32 are
    F16 instead of Q8_0.
    Raises UserError, OSError.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    def type_of(name: str, tensor: Tensor) -> Any:
        if tensor.dim() < 2 or name == "position_embd.weight":
            return GGMLQuantizationType.F32
        own = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(tensor.dtype, "fp32")
        wanted = own if dtype is None else "fp16" if dtype == "q8_0" and tensor.shape[-1] % 32 else dtype
        return GGMLQuantizationType[wanted.replace("fp", "f").upper()]

    writer, largest = GGUFWriter(path, family), (0, GGMLQuantizationType.F32)
    for key, value in fields.items():
        _add(writer, f"{family}{key}" if key.startswith(".") else key, value)
    for name, tensor in tensors:
        wanted, values = type_of(name, tensor), tensor.detach().float().contiguous().numpy()
        if wanted == GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise UserError(f"{name} has values beyond 65,504, the largest in fp16; use fp32")
        largest = max(largest, (tensor.numel(), wanted))
        if wanted != GGMLQuantizationType.F32:
            values = quantize(values, wanted)
        writer.add_tensor(name, values, raw_dtype=wanted)
    mostly = "ALL_F32" if largest[1].name == "F32" else f"MOSTLY_{largest[1].name}"
    writer.add_file_type(LlamaFileType[mostly])
    writer.add_quantization_version(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    from gguf import GGUFValueType

    if isinstance(value, list):
        writer.add_array(key, value)
        return
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    writer.add_key_value(key, value, kinds.get(type(value), GGUFValueType.STRING))
