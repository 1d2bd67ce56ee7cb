"""GGUF of any model: precisions that the gguf package can't write are compared with their definition in ggml."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from pealm_core import UserError
from pealm_formats.gguf_file import GGUF, write_gguf


def q4_k(block: NDArray[np.uint8]) -> list[float]:
    """ggml-quants.c, dequantize_row_q4_K, number by number."""
    (d, least), s, q = block[:4].view(np.float16).astype(float), block[4:16].astype(int), block[16:].astype(int)
    pairs = [(s[j] & 63, s[j + 4] & 63) for j in range(4)]
    pairs += [((s[j + 4] & 15) | (s[j - 4] >> 6 << 4), (s[j + 4] >> 4) | (s[j] >> 6 << 4)) for j in range(4, 8)]
    return [
        d * scale * (q[32 * (group // 2) + i] >> 4 * (group % 2) & 15) - least * minimum
        for group, (scale, minimum) in enumerate(pairs)
        for i in range(32)
    ]


def q6_k(block: NDArray[np.uint8]) -> list[float]:
    """ggml-quants.c, dequantize_row_q6_K, number by number."""
    low, high, scales = block[:128].astype(int), block[128:192].astype(int), block[192:208].view(np.int8)
    d, y = float(block[208:].view(np.float16)[0]), [0.0] * 256
    for half in range(2):
        for i in range(32):
            for part in range(4):
                nibble = low[64 * half + i + 32 * (part % 2)] >> 4 * (part // 2) & 15
                q = nibble | (high[32 * half + i] >> 2 * part & 3) << 4
                y[128 * half + 32 * part + i] = d * float(scales[8 * half + i // 16 + 2 * part]) * (q - 32)
    return y


@pytest.mark.parametrize(("kind", "size", "floats", "reference"), [
    (Kind.Q4_K, 144, (0, 2), q4_k), (Kind.Q6_K, 210, (208,), q6_k),
])  # fmt: skip
def test_k_quants_are_those_of_their_definition(kind, size, floats, reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3 * 2, size), dtype=np.uint8)
    for at in floats:
        blocks[:, at : at + 2] = rng.normal(size=(6, 1)).astype(np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("x", blocks.reshape(3, 2 * size), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = torch.tensor([reference(block) for block in blocks], dtype=torch.float32).view(3, 512)
    torch.testing.assert_close(GGUF(tmp_path / "x.gguf").tensor("x"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0), ("fp16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 127)])
def test_what_is_written_is_read(dtype: str, error: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"matrix": torch.randn(6, 64), "narrow": torch.randn(4, 40), "vector": torch.randn(64)}
    fields = {".block_count": 3, ".eps": 1e-5, "a.flag": True, "a.list": [1, 2, 3], "a.text": "é"}
    write_gguf(tmp_path / "x.gguf", "llama", fields, tensors.items(), dtype)
    file = GGUF(tmp_path / "x.gguf")
    assert (file.family, file.get(".block_count"), file.get("a.flag")) == ("llama", 3, True)
    assert file.get(".eps") == pytest.approx(1e-5) and file.get("a.list") == [1, 2, 3] and file.get("a.text") == "é"
    for name, tensor in tensors.items():
        found = file.tensor(name)
        assert (found - tensor).abs().max() <= error * tensor.abs().max()
    assert torch.equal(file.tensor("vector"), tensors["vector"])
    types = {name: tensor.tensor_type.name for name, tensor in file.tensors.items()}
    wanted = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[dtype]
    assert types == {"matrix": wanted, "narrow": "F16" if dtype == "q8_0" else wanted, "vector": "F32"}


def test_without_a_dtype_nothing_is_rounded(tmp_path: Path) -> None:
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = {name: torch.randn(4, 32).to(dtype) for name, dtype in kinds.items()}
    write_gguf(tmp_path / "x.gguf", "llama", {}, tensors.items(), None)
    file = GGUF(tmp_path / "x.gguf")
    assert {name: tensor.tensor_type.name for name, tensor in file.tensors.items()} == {name: name for name in kinds}
    assert all(torch.equal(file.tensor(name), tensor.float()) for name, tensor in tensors.items())


def test_numbers_beyond_fp16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x has values beyond 65,504, the largest in fp16; use fp32"):
        write_gguf(tmp_path / "x.gguf", "llama", {}, [("x", torch.full((2, 32), 1e5))], "fp16")
