"""What the page shows of a model, as JSON: tokens, the next token's probabilities, attention, the logit lens."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core import LM, Sampling, UserError, cover, probabilities, start_token, stream_decoder
from pealm_serve.generation import logprobs_of

Json = dict[str, Any]

LIKELIEST = 20  # next tokens, or neighbours
LENS = 5  # predictions of each layer at each token
MOST_TOKENS = 128  # of a text whose attention is sent: L * H * T * T bytes
NUMBER = (int, float)
BOUNDS: dict[str, tuple[tuple[type, ...], float, float]] = {
    "temperature": (NUMBER, 0, 100),
    "top_k": ((int,), 1, 10**9),
    "top_p": (NUMBER, 1e-6, 1),
    "min_p": (NUMBER, 1e-6, 1),
    "seed": ((int,), 0, 2**63 - 1),
}


def token_text(lm: LM, token: int, before: Sequence[int] = ()) -> str:
    """Return a token as it is shown after others: its text, a special token's name, or its number."""
    start = list(before[-4:])
    known, text = lm.tokenizer.decode(start) if start else "", lm.tokenizer.decode([*start, token])
    text = text[len(known) :] if text.startswith(known) else lm.tokenizer.decode([token])
    return text or _special(lm, token)


def _special(lm: LM, token: int) -> str:
    names = {number: name for name, number in getattr(lm.tokenizer, "specials", {}).items()}
    return str(names.get(token, f"<{token}>"))


def checked_ids(lm: LM, ids: object) -> list[int]:
    """Return token ids that a client sent. Raises UserError."""
    size = lm.tokenizer.vocab_size
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < size for i in ids):
        raise UserError(f"ids: a list of numbers from 0 to {size - 1:,} is needed")
    return ids


def sampling(values: object, **fixed: Any) -> Sampling:
    """Return the settings of the page's sliders; null and missing ones are the defaults. Raises UserError."""
    if not isinstance(values, Mapping):
        raise UserError("sampling: an object is needed")
    chosen = {name: values[name] for name in BOUNDS if values.get(name) is not None}
    for name, value in chosen.items():
        kinds, low, high = BOUNDS[name]
        if type(value) not in kinds or not low <= value <= high:
            raise UserError(f"sampling: {name} must be from {low:g} to {high:g}, not {value!r:.40}")
    try:
        return Sampling(**{**chosen, **fixed})
    except ValueError as error:
        raise UserError(f"sampling: {error}") from error


@torch.inference_mode()
def encoded(lm: LM, text: str) -> Iterator[Json]:
    """Yield the tokens of a text, each with its log-probability given those before it, where it has one.

    As `LM.logprobs`, but a pass at a time, between which others have their turns; what comes first is empty.
    """
    ids, block = lm.encode(text), lm.model.config.block_size  # type: ignore[union-attr]
    begins = not text or getattr(lm.tokenizer, "bos_id", None) is not None
    logprobs: list[float | None] = [None] if begins else []
    for context, rest in cover(ids if begins else [start_token(lm.tokenizer), *ids], block):  # type: ignore[arg-type]
        idx = torch.tensor([[*context, *rest[:-1]]], device=_device(lm))
        logits = lm.model(idx, at=slice(len(context) - 1, None))[0][0]  # (n, V)
        logprobs += logprobs_of(logits, torch.tensor(rest, device=_device(lm)), 0)[0]
        yield {}
    yield _tokens(lm, ids, logprobs)


def _tokens(lm: LM, ids: Sequence[int], logprobs: Sequence[float | None]) -> Json:
    """text: what a token completes, "" for a part of a character; special tokens have their names."""
    decoder, ends = stream_decoder(lm.tokenizer), {*getattr(lm.tokenizer, "specials", {}).values()}
    rows = [
        {"id": i, "text": decoder(i) or (_special(lm, i) if i in ends else ""), "logprob": logprob}
        for i, logprob in zip(ids, logprobs, strict=True)
    ]
    return {"tokens": rows}


@torch.inference_mode()
def following(lm: LM, ids: Sequence[int], chosen: Sampling, token: int | None = None) -> Json:
    """Return the likeliest tokens after ids: p, the model's probability, and q, after temperature, top-k and so on.

    token: one that is listed in any case. bits: the entropy of p. kept: how many tokens have a q above 0.
    """
    block: int = lm.model.config.block_size  # type: ignore[assignment, union-attr]
    idx = torch.tensor([list(ids)[-block:] or [start_token(lm.tokenizer)]], device=_device(lm))
    logits = lm.model(idx, at=[-1])[0][:, -1].float()  # (1, V)
    p = logits.softmax(-1)[0].cpu()
    if chosen.temperature == 0:
        q = F.one_hot(logits.argmax(-1), logits.shape[-1])[0].float().cpu()
    else:
        q = probabilities(logits, chosen)[0].cpu()
    best = p.topk(min(LIKELIEST, len(p))).indices.tolist()
    if token is not None and token not in best:
        best.append(token)
    rows = [
        {
            "id": i,
            "text": token_text(lm, i, ids),
            "p": float(p[i]),
            "q": float(q[i]),
            "rank": int((p > p[i]).sum()) + 1,
        }
        for i in best
    ]
    bits = float(-(p * p.clamp_min(1e-30).log2()).sum())
    return {"tokens": rows, "bits": bits, "kept": int((q > 0).sum()), "vocabulary": len(p)}


def inside(lm: LM, text: str) -> Iterator[Json]:
    """Yield what a model does with a text, in parts that take about a forward pass each, of one JSON object.

    attention: in bytes of 1/255, base64. lens: what is likeliest before the first layer and after each, or, if the
    model doesn't show that, at its end alone.
    """
    block: int = lm.model.config.block_size  # type: ignore[assignment, union-attr]
    ids = lm.encode(text)
    kept = ids[: min(block, MOST_TOKENS)]
    trace = lm.trace(kept)
    yield {**_tokens(lm, kept, [None, *trace.logprobs.tolist()]), "cut": len(ids) - len(kept)}
    if trace.attention is None:
        yield {"layers": 0, "heads": 0, "attention": None}
    else:
        layers, heads = trace.attention.shape[:2]
        attention = (trace.attention * 255).round().byte().numpy().tobytes()
        yield {"layers": layers, "heads": heads, "attention": base64.b64encode(attention).decode()}
    shown = range(len(trace.hidden)) if trace.hidden is not None and trace.unembed is not None else [None]
    lens = []
    for layer in shown:
        best = trace.top(LENS, layer)
        lens.append([[(token_text(lm, i, kept[: t + 1]), round(p, 4)) for i, p in row] for t, row in enumerate(best)])
        yield {"lens": lens}


@torch.inference_mode()
def neighbours(lm: LM, token: int) -> Json:
    """Return the tokens whose embeddings have the largest cosine with a token's."""
    size = lm.tokenizer.vocab_size
    table = next((m for m in lm.model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings >= size), None)
    if table is None:
        return {"tokens": []}
    rows: Tensor = F.normalize(table(torch.arange(size, device=_device(lm))).float(), dim=-1)  # (V, C)
    cosine = (rows @ rows[token]).cpu()
    cosine[token] = -math.inf
    best = cosine.topk(min(LIKELIEST, size - 1))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"tokens": [{"id": i, "text": token_text(lm, i), "cosine": round(value, 4)} for i, value in pairs]}


def _device(lm: LM) -> torch.device:
    return next(lm.model.parameters()).device


def about(lm: LM) -> Json:
    """Return a model's facts for the page's head."""
    config = lm.config.get("model", {})
    settings: Any = lm.model.config
    return {
        "model": config.get("name", type(lm.model).__name__),
        "parameters": sum(p.numel() for p in lm.model.parameters()),
        "block_size": settings.block_size,
        "vocabulary": lm.tokenizer.vocab_size,
        "layers": len(list(getattr(lm.model, "layers", ()))),
    }
