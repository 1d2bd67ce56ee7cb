"""`LM.trace`: the numbers of transformers, and of every family what its own logits and texts say."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.lm import LM
from pealm_core.inference.scoring import score

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "hardware"))
from fakes import Chars, Table
from test_inference_weights import FAMILIES, family
from test_lm import Letters

TEXT = "hastatefgabj"  # 6 tokens


def llama() -> torch.nn.Module:
    """With queries that share keys and values."""
    config = pytest.importorskip("pealm_llama.config").LlamaConfig
    torch.manual_seed(0)
    made: Any = pytest.importorskip("pealm_llama.model").Llama(
        config(vocab_size=515, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32)
    )
    return made.eval()  # type: ignore[no-any-return]


def test_gpt2_gives_the_hidden_states_and_attention_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    layout = pytest.importorskip("pealm_gpt2.layout")
    sizes = {"vocab_size": 515, "n_positions": 16, "n_layer": 3, "n_head": 2, "n_embd": 64}
    torch.manual_seed(0)
    settings = transformers.GPT2Config(**sizes, attn_implementation="eager", bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    config = layout.read_config(theirs.config.to_dict(), where=Path("peer"))
    ours = pytest.importorskip("pealm_gpt2.model").GPT2(config).eval()
    ours.load_state_dict(layout.read_state(theirs.state_dict().items(), config, where=Path("peer")))
    trace = LM(ours, Letters(), {}).trace(TEXT)
    with torch.no_grad():
        expected = theirs(torch.tensor([trace.ids]), output_attentions=True, output_hidden_states=True)
    assert trace.hidden is not None and trace.attention is not None
    close: Any = lambda a, b: torch.testing.assert_close(a, b, atol=1e-5, rtol=0)  # noqa: E731
    close(trace.attention, torch.cat(expected.attentions))
    hidden = torch.cat(expected.hidden_states)
    close(trace.hidden[:-1], hidden[:-1])
    close(ours.ln_f(trace.hidden[-1]).detach(), hidden[-1])  # theirs ends after the last norm
    close(trace.logits, expected.logits[0])


@pytest.mark.parametrize("name", [*FAMILIES, "llama"])
def test_every_family_shows_what_it_does(name: str) -> None:
    lm = LM(llama() if name == "llama" else family(name), Letters(), {})
    trace = lm.trace(TEXT)
    heads = lm.model.config.n_head  # type: ignore[union-attr]
    width = lm.model.config.n_embd  # type: ignore[union-attr]
    assert trace.tokens == [TEXT[i : i + 2] for i in range(0, len(TEXT), 2)] and trace.ids == lm.encode(TEXT)
    with torch.inference_mode():
        logits = lm.model(torch.tensor([trace.ids]))[0][0]
    assert torch.equal(trace.logits, logits)  # recording changes nothing
    scores = score(lm.model, [(trace.ids[:i], trace.ids[i : i + 1]) for i in range(1, 6)])
    assert trace.logprobs.tolist() == pytest.approx([each.log_prob for each in scores], abs=1e-4)
    assert trace.hidden is not None and trace.hidden.shape == (3, 6, width)
    assert trace.attention is not None and trace.attention.shape == (2, heads, 6, 6)
    torch.testing.assert_close(trace.attention.sum(-1), torch.ones(2, heads, 6))
    assert not trace.attention.triu(1).any() and trace.attention[:, :, 5].std() > 0
    torch.testing.assert_close(trace.layer_logits(-1), trace.logits)
    assert not torch.allclose(trace.layer_logits(0), trace.logits, atol=1e-2)
    assert lm.trace(trace.ids).tokens == trace.tokens  # ids instead of text
    one = lm.trace("ab")
    assert one.attention is not None and one.attention.shape == (2, heads, 1, 1) and one.logprobs.shape == (0,)


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_for_inference_are_traced_too(quantize: str | None, dtype: torch.dtype) -> None:
    exact = LM(family("gpt2"), Letters(), {}).trace(TEXT)
    trace = LM(prepare(family("gpt2"), quantize, dtype), Letters(), {}).trace(TEXT)
    assert exact.attention is not None and trace.attention is not None
    torch.testing.assert_close(trace.attention, exact.attention, atol=0.05, rtol=0)
    torch.testing.assert_close(trace.layer_logits(-1), trace.logits, atol=0.1, rtol=0)


def test_top_lists_the_most_likely_tokens() -> None:
    trace = LM(family("char-transformer"), Letters(), {}).trace(TEXT)
    for layer, logits in ((None, trace.logits), (1, trace.layer_logits(1))):
        p = logits.softmax(-1)
        for row, best in zip(p, trace.top(5, layer), strict=True):
            assert [q for _, q in best] == pytest.approx(sorted(row.tolist(), reverse=True)[:5])  # tokens may tie
            assert [q for _, q in best] == pytest.approx([float(row[token]) for token, _ in best])
    assert len(trace.top(10_000)[0]) == 515


def test_a_model_without_layers_shows_its_predictions() -> None:
    trace = LM(Table(torch.eye(7)), Chars(), {}).trace("abc")
    assert trace.hidden is None and trace.attention is None
    assert trace.top(1) == [[(i, pytest.approx(trace.logits.softmax(-1)[i, i].item()))] for i in range(3)]
    with pytest.raises(UserError, match="needs a model with `layers` and `unembed`"):
        trace.layer_logits(0)


def test_mistakes() -> None:
    lm = LM(family("gpt2"), Letters(), {})
    with pytest.raises(UserError, match="17 tokens can't be traced: this model reads 1 to 16 at a time"):
        lm.trace("ab" * 17)
    with pytest.raises(UserError, match="0 tokens"):
        lm.trace([])
    model = family("gpt2")
    model.__class__ = type(
        "Twice", (type(model),), {"layers": property(lambda self: [self.h[0], torch.nn.Identity()])}
    )
    with pytest.raises(PluginError, match=r"Twice\.layers: a forward pass must call each of them once"):
        LM(model, Letters(), {}).trace(TEXT)
