"""From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p."""

import torch
from torch import Tensor

from pealm_core.config.settings import Sampling


def probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Return the distribution to draw the next token from, if temperature > 0: logits (B, V) to probabilities (B, V).

    seen: (B, V), true for tokens that occur in the text so far. Applied in this order: repetition penalty (CTRL,
    Keskar et al. 2019: divides the logit of a seen token if positive, multiplies it if negative), temperature, top-k
    (exactly k tokens, whatever the ties), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
    """
    logits = _penalized(logits.float(), sampling, seen)
    logits, order = logits / sampling.temperature, None
    shape = logits.shape
    if sampling.top_k is not None and sampling.top_k < shape[-1]:
        logits, order = logits.topk(sampling.top_k, dim=-1)  # (B, k), most likely first
    elif sampling.top_p is not None and sampling.top_p < 1:
        logits, order = logits.sort(dim=-1, descending=True)
    p = logits.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        p = p.masked_fill(p.cumsum(-1) - p >= sampling.top_p, 0)  # the tokens before it already reach top_p
    if sampling.min_p is not None:
        p = p.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), 0)
    p = p / p.sum(-1, keepdim=True)
    return p if order is None else p.new_zeros(shape).scatter(-1, order, p)


def next_token(logits: Tensor, sampling: Sampling, noise: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """Draw a token for every row: logits (B, V) to ids (B,). seen: as in `probabilities`.

    noise: (B, V), drawn from the exponential distribution, for temperature > 0; with it, as in torch.multinomial, the
    token of the largest quotient of probability and noise is a draw.
    """
    if noise is None:
        return _penalized(logits, sampling, seen).argmax(-1)
    return (probabilities(logits, sampling, seen) / noise).argmax(-1)


def _penalized(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    if seen is None or sampling.repetition_penalty == 1:
        return logits
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
