"""Every private function of torch may be missing: results stay right."""

import copy
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pealm_core
from pealm_core.hardware.inference_weights import prepare

sys.path.insert(0, str(Path(__file__).parent))
from test_inference_weights import FAMILIES, family

ROWS = [(1, 1), (2, 1), (5, 1), (70, 1), (3, 9)]


def remove(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete one private function, or all; or switch oneDNN off."""
    if name in ("all", "_int_mm"):
        monkeypatch.delattr(torch, "_int_mm")
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


@pytest.mark.parametrize("missing", ["all", "_int_mm", "mkldnn", "onednn", "off"])
@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_results_are_the_same_without(
    name: str, quantize: str | None, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(name)
    expected = logits(prepare(copy.deepcopy(model), quantize))
    remove(missing, monkeypatch)
    torch.testing.assert_close(logits(prepare(model, quantize)), expected, atol=1e-4, rtol=1e-5)


def test_no_other_module_calls_a_private_function_of_torch() -> None:
    root = Path(pealm_core.__file__).parent
    calls = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"torch\._(?!_)|torch\.ops\b|torch\.utils\._|\b_C\.|_wrapper_subclass", path.read_text())
    }
    assert calls == {"hardware/int8.py"}
