"""What the core asks of each component. Nothing has to be inherited: having the methods is enough.

Methods marked optional may be missing; the core then does without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class ModelConfig(Protocol):
    """The two settings that every model's config has. The core fills vocab_size from the tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def block_size(self) -> int: ...


class Model(Protocol):
    """A language model; in fact a `torch.nn.Module`. Some methods are optional:

    `make_cache(batch, length)` gives a cache for `batch` rows of up to `length` tokens. The core only passes it
    back as `cache=` and calls its `repeat(n)` (every row becomes n rows). Attention uses `KVCache`; a recurrent
    model brings its own state. A cache may offer `select(rows)`, too: a copy of these rows (a 1-D tensor of their
    numbers, some of them several times), with which scoring pads less. Without `make_cache` the model is run over
    its whole window for each token.

    `adapt_weights(tensors)`, also optional, returns the tensors of `--init` as this model's state dict, where other
    programs save the same weights under more names or in other shapes. ValueError: they are not this model's.
    """

    config: ModelConfig

    def __call__(
        self, idx: "Tensor", targets: "Tensor | None" = None, *, cache: Any = None, at: Any = None
    ) -> "tuple[Tensor | None, Tensor | None]":
        """idx: (B, T) token ids, T <= block_size, continuing what the cache holds. Returns (logits, loss).

        The call changes the cache: afterwards it holds these T tokens, too.

        With targets (B, T), loss is the mean cross-entropy in nats and logits may be None.
        Without, logits are (B, n, vocab_size) for the n positions of `at`, which indexes dimension 1 of idx
        (`x = x[:, at]` is all it takes: a list, a slice, a 1-D tensor); None: for all T positions.
        """
        ...


class Tokenizer(Protocol):
    """Text to token ids and back. Optional:

    `eot_id`: the end-of-text token, or None. `fit(texts)`: learn the vocabulary from training texts; called once,
    before anything else, unless a saved one was loaded. `stream_decoder()`: a function from one id to the text
    that it completes (never half a character), and "" while it can't tell yet. `save(dir)`: write the vocabulary
    into a folder that is there and empty; `load(dir)`: put it back into this tokenizer, which was made from the same
    config. A tokenizer with nothing to keep has neither; one that can fit needs both.

    Where there is an `eot_id`, the core puts it before every document of the training text, starts an empty prompt
    from it, and ends a sampled text where it comes up.
    """

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a text. Raises ValueError for text that it can't express."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


class Dataset(Protocol):
    """Documents by split. Constructing one touches neither disk nor network. Optional:

    `prepare()`: download what is needed, once; `prepare_command`, a click command instead, where that takes options.
    `entropy_floor` (a number, no method): nats per character that no model can beat.

    `whole()`: all documents, whatever the split, of a text that is the user's own.

    A dataset that is tokenized already has, in place of `documents`, `shards(split)`: 1-D arrays of token ids, or
    whatever gives its length and a slice of itself as one (`TokenFile`). With them may come `vocab_size` (a number),
    where it is recorded, and `check(vocab_size)`, which raises UserError where an id is beyond the vocabulary.
    """

    def documents(self, split: str) -> Iterator[str]:
        """The documents of "train" or "val", the same ones on every call."""
        ...


class Run(Protocol):
    """A training run, as the hooks of a run get it: its folder, its config as in config.toml, this process's rank."""

    dir: Path
    config: Mapping[str, Any]
    rank: int


class Evaluator(Protocol):
    """An evaluation. Constructing one touches neither disk nor network. Optional: `prepare()` and `prepare_command`,
    as a dataset has them; a setting `limit`, which `pealm eval --limit N` sets.

    One whose record says `input` also gets `dataset` and `split`: "whole" for a text that was named for this
    evaluation (`Dataset.whole`), else "val".
    """

    def evaluate(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        config: Mapping[str, Any],
        progress: Callable[..., None],
    ) -> "EvalResult":
        """Score a model that is in eval mode on its device.

        config: the checkpoint's tables, as its config.toml has them, {} for a model without. `config["input"]`
        tells what it was trained on: {"kindergarten": 1, "stories": 20000}, the dataset's name holding its value.
        progress: called with (done, total), or (done, total, "what to say of it"), as it goes.
        Of several processes every one calls this and `score` shares the work; only the first one shows and writes.
        """
        ...


@dataclass(frozen=True)
class EvalResult:
    """metrics: name → (value, standard error); n: what was scored; notes: lines for people; details: per row."""

    metrics: Mapping[str, tuple[float, float]]
    n: int
    notes: Sequence[str] = ()
    details: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


def has(component: Any, method: str) -> bool:
    """Whether a component offers an optional method."""
    return callable(getattr(component, method, None))
