"""Passes that a CPU repeats in C."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pealm_char_transformer.config import TransformerConfig
from pealm_char_transformer.model import Transformer
from pealm_core import Sampling, generate_ids
from pealm_core.hardware.inference_weights import prepare
from pealm_core.inference.recorded_pass import Recorded
from pealm_cpu import kernels, operations, record_in_c
from pealm_cpu.record_in_c import record
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2
from pealm_llama.config import LlamaConfig
from pealm_llama.model import Llama

SIZES: dict[str, Any] = {"vocab_size": 31, "block_size": 48, "n_layer": 2, "n_head": 4, "n_embd": 32}
MODELS: dict[str, Callable[[], Any]] = {
    "char-transformer": lambda: Transformer(TransformerConfig(**SIZES)),
    "gpt2": lambda: GPT2(GPT2Config(**SIZES)),
    "llama": lambda: Llama(LlamaConfig(**SIZES, n_kv_head=2, qk_norm=True, qkv_bias=True)),
}

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="needs a C compiler (gcc or clang) with OpenMP")


def make(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def repeated(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Return a function's result for new numbers in its inputs, repeated and plain, and the operations in C."""
    with torch.inference_mode():
        names, own = list[str](), record_in_c.operations_of

        def watched(*args: Any) -> Any:
            done = own(*args)
            names.extend(operations.NAMES.split()[each.kind] for each in done or ())
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(record_in_c, "operations_of", watched)
            repeat = record(lambda: function(*inputs), lambda: None)
        for part in inputs:
            if part.is_floating_point():
                part.copy_(torch.randn_like(part) * 2)
        return repeat().clone(), function(*inputs), names


X = torch.randn(2, 3, 4, 20)


@pytest.mark.parametrize(
    ("function", "inputs", "names"),
    [
        (lambda x, y: x + y, [X.clone(), torch.randn(3, 1, 20)], ["add"]),
        (lambda x, y: x * y, [X.transpose(1, 3), torch.randn(20, 1, 3)], ["mul"]),
        (lambda x, y: x - y, [X[:, :, ::2, 1:7], torch.randn(2, 1, 2, 1)], ["sub"]),
        (lambda x, y: x / y, [X.clone(), torch.randn(20)], ["div"]),
        (lambda x: 2.5 * (3 + x) / 7, [X.clone()], ["add", "mul", "div"]),
        (lambda x: F.silu(x), [X.clone()], ["silu"]),
        (lambda x: F.silu(30 * x), [X.clone()], ["mul", "silu"]),
        (lambda x: F.gelu(x, approximate="tanh"), [X[..., ::3]], ["gelu"]),
        (lambda x: F.gelu(x), [X.clone()], []),
        (lambda x: F.relu(x).square(), [X.clone()], ["relu"]),
        (lambda x: F.relu(x + 0.1, inplace=True), [X.clone()], ["add", "relu"]),
        (lambda x: F.silu(x + 0.1, True), [X.clone()], ["add", "silu"]),
        (lambda x: torch.cat((x, x * 2), dim=2), [X.transpose(2, 3)], ["mul", "copy", "copy"]),
        (lambda x: x.transpose(1, 2).reshape(2, 4, -1), [X.clone()], ["copy"]),
        (lambda x: F.layer_norm(x, (20,)), [X.clone()], ["layer_norm"]),
        (lambda x, w, b: F.layer_norm(x, (20,), w, b, 1e-3), [X.clone(), *torch.randn(2, 20)], ["layer_norm"]),
        (lambda x, w: F.rms_norm(x, (20,), w), [X.clone(), torch.randn(20)], ["rms_norm"]),
        (lambda x: F.rms_norm(x, (4, 20)), [X.clone()], []),
        (lambda x, w: F.linear(x, w), [torch.randn(1, 20), torch.randn(7, 20)], ["linear"]),
        (lambda x, w, b: F.linear(x, w, b), [torch.randn(1, 20), torch.randn(6, 20), torch.randn(6)], ["linear"]),
        (lambda x, w: F.linear(x, w), [torch.randn(1, 3), torch.randn(40, 3)], ["linear"]),
        (lambda x, w: F.linear(x, w), [torch.randn(2, 1, 33), torch.randn(1, 33)], ["linear"]),
        (lambda x, w, b: F.linear(x, w, b), [torch.randn(8, 48), torch.randn(35, 48), torch.randn(35)], ["linear"]),
        (lambda x, w: F.linear(x, w), [torch.randn(9, 20), torch.randn(7, 20)], []),
        (lambda x: x.sort(dim=-1).values + x.cumsum(-1), [X.clone()], ["add"]),
        (lambda x: torch.zeros(4, 20).add_(x[0, 0]), [X.clone()], []),
    ],
)
def test_operations(function: Callable[..., Tensor], inputs: list[Tensor], names: list[str]) -> None:
    got, expected, done = repeated(function, *inputs)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert done == names


@pytest.mark.parametrize("width", [8, 64, 83])
@pytest.mark.parametrize("hidden", [0, 9])
def test_attention_reads_no_key_that_is_hidden(hidden: int, width: int) -> None:
    q, k, v = torch.randn(2, 3, 4, width), torch.randn(2, 3, 20, width), torch.randn(2, 20, 3, width).transpose(1, 2)
    bias = torch.zeros(2, 1, 1, 20)
    bias[:, :, :, :hidden] = -torch.inf

    def attend(q: Tensor, k: Tensor, v: Tensor, other: Tensor) -> Tensor:
        bias[:, :, :, hidden:] = other
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    got, expected, done = repeated(attend, q, k, v, torch.randn(2, 1, 1, 20 - hidden))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert done == ["attend"]


@torch.inference_mode()
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_logits(name: str, quantize: str | None) -> None:
    model = prepare(make(name), quantize)
    ids = torch.randint(31, (3, 40), generator=torch.Generator().manual_seed(1))
    ours, plain = model.make_cache(3, 40), model.make_cache(3, 40)
    for cache in (ours, plain):
        model(ids[:, :5], cache=cache)
    run = Recorded(model, ours)
    for at in range(5, 40):
        idx = ids[:, at : at + 1]
        atol = 1e-5 if quantize is None else 0.05  # a number that is rounded the other way
        torch.testing.assert_close(run(idx), model(idx, cache=plain)[0], atol=atol, rtol=1e-5)
    assert run._plain not in run._passes.values()


@torch.library.custom_op("pealm_test::silu", mutates_args=())
def another_silu(x: Tensor) -> Tensor:
    return x + 1


class Other(Tensor):
    """A kind of tensor."""


COUNT = torch.tensor(2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.max().item(),
        lambda x: x * len(x[x > 0]),
        lambda x: x * bool(x.sum() > 0),
        lambda x: x * torch.is_nonzero(x.sum()),
        lambda x: x * float(f"{x.sum():.3f}"),
        lambda x: x + torch.where(x > 0)[0].sum(),
        lambda x: x + x.unique().sum(),
        lambda x: x[0, COUNT],  # views that depend on a number
        lambda x: x[:, :COUNT],
        lambda x: x.narrow(0, COUNT - 1, 1),
        lambda x: x.sum() + torch.arange(COUNT),
        lambda x: x.repeat(COUNT, 1, 1, 1),
        lambda x: x.as_subclass(Other) * 2,
        lambda x: torch.ops.pealm_test.silu(x),
        lambda x: F.dropout(x),
        lambda x: torch.randn(20) * x,
    ],
)
def test_what_depends_on_numbers_in_python_is_not_recorded(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="can't be recorded"), torch.inference_mode():
        record(lambda: function(X), lambda: None)


@torch.inference_mode()
def test_a_place_outside_the_cache_is_not_written() -> None:
    memory, place, row = torch.zeros(1, 1, 20, 4), torch.tensor([1]), torch.ones(1, 1, 1, 4)
    cache = memory[:, :, 8:16]
    repeat = record(lambda: cache.index_copy_(2, place, row), lambda: None)
    for outside in (-1, 8):
        place.fill_(outside)
        with pytest.raises(IndexError):
            repeat()
    assert memory.sum() == 4


def test_weights_that_move_are_read_where_they_are() -> None:
    """The texts of a model whose weights get other memory between two tokens are those of one left alone."""
    texts = []
    for moves in (False, True):
        model, text = make("gpt2"), []
        for token in generate_ids(model, [1, 2, 3], Sampling(max_new_tokens=40, temperature=0)):
            text.append(int(token))
            if moves and len(text) == 5:
                for parameter in model.parameters():
                    parameter.data = parameter.data.clone()
            if moves and len(text) == 9:
                model.share_memory()
        texts.append(text)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("kind", [torch.nn.ReLU, torch.nn.SiLU, torch.nn.LeakyReLU])
def test_an_activation_in_place(kind: Any) -> None:
    class Adapted(GPT2):
        def forward(self, idx: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits, loss = super().forward(idx, *args, **kwargs)
            return (None if logits is None else kind(inplace=True)(logits + 0.1)), loss

    torch.manual_seed(0)
    model = Adapted(GPT2Config(**SIZES)).eval()
    sampling = Sampling(max_new_tokens=40, temperature=0)
    texts = [[int(t) for t in generate_ids(model, [1, 2, 3], sampling, graphs=graphs)] for graphs in (True, False)]
    assert texts[0] == texts[1]


def test_hooks_of_modules_see_every_token() -> None:
    model, seen = make("llama"), []
    model.register_forward_hook(lambda *_: seen.append(1))
    assert len([*generate_ids(model, [1, 2, 3], Sampling(max_new_tokens=40))]) == 40 == len(seen)


@torch.inference_mode()
def test_a_key_that_nobody_sees_gives_what_torch_gives() -> None:
    q, k = torch.randn(2, 1, 1, 8), torch.randn(2, 1, 5, 8)
    bias = torch.full((2, 1, 1, 5), -torch.inf)
    bias[0] = 0
    got, expected, done = repeated(lambda q, k: F.scaled_dot_product_attention(q, k, k, attn_mask=bias), q, k)
    torch.testing.assert_close(got, expected, equal_nan=True)
    assert done == ["attend"]


@torch.inference_mode()
@pytest.mark.parametrize("width", [8, 64])
def test_hidden_keys_may_be_anything(width: int) -> None:
    q, k, bias = torch.randn(2, 3, 1, width), torch.randn(2, 3, 70, width), torch.zeros(2, 1, 1, 70)
    hidden = [0, 1, 30, 31, 40, *range(60, 70)]
    bias[0, ..., hidden] = -torch.inf
    repeat = record(lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=bias), lambda: None)
    expected = repeat().clone()
    k[0, :, hidden] = torch.nan
    torch.testing.assert_close(repeat(), expected, atol=0, rtol=0)
    assert expected.isfinite().all()
    k[0, :, 5] = torch.nan
    assert repeat()[0].isnan().all()


@torch.inference_mode()
def test_relu_of_nan_is_nan() -> None:
    got, expected, done = repeated(lambda x: F.relu((x - x) / (x - x)), torch.randn(1, 4))
    assert got.isnan().all() and expected.isnan().all() and done == ["sub", "sub", "div", "relu"]


def test_a_model_that_is_not_recorded_generates_the_same() -> None:
    class Odd(GPT2):
        def forward(self, idx: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits, loss = super().forward(idx, *args, **kwargs)
            return (None if logits is None else logits * float(bool(logits.isfinite().any()))), loss

    torch.manual_seed(0)
    odd, plain = Odd(GPT2Config(**SIZES)).eval(), make("gpt2")
    sampling = Sampling(max_new_tokens=40, temperature=0)
    texts = [[int(token) for token in generate_ids(model, [1, 2, 3], sampling)] for model in (odd, plain)]
    assert texts[0] == texts[1]


def test_another_result_when_repeated_is_noticed() -> None:
    numbers = itertools.count(1)
    with pytest.raises(RuntimeError, match="another result"), torch.inference_mode():
        record(lambda: X * next(numbers), lambda: None)


@torch.inference_mode()
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_row_is_the_same_in_every_batch(quantize: str | None) -> None:
    model = prepare(make("llama"), quantize)
    ids, logits = torch.randint(31, (4, 30)), []
    for rows in (slice(0, 1), slice(0, 4)):
        cache = model.make_cache(len(ids[rows]), 30)
        model(ids[rows, :5], cache=cache)
        run = Recorded(model, cache)
        logits.append(torch.cat([run(ids[rows, at : at + 1])[:1] for at in range(5, 30)], dim=1))
    torch.testing.assert_close(*logits, atol=0, rtol=0)
