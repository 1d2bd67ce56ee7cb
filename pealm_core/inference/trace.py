"""What happens inside a model as it reads a text: hidden states, attention, and what each layer would predict."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Tokenizer, has
from pealm_core.inference.generate import stream_decoder


@dataclass(frozen=True)
class Trace:
    """One forward pass over T tokens, in fp32 on the CPU. What the model doesn't show is None.

    tokens: the text that each id completes. logits: (T, V), of what follows each token. logprobs: (T - 1,), the
    log-probabilities (nats) of the tokens after the first, given those before them. hidden: (L + 1, T, C), before the
    first layer and after each. attention: (L, H, T, T), how much each token attends to each, rows that sum to 1.
    """

    ids: list[int]
    tokens: list[str]
    logits: Tensor
    logprobs: Tensor
    hidden: Tensor | None = None
    attention: Tensor | None = None
    unembed: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def top(self, k: int = 20, layer: int | None = None) -> list[list[tuple[int, float]]]:
        """Return the k most likely next tokens after each token, (id, probability), of the model or of one layer."""
        logits = self.logits if layer is None else self.layer_logits(layer)
        best = logits.softmax(-1).topk(min(k, logits.shape[-1]))
        return [
            list(zip(ids, p, strict=True)) for ids, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def layer_logits(self, layer: int) -> Tensor:
        """Return (T, V) logits of the head applied to hidden[layer] (the logit lens, nostalgebraist 2020).

        Layer 0 is before the first one, -1 the last one. Raises UserError if the model has no `layers` or `unembed`.
        """
        if self.hidden is None or self.unembed is None:
            raise UserError(
                "what a layer would predict needs a model with `layers` and `unembed`, see docs/contract.md"
            )
        return self.unembed(self.hidden[layer, None])[0].float().cpu()


class _Attention(TorchFunctionMode):
    """While it is active in this thread, keep the weights of each attention, which torch's kernels don't return."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []  # of each call, (H, T, T)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3:
            q, k, _ = args
            self.weights.append(_weights(q, k, kwargs.get("attn_mask"), causal=bool(kwargs.get("is_causal"))))
        return func(*args, **kwargs)


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """(1, H, T, D) queries and (1, KV, S, D) keys to (H, T, S) weights; mask: (T, S), true where a key is seen."""
    with torch.autocast(q.device.type, enabled=False):
        keys = k[0].float().repeat_interleave(q.shape[1] // k.shape[1], dim=0)
        scores = q[0].float() @ keys.mT * q.shape[-1] ** -0.5
    mask = torch.ones_like(scores, dtype=torch.bool).tril() if causal else mask
    masked: Tensor = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return masked.softmax(-1).cpu()


@torch.no_grad()
def trace(model: Any, ids: Sequence[int], tokenizer: Tokenizer) -> Trace:
    """Run a model in eval mode over token ids and keep what happens inside. Raises UserError for too many or none.

    Hidden states need the model's `layers`, attention its `causal_attention` (or torch's), once in each layer.
    """
    if not 0 < len(ids) <= model.config.block_size:
        raise UserError(
            f"{len(ids):,} tokens can't be traced: this model reads 1 to {model.config.block_size:,} at a time"
        )
    states: list[Tensor] = []

    def keep_input(module: Any, args: Any) -> None:
        states.append(args[0][0].float())

    def keep_output(module: Any, args: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[0].float())

    layers = list(getattr(model, "layers", ()))
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            if number == 0:
                stack.callback(layer.register_forward_pre_hook(keep_input).remove)
            stack.callback(layer.register_forward_hook(keep_output).remove)
        attention = stack.enter_context(_Attention())
        idx = torch.tensor([list(ids)], device=next(model.parameters()).device)
        logits = model(idx)[0][0].float()  # (T, V)
    if layers and len(states) != len(layers) + 1:
        raise PluginError(f"{type(model).__name__}.layers: a forward pass must call each of them once")
    weights = [each.reshape(-1, len(ids), len(ids)) for each in attention.weights]
    alike = len({each.shape for each in weights}) == 1 and len(weights) == (len(layers) or len(weights))
    chosen = idx[0, 1:, None]
    return Trace(
        ids=list(ids),
        tokens=list(map(stream_decoder(tokenizer), ids)),
        logits=logits.cpu(),
        logprobs=logits[:-1].log_softmax(-1).gather(-1, chosen)[:, 0].cpu(),
        hidden=torch.stack(states).cpu() if layers else None,
        attention=torch.stack(weights) if alike else None,
        unembed=_on_device(model) if has(model, "unembed") else None,
    )


def _on_device(model: Any) -> Callable[[Tensor], Tensor]:
    def unembed(hidden: Tensor) -> Tensor:
        logits: Tensor = model.unembed(hidden.to(next(model.parameters()).device))
        return logits

    return unembed
