"""A token's pass as a CUDA graph would run it: fixed shapes, and a position that is a tensor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pealm_char_transformer.config import TransformerConfig
from pealm_char_transformer.model import Transformer
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference import recorded_pass
from pealm_core.inference.kv_cache import KVCache
from pealm_core.inference.recorded_pass import Recorded, one_token_pass
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2
from pealm_llama.config import LlamaConfig
from pealm_llama.model import Llama

SIZES: dict[str, Any] = {"vocab_size": 31, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
MODELS: dict[str, Callable[[], Any]] = {
    "char-transformer": lambda: Transformer(TransformerConfig(**SIZES)),
    "gpt2": lambda: GPT2(GPT2Config(**SIZES)),
    "llama": lambda: Llama(LlamaConfig(**SIZES, n_kv_head=2, qk_norm=True)),
}


@pytest.fixture(autouse=True)
def _short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_pass, "SPAN", 8)
    monkeypatch.setattr(recorded_pass, "_failed", False)


def make(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@torch.inference_mode()
def compare(model: Any, record: Callable[[Callable[[], Tensor]], Callable[[], Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the logits of 20 tokens in two rows after a prompt of five, recorded and plain."""
    ids = torch.randint(31, (2, 25), generator=torch.Generator().manual_seed(1))
    logits = []
    for recorded in (True, False):
        cache = model.make_cache(2, 25)
        for layer in cache._layers:
            for part in layer:
                part.fill_(torch.nan)  # as new memory may be
        model(ids[:, :5], cache=cache)
        run = Recorded(model, cache, record) if recorded else one_token_pass(model, cache, 20)
        logits.append(torch.cat([run(ids[:, at : at + 1]) for at in range(5, 25)], dim=1))
        assert cache.length == 25
    return logits[0], logits[1]


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_pass_gives_the_same_logits_and_is_recorded_once_for_each_span(name: str) -> None:
    recordings = []

    def record(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recordings.append(function)
        return function

    torch.testing.assert_close(*compare(make(name), record), atol=1e-5, rtol=1e-5)
    assert len(recordings) == 4  # 5 to 8, 16, 24, 25


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_recorded_pass_in_mixed_precision(quantize: str | None) -> None:
    recorded, plain = compare(prepare(make("gpt2"), quantize, torch.bfloat16), lambda function: function)
    assert recorded.dtype == plain.dtype
    torch.testing.assert_close(recorded, plain, atol=0.02, rtol=0.05)


def test_a_failed_recording_is_told_once_and_generates_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def record(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        calls.append(function())  # it has written to the cache
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    recorded, plain = compare(make("gpt2"), record)
    assert torch.equal(recorded, plain)
    assert len(calls) == 1
    assert capsys.readouterr().err.count("operation not permitted when stream is capturing") == 1


@pytest.mark.parametrize("use", ["append", "length"])
def test_a_model_that_can_not_be_recorded_runs_as_it_is(
    use: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attend(self: KVCache, layer: int, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        from pealm_core import causal_attention

        return causal_attention(q, *self.append(layer, k, v))

    def positions(self: KVCache, tokens: int) -> Tensor:
        return torch.arange(self.length, self.length + tokens)[None]

    changed: Any = {"append": attend, "length": positions}[use]
    monkeypatch.setattr(recorded_pass.FixedCache, changed.__name__, changed)
    recorded, plain = compare(make("gpt2"), lambda function: (function(), function)[1])
    assert torch.equal(recorded, plain)
    assert not capsys.readouterr().err
