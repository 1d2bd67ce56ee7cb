"""GGUF of GPT-2: settings and tensors by llama.cpp's names, to ours and back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core import UserError
from pealm_formats.gguf_file import GGUF, is_family
from pealm_formats.vocabulary import check_size
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.layout import LARGEST, check_shapes, complete, resize

FAMILY = "gpt2"
MODULES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OURS = {theirs: ours for ours, theirs in MODULES.items()}
SIZES = {
    "block_size": ".context_length",
    "n_layer": ".block_count",
    "n_head": ".attention.head_count",
    "n_embd": ".embedding_length",
}


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file of a GPT-2."""
    return is_family(path, (FAMILY,))


def read_gguf(path: Path, tokens: int) -> tuple[GPT2Config, dict[str, Tensor]]:
    """Read config and state dict, in fp32. tokens: as in `layout.read_folder`. Raises UserError."""
    file = GGUF(path)
    if file.family != FAMILY:
        raise UserError(f"{path}: its architecture is {file.family!r:.80}, not {FAMILY}")
    shapes = {_ours(name): tuple(map(int, tensor.shape[::-1])) for name, tensor in file.tensors.items()}
    sizes = {name: file.get(key) for name, key in SIZES.items()}
    sizes["vocab_size"] = shapes.get("wte.weight", (None,))[0]
    wrong = [f"{name} is {n!r:.80}" for name, n in sizes.items() if not (type(n) is int and 0 < n <= LARGEST)]
    eps = file.get(".attention.layer_norm_epsilon")
    if not (type(eps) is float and abs(eps - 1e-5) < 1e-9):
        wrong.append(f"layer_norm_epsilon is {eps!r:.80}, not 1e-5")
    if wrong:
        raise UserError(f"{path} is not a GPT-2 that pealm has: {'; '.join(wrong)}")
    try:
        config = GPT2Config(**sizes)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    check_shapes(config, shapes, where=path)
    check_size(tokens, config.vocab_size, path)
    state = {_ours(name): file.tensor(name) for name in file.tensors}
    head = state.pop("lm_head.weight", None)
    if head is not None and not head.equal(state["wte.weight"]):
        raise UserError(f"{path} does not fit: its output.weight is not token_embd.weight, and GPT-2 ties them")
    return config, resize(state, vocab_size=tokens, block_size=config.block_size)


def fields_of(config: GPT2Config) -> dict[str, Any]:
    """Return the settings of a model in a GGUF file."""
    sizes = {key: getattr(config, name) for name, key in SIZES.items()}
    inner, eps = 4 * config.n_embd, 1e-5
    return {**sizes, ".feed_forward_length": inner, ".attention.layer_norm_epsilon": eps}


def tensors_of(config: GPT2Config, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict under llama.cpp's names."""
    for name, tensor in complete(config, state).items():
        module, _, kind = name.rpartition(".")
        words = module.split(".", 2)
        layer, part = (f"blk.{words[1]}.", words[2]) if words[0] == "h" else ("", module)
        yield f"{layer}{MODULES[part]}.{kind}", tensor


def _ours(name: str) -> str:
    """Return our name of a tensor; one that we do not know stays."""
    module, _, kind = name.rpartition(".")
    words = module.split(".", 2)
    layer, part = (f"h.{words[1]}.", words[2]) if words[0] == "blk" and len(words) == 3 else ("", module)
    return f"{layer}{OURS[part]}.{kind}" if part in OURS else name
