"""Every function that not all supported versions of torch have may be missing: results stay right."""

import copy
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pealm_core
import pealm_cpu
from pealm_core.hardware.inference_weights import prepare
from pealm_cpu import int8

sys.path.insert(0, str(Path(__file__).parent))
from test_inference_weights import FAMILIES, family

ROWS = [(1, 1), (2, 1), (5, 1), (70, 1), (3, 9)]


def remove(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete one function, or all; or switch oneDNN off."""
    if name in ("all", "get_capabilities"):
        monkeypatch.setattr(int8, "_int8_unit", int8._int8_unit.__wrapped__)  # without its cache
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    for function in ("_int_mm", "_weight_int8pack_mm"):
        if name in ("all", function):
            monkeypatch.delattr(torch, function)
    for space in ("mkldnn", "onednn"):
        if name in ("all", space):
            monkeypatch.setattr(torch.ops, space, SimpleNamespace())
    if name == "off":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


def logits(model: torch.nn.Module) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [
            model(torch.randint(515, rows, generator=torch.Generator().manual_seed(sum(rows))))[0] for rows in ROWS
        ]


@pytest.mark.parametrize(
    "missing", ["all", "get_capabilities", "_int_mm", "_weight_int8pack_mm", "mkldnn", "onednn", "off"]
)
@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_results_are_the_same_without(
    name: str, quantize: str | None, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(name)
    expected = logits(prepare(copy.deepcopy(model), quantize))
    remove(missing, monkeypatch)
    actual = logits(prepare(model, quantize))
    torch.testing.assert_close(actual[1:], expected[1:], atol=1e-4, rtol=1e-5)
    # One int8 row is multiplied in bf16, or rounded as others are.
    rounded = quantize == "int8" and missing in ("all", "_weight_int8pack_mm", "get_capabilities")
    assert (actual[0] - expected[0]).norm() <= (0.03 if rounded else 1e-5) * expected[0].norm()


def test_int4_is_int8_where_torch_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pealm_cpu.int4.NAMES", ("_convert_weight_to_int4pack_for_cpu", "_not_there"))
    found, expected = (logits(prepare(family("gpt2"), quantize)) for quantize in ("int4", "int8"))
    torch.testing.assert_close(found, expected)


def test_no_other_module_calls_a_private_function_of_torch() -> None:
    calls = {
        f"{package.__name__}/{path.relative_to(package.__path__[0])}"
        for package in (pealm_core, pealm_cpu)
        for path in Path(package.__path__[0]).rglob("*.py")
        if re.search(r"torch\._(?!_)|torch\.ops\b|torch\.utils\._|\b_C\.|_wrapper_subclass", path.read_text())
    }
    training = "pealm_core/hardware/faster_training.py"
    assert calls == {training, *(f"pealm_cpu/{name}.py" for name in ("int4", "linear_weight", "onednn"))}
