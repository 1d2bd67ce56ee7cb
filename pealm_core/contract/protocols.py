"""The methods that the core calls on each component. No base class is needed; optional methods may be missing."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Model(Protocol):
    """A language model: a `torch.nn.Module` with this `forward`, and with its settings as `config`. Optional:

    `make_cache(batch, length)` returns a cache for `batch` rows of up to `length` tokens. The core only passes it
    back as `cache=` and calls its `repeat(n)` (every row becomes n rows). Attention uses `KVCache`; a recurrent
    model has a cache of its own. A cache may also have `select(rows)`, a copy of the rows with these indices (a 1-D
    tensor, possibly with repeats), with which scoring pads less; `join(others)`, a cache of its rows and those of
    other caches, with which prompts of different lengths share a batch; and `cut(n)`, which forgets the last n tokens
    of each row, with which guessed tokens can be verified. Without `make_cache`, every generated token costs a pass
    over the whole context.

    `adapt_weights(tensors)` returns the tensors of `--init` as this model's state dict, where other programs save the
    same weights under more names or in other shapes. ValueError: they are not this model's.

    `layers`, the residual blocks in order, whose first argument and result (or its first item) are hidden states, and
    `unembed(x)`, from the last of them to logits: what `LM.trace` looks at.
    """

    config: Any

    def __call__(
        self, idx: "Tensor", targets: "Tensor | None" = None, *, cache: Any = None, at: Any = None
    ) -> "tuple[Tensor | None, Tensor | None] | tuple[Tensor | None, Tensor | None, Mapping[str, Tensor]]":
        """Return (logits, loss) for idx, (B, T) token ids that follow those in the cache and are added to it.

        T <= block_size. With targets (B, T), loss is the mean cross-entropy in nats and logits may be None. Without
        targets, logits are (B, n, vocab_size) for the n positions of `at`, an index into dimension 1 (`x = x[:, at]`:
        a list, a slice or a 1-D tensor), or for all T positions if `at` is None.

        Targets that are `IGNORE` (-100) are not scored. With targets, a third value may be returned: metrics, scalars
        by name, which are averaged as the loss is and logged. In training mode, the loss may have further terms; in
        eval mode it is the cross-entropy.
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
    """A tokenizer: text to token ids and back. Optional:

    `eot_id`: the end-of-text token, or None. `fit(texts)`: learn the vocabulary from the training texts; called once,
    before any other method, unless a saved vocabulary was loaded. `stream_decoder()`: return a function from the next
    id to the text that it completes: whole characters, or "". `save(dir)`: write the vocabulary into an empty folder;
    `load(dir)`: read it into this tokenizer, which was made from the same config. A tokenizer with `fit` needs both.
    `fits_whole = True`: `fit` gets the validation texts as well, for instance to know every character.
    `fit_bytes`: of more training text, `fit` gets a sample of so many bytes, from all over it.
    `bos_id`: the token that begins each text, as Llama's `<s>`, or None. The core puts it before documents, after the
    end-of-text token, which it needs, and before prompts; `encode` does not.
    `by_character = True`: a text cut anywhere encodes to the same ids, so that long documents are encoded in pieces.
    `specials`: its special tokens, name → id. The core adds those that a dataset or objective names and that are
    missing, with ids from `vocab_size` on, and saves them beside it (`specials.json`). `encode` returns none of them.
    `chat_template`: None, or how its conversations are laid out, which replaces the dataset's layout; then
    `render_chat(messages, *, answer)` returns the ids in pieces, each with whether it is learned. With `answer`, the
    start of the assistant's answer follows. Raises ValueError for messages that it can't lay out.

    If there is an `eot_id`, the core puts it before every document of the training text, starts an empty prompt with
    it, and stops generating at it.
    """

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> Sequence[int]:
        """Return the token ids of a text. Raises ValueError for text that it can't express."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""


class Dataset(Protocol):
    """Documents by split. The constructor uses neither disk nor network. Optional:

    `prepare()`: download the data, once; or `prepare_command`, a click command, if that needs options (other commands
    of pealm are those of its context's `find_root().command`).
    `entropy_floor` (a number, not a method): the lowest possible loss in nats per character.
    `whole()`: all documents of both splits, for a text of the user's own.
    `specials` (names, not a method): the special tokens that its segments use. `chat` (a mapping): the layout of its
    conversations, such as `pealm_core.CHAT_LAYOUT`, whose tokens are added as well. Checkpoints keep it
    (`tokenizer/chat.json`), and `tokenizer.chat` is what `LM.chat` follows. `notes`: lines to show, once it was read.
    `packed = True`: rows are whole documents, filled by best fit, as for conversations; without it, rows are windows
    of one stream of tokens. Longer documents are cut, and rows are padded with targets that are not scored.

    A dataset of token ids has `shards(split)` instead of `documents`: 1-D arrays of token ids, or objects with the
    length and the slices of one (`TokenFile`). It may have `vocab_size` (a number); `check(vocab_size)`, which raises
    UserError if an id is outside the vocabulary; `masks(split)`, for each shard an array as long as it, 0 where a
    token is not learned, or None; and `offsets(split)`, for each shard where its documents start, needed by `packed`.

    A dataset of documents may have `parts(split)`: independent pieces in order, which worker processes tokenize in
    parallel (the token cache, `pealm tokenize`), and whose documents together are those of the split. Each can be
    pickled and has `name` (with `version`, if it has one, different where the content is), `size` in bytes, and
    `documents()`. If it has `continues = True`, its first document is the rest of the previous part's last one.
    `split_parts()`: parts of both splits, whose documents come in pairs with "train" or "val", so that each is read
    once. Such a part may have `fetch(work, *, quiet)`, which brings its data to the folder `work` and returns the
    pieces to tokenize, and `remove(work)`. `shard_name`: a function from a number to a shard's name, if all documents
    are of one stream, with the split "train", whose first shard is for validation.
    `version()`: what changes with the documents, as JSON: its settings, sizes and times of files; None: unknown.
    While it and the dataset's code are the same, the token cache does not read the documents again.

    A dataset may instead make its own samples: `source(split, *, tokenizer, block_size, seed) -> Source`.
    """

    def documents(self, split: str) -> Iterator[Document]:
        """Return the documents of "train" or "val", the same ones on every call: texts, or sequences of segments.

        If the tokenizer has an end-of-text token, the core puts it before each document. It is learned if the
        document's first segment is.
        """


class Evaluator(Protocol):
    """An evaluation. The constructor uses neither disk nor network. Optional: `prepare()` or `prepare_command`, as in
    a dataset; a setting `limit`, which `pealm eval --limit N` sets.

    If its record has `input`, `evaluate` also gets `dataset` and `split`: "whole" for a text that was named for this
    evaluation (`Dataset.whole`), else "val".
    """

    def evaluate(
        self, model: Model, tokenizer: Tokenizer, *, config: Mapping[str, Any], progress: Callable[..., None]
    ) -> "EvalResult":
        """Score a model that is in eval mode on its device.

        config: the tables of the checkpoint's config.toml, or {}. `config["input"]` is the training data:
        {"kindergarten": 1, "stories": 20000}, where the dataset's name has its value. `config["inputs"]` is a list of
        such tables, also with one input; those of a mixture have a `weight`, and there is no `config["input"]` then.
        progress: a function to call with (done, total) or (done, total, "a message").
        Every process calls this, and `score` divides the work among them; only rank 0 prints and writes.
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
