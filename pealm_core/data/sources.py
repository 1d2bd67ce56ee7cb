"""The sources of a job in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pealm_core.config.job import Job
from pealm_core.contract.errors import UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.contract.training_parts import Source
from pealm_core.data.token_cache import fingerprint, open_shards, tokenize
from pealm_core.data.windows import FixedWindows, Windows


@dataclass(frozen=True)
class Data:
    train: Source
    val: Sequence[tuple[str, float, Source]]
    key: str
    characters_per_token: float | None
    cached: bool
    block_size: int
    name: str
    entropy_floor: float | None

    @property
    def tokens(self) -> int:
        return self.train.tokens


def sources(
    job: Job,
    datasets: Mapping[str, Dataset],
    tokenizer: Tokenizer,
    block_size: int,
    seed: int,
    *,
    say: Callable[[str], None],
) -> Data:
    dataset = datasets["input"]
    if has(dataset, "shards"):
        corpus = open_shards(dataset, tokenizer.vocab_size)
    else:
        entry = job.entries["tokenizer"]
        mark = fingerprint(entry.spec.name, dump(job.configs["tokenizer"]), tokenizer)
        corpus = tokenize(dataset, tokenizer, mark, say=say)
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        if not shards:
            raise UserError(f"--input.{job.entries['input'].name} has no {split} text")
    windows = []
    for split, shards in (("training", corpus.train), ("validation", corpus.val)):
        try:
            windows.append(
                Windows(shards, block_size, seed=seed) if split == "training" else FixedWindows(shards, block_size)
            )
        except ValueError as error:
            raise UserError(
                f"--input.{job.entries['input'].name}: the {split} text is too short: {error}; "
                f"use more text or a smaller --block-size"
            ) from error
    return Data(
        windows[0],
        [("", 1.0, windows[1])],
        corpus.key,
        corpus.characters_per_token,
        corpus.cached,
        block_size,
        job.entries["input"].name,
        getattr(dataset, "entropy_floor", None),
    )
