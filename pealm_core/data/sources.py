"""From a job's datasets to the sources that training draws from and that it validates with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pealm_core.config.resolve_job import Job
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.contract.training_protocols import Source
from pealm_core.data.mixture import Mixture
from pealm_core.data.packing import VERSION, Packed, write_index
from pealm_core.data.token_cache import cached_folder, fingerprint, tokenize
from pealm_core.data.token_stream import Split, hash_of, open_shards
from pealm_core.data.windows import FixedWindows, Windows

NAMES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Data:
    """The data of a run.

    train: what training draws from. val: for each input its name, its weight (their sum is 1) and what to validate
    with; the name of a single input is "". key: a hash of the content. name: of the inputs, for people. cached: all
    tokens came from the token cache. entropy_floor: the lowest possible loss in nats per token; None: unknown.
    """

    train: Source
    val: Sequence[tuple[str, float, Source]]
    key: str
    name: str
    cached: bool = False
    entropy_floor: float | None = None

    def drawn(self, samples: int) -> dict[str, int] | None:
        """Return how many of the first samples are of each input of a mixture."""
        if not isinstance(self.train, Mixture):
            return None
        return dict(zip((name for name, _, _ in self.val), self.train.drawn(samples), strict=True))


def sources(
    job: Job,
    datasets: Mapping[str, Dataset],
    tokenizer: Tokenizer,
    block_size: int,
    seed: int,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Data:
    """Return the sources of a job's datasets, which are tokenized if they have to be. Raises PealmError.

    datasets: those of `make_datasets`, by table. block_size: T, at most the model's. seed: of the order of samples.
    say: called with lines for the user.
    """
    inputs = [_input(job, table, datasets[table], tokenizer, block_size, seed, say) for table in datasets]
    if len(inputs) == 1:
        return inputs[0]
    weights = [job.weights[table] for table in datasets]
    try:
        train = Mixture([one.train for one in inputs], weights, seed=seed)
    except ValueError as error:
        raise UserError(f"[[input]] {error}") from error
    rows = zip(job.labels, weights, inputs, strict=True)
    val = [(name, weight / sum(weights), source) for name, weight, one in rows for _, _, source in one.val]
    key = hash_of([[one.key, quota] for one, quota in zip(inputs, train.quotas, strict=True)])
    title = " + ".join(f"{name} {weight:.0%}" for name, weight, _ in val)
    return Data(train, val, key, title, all(one.cached for one in inputs))


def _input(
    job: Job,
    table: str,
    dataset: Dataset,
    tokenizer: Tokenizer,
    block_size: int,
    seed: int,
    say: Callable[[str], None],
) -> Data:
    """Return the data of a run with one input: its own sources, windows of its tokens, or rows of its documents."""
    title = job.entries[table].name
    if has(dataset, "source"):
        return _own(title, dataset, tokenizer, block_size, seed)
    option, packed = f"--input.{title}", getattr(dataset, "packed", False)
    if has(dataset, "shards"):
        corpus = open_shards(dataset, tokenizer)
    else:
        name, config = job.entries["tokenizer"].spec.name, dump(job.configs["tokenizer"])
        corpus = tokenize(dataset, tokenizer, fingerprint(name, config, tokenizer), say=say)
        for note in getattr(dataset, "notes", ()):
            say(f"{option}: {note}")
    key = hash_of([corpus.key, "packed", VERSION]) if packed else corpus.key

    def source(name: str, split: Split) -> Source:
        training = name == "train"
        try:
            if packed:
                index = _index(option, name, split, key, block_size, say)
                return Packed(split, block_size, index, seed=seed if training else None)
            return Windows(split, block_size, seed=seed) if training else FixedWindows(split, block_size)
        except ValueError as error:
            advice = "learn something" if packed else "use more text or a smaller --block-size"
            what = "can't be used" if packed else "is too short"
            raise UserError(f"{option}: the {NAMES[name]} text {what}: {error}; {advice}") from error

    ratio, floor = corpus.characters_per_token, getattr(dataset, "entropy_floor", None)  # nats per character
    floor = floor * ratio if floor and ratio else None
    train, val = source("train", corpus.train), source("val", corpus.val)
    return Data(train, [("", 1.0, val)], key, title, corpus.cached, floor)


def _index(option: str, name: str, split: Split, key: str, block_size: int, say: Callable[[str], None]) -> Path:
    """Return the folder with the index of a packed split, which is written at the first use."""
    if len(split.offsets) != len(split.shards):
        raise UserError(f"{option} is packed, but does not say where its documents start: `offsets` is missing")

    def write(aside: Path) -> None:
        if cut := write_index(split, block_size, aside):
            long = f"documents longer than {block_size:,} tokens, each cut into several rows"
            say(f"{option}: {long}: {cut:,} of the {NAMES[name]} text")

    return cached_folder([key, name, block_size], {"block_size": block_size}, write)[0]


def _own(title: str, dataset: Any, tokenizer: Tokenizer, block_size: int, seed: int) -> Data:
    """Return a dataset's own sources. The key is of their sizes and first samples, which stand for all of them."""
    made = [dataset.source(name, tokenizer=tokenizer, block_size=block_size, seed=seed) for name in NAMES]
    starts = [source.rows(range(min(4, len(source)))) for source in made]
    firsts = [{name: values.tolist() for name, values in sorted(start.items())} for start in starts]
    key = hash_of([[source.tokens, len(source), first] for source, first in zip(made, firsts, strict=True)])
    return Data(made[0], [("", 1.0, made[1])], key, title)
