"""The methods that the core calls on each component. No base class is needed; optional methods may be missing.

docs/contract.md is the reference: shapes, what is optional, and what may be raised.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Model(Protocol):
    """A language model: a `torch.nn.Module` with this `forward`, and with its settings as `config`.

    Optional: `make_cache(batch, length)`, `adapt_weights(tensors)`, `layers` and `unembed(x)`.
    """

    config: Any

    def __call__(
        self, idx: "Tensor", targets: "Tensor | None" = None, *, cache: Any = None, at: Any = None
    ) -> "tuple[Tensor | None, Tensor | None] | tuple[Tensor | None, Tensor | None, Mapping[str, Tensor]]":
        """Return (logits, loss), with targets perhaps also metrics. idx (B, T) follows the tokens in the cache.

        Without targets: logits (B, n, vocab_size) for the n positions of `at`, an index into dimension 1, or for all.
        With targets (B, T): the mean cross-entropy over those that are not `IGNORE`, in nats.
        """


@dataclass(frozen=True)
class Segment:
    """A part of a document: a text, or one special token by its name; its tokens are learned unless `learn` is False.

    Text that spells a special token's name is text. Segments are tokenized one by one. Raises TypeError for both.
    """

    text: str = ""
    learn: bool = True
    special: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or (self.text and self.special is not None):
            raise TypeError(f"a Segment is a text or a special token, not {self.text!r:.60} and {self.special!r}")


class Conversation(list[Segment]):
    """A document of messages, as segments in a chat layout; a tokenizer with a chat template renders the messages."""

    def __init__(self, messages: Iterable[Mapping[str, str]]) -> None:
        super().__init__()
        self.messages = list(messages)


Document = str | Sequence[Segment]


class Tokenizer(Protocol):
    """A tokenizer: text to token ids and back.

    Optional: `eot_id`, `bos_id`, `specials`, `fit(texts)`, `save(dir)` and `load(dir)`, `fits_whole`, `fit_bytes`,
    `by_character`, `encode_many(texts)`, `stream_decoder()`, `chat_template` with `render_chat(messages, *, answer)`.
    """

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> Sequence[int]:
        """Return the token ids of a text. Raises ValueError for text that it can't express."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""


class Dataset(Protocol):
    """Documents by split. The constructor uses neither disk nor network.

    Optional: `prepare()` or `prepare_command`, `specials`, `chat`, `packed`, `entropy_floor`, `notes`, `whole()`,
    `parts(split)`, `version()`, `split_parts()`, `shard_name`. Instead of documents: `shards(split)` of token ids
    with `masks(split)`, `offsets(split)`, `vocab_size` and `check(vocab_size)`; or samples, `source(split,
    *, tokenizer, block_size, seed)`.
    """

    def documents(self, split: str) -> Iterator[Document]:
        """Return the documents of "train" or "val", the same ones on every call: texts, or sequences of segments."""


class Evaluator(Protocol):
    """An evaluation. The constructor uses neither disk nor network.

    Optional: `prepare()` or `prepare_command`, as in a dataset; the settings `limit` and `details`.
    """

    def evaluate(
        self, model: Model, tokenizer: Tokenizer, *, config: Mapping[str, Any], progress: Callable[..., None]
    ) -> "EvalResult":
        """Score a model that is in eval mode on its device, on every rank; `score` divides the work among them.

        config: the tables of the checkpoint's config.toml, or {}. progress: a function of (done, total[, message]).
        If its record has `input`, it also gets `dataset` and `split`.
        """


@dataclass(frozen=True)
class EvalResult:
    """metrics: name → (value, standard error); n: scored items; notes: lines to print; details: by item."""

    metrics: Mapping[str, tuple[float, float]]
    n: int
    notes: Sequence[str] = ()
    details: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


def has(component: Any, method: str) -> bool:
    """Return whether a component has an optional method."""
    return callable(getattr(component, method, None))
