"""A model, a tokenizer, datasets and an evaluation, for distributions that are installed without any of these.

`scripts/proof/fresh_installs.sh` names it in PEALM_PLUGINS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pealm_core import (
    CHAT_LAYOUT,
    DatasetSpec,
    EvalResult,
    EvaluatorSpec,
    ModelSpec,
    Segment,
    TokenizerSpec,
    chat_document,
    hookimpl,
)


@dataclass(frozen=True)
class SmallConfig:
    """The two settings that every model has."""

    vocab_size: int = 0
    block_size: int = 32


class Small(nn.Module):
    """A model that sees one token: an embedding, a layer and a head."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, 16)
        self.blocks = nn.ModuleList([nn.Linear(16, 16)])
        self.head = nn.Linear(16, config.vocab_size, bias=False)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, *, cache: Any = None, at: Any = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B, T) ids to (B, T, V) logits; with targets, the mean cross-entropy instead."""
        x = self.tokens(idx if at is None else idx[:, at])
        logits = self.head(x + F.gelu(self.blocks[0](x)))
        if targets is None:
            return logits, None
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Bytes:
    """The bytes of UTF-8, and an end-of-text token."""

    vocab_size = 257
    eot_id = 256
    by_character = True

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        """The text of bytes."""
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")


class Counting:
    """Documents that count."""

    def documents(self, split: str) -> Iterator[str]:
        """Yield 300 documents for training, 30 for validation."""
        for n in range(300 if split == "train" else 30):
            yield f"{split} {n} comes before {n + 1} and after {n - 1}.\n"


class Talking:
    """Conversations about numbers."""

    chat = CHAT_LAYOUT
    packed = True

    def documents(self, split: str) -> Iterator[list[Segment]]:
        """Yield 300 conversations for training, 30 for validation."""
        for n in range(300 if split == "train" else 30):
            asked = {"role": "user", "content": f"What comes after {n}?"}
            yield chat_document([asked, {"role": "assistant", "content": f"{n + 1}"}])


class Size:
    """An evaluation that counts parameters."""

    def evaluate(self, model: nn.Module, tokenizer: Any, *, config: Any, progress: Any) -> EvalResult:
        """Return the number of parameters."""
        return EvalResult(metrics={"parameters": (float(sum(p.numel() for p in model.parameters())), 0.0)}, n=1)


@hookimpl
def pealm_evaluators() -> Iterator[EvaluatorSpec]:
    """Register the evaluation `size`."""
    yield EvaluatorSpec(name="size", summary="Number of parameters", factory=Size)


@hookimpl
def pealm_models() -> Iterator[ModelSpec]:
    """Register the model `small`."""
    yield ModelSpec(name="small", summary="One layer", config=SmallConfig, factory=Small, tokenizer="bytes")


@hookimpl
def pealm_tokenizers() -> Iterator[TokenizerSpec]:
    """Register the tokenizer `bytes`."""
    yield TokenizerSpec(name="bytes", summary="UTF-8 bytes", factory=Bytes)


@hookimpl
def pealm_datasets() -> Iterator[DatasetSpec]:
    """Register the datasets `counting` and `talking`."""
    yield DatasetSpec(name="counting", summary="Documents that count", factory=Counting)
    yield DatasetSpec(name="talking", summary="Conversations about numbers", factory=Talking)
