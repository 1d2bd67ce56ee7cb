"""`pealm data`: what is in token shards or another input."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from pealm_core import ComponentCommand, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS, SAMPLES, SHOWN, CHUNK = ("train", "val"), 10, 80, 2**22


@click.command(cls=ComponentCommand, flat={}, components=("input", "tokenizer"))
@click.option("--tokenizer", metavar="NAME", help="Tokenizer, for an input of text (default: lengths in characters).")
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
def data(job: Any, **_: Any) -> None:
    """Count documents and tokens, and show lengths, samples and duplicates.

    \b
    pealm data --input.npy-shards shards
    pealm data --input.records docs.jsonl --tokenizer-dir shards
    """
    from pealm_core import make_datasets, make_tokenizer

    if len(job.inputs) != 1:
        raise UserError("data needs one input: --input.NAME, see --help")
    ((table, dataset),) = make_datasets(job).items()
    tokenizer = make_tokenizer(job, None, dataset) if "tokenizer" in job.entries else None
    for split in SPLITS:
        if hasattr(dataset, "shards"):
            shards = list(dataset.shards(split))
            click.echo(f"{split}: {sum(map(len, shards)):,} tokens in {len(shards):,} shards")
            if tokenizer is not None:
                _check(shards, tokenizer.vocab_size)
            documents = _of_shards(dataset, split, tokenizer)
        elif hasattr(dataset, "documents"):
            documents = _of_text(dataset, split, tokenizer)
        else:
            raise UserError(
                f"--input.{job.entries[table].name} makes its own samples; there are no documents to show"
            )
        _describe(split, documents)


Counted = tuple[int, bytes, str]  # the length of a document, its hash and its start as text


def _of_text(dataset: Any, split: str, tokenizer: Any) -> Iterator[Counted]:
    from pealm_core import encode_document  # needs numpy, which the help page does without

    for document in dataset.documents(split):
        parts = [document] if isinstance(document, str) else [part.text for part in document]
        length = sum(map(len, parts))
        if tokenizer is not None:
            length = sum(len(ids) for ids, _ in encode_document(document, tokenizer))
        digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        yield length, digest, "".join(parts)[:SHOWN]


def _of_shards(dataset: Any, split: str, tokenizer: Any) -> Iterator[Counted]:
    import numpy as np

    offsets = dataset.offsets(split) if hasattr(dataset, "offsets") else None
    for shard, places in zip(dataset.shards(split), offsets or (), strict=bool(offsets)):
        starts = [*np.asarray(places[:]).tolist(), len(shard)]
        for start, stop in pairwise(starts):
            ids: NDArray[Any] = shard[start:stop]
            text = repr(ids[:10].tolist()) if tokenizer is None else tokenizer.decode(ids[:SHOWN].tolist())[:SHOWN]
            yield stop - start, hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), text


def _check(shards: list[Any], size: int) -> None:
    """Print the number of ids outside the vocabulary, if there are any."""
    import numpy as np

    wrong = 0
    for shard in shards:
        for start in range(0, len(shard), CHUNK):
            ids = np.asarray(shard[start : start + CHUNK])
            wrong += int(((ids >= size) | (ids < 0)).sum())
    if wrong:
        click.echo(f"  {wrong:,} ids are outside the vocabulary of {size:,}")


def _describe(split: str, documents: Iterator[Counted]) -> None:
    import numpy as np

    lengths, seen, twice, samples = [], set[bytes](), 0, []
    for number, (length, digest, text) in enumerate(documents):
        lengths.append(length)
        twice += digest in seen
        seen.add(digest)
        if number < SAMPLES:
            samples.append(text)
    if not lengths:
        click.echo(f"  {split}: where documents start is not known")
        return
    middle, largest = int(np.median(lengths)), max(lengths)
    click.echo(
        f"{split}: {len(lengths):,} documents, {sum(lengths):,} in all; median length {middle:,}, at most {largest:,}"
    )
    click.echo(f"  {twice:,} are duplicates of an earlier document")
    counts = np.bincount(np.log2(np.maximum(lengths, 1)).astype(int))
    for power, count in enumerate(counts.tolist()):
        if count:
            bar = "#" * round(40 * count / counts.max())
            click.echo(f"  {2**power:>9,} to {2 ** (power + 1) - 1:>9,}  {count:>9,}  {bar}")
    for text in samples:
        click.echo(f"  | {' '.join(text.split())}")
