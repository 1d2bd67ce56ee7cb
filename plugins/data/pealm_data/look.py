"""`pealm data`: what is in token shards or another input."""

import hashlib
import random
import shutil
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from pealm_core import ComponentCommand, UserError
from pealm_data.terminal import cut, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS, SAMPLES, CHUNK = ("train", "val"), 10, 2**22
SHARDS = "--input.npy-shards"  # what SHARDS stands for
SHOWN = 400  # characters, or tokens, of a sample that are kept


class DataCommand(ComponentCommand):
    """A word that is neither an option nor the value of one is a folder of shards."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--input.npy-shards` before the folder."""
        words: list[str] = []
        for number, word in enumerate(args):
            before = args[number - 1] if number else ""
            if not word.startswith("-") and (not before.startswith("--") or "=" in before):
                words.append(SHARDS)
            words.append(word)
        return super().parse_args(ctx, words)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line, with the folder."""
        return [*super().collect_usage_pieces(ctx), "[SHARDS]"]


@click.command(cls=DataCommand, flat={}, components=("input", "tokenizer"))
@click.option("--tokenizer", metavar="NAME", help="Tokenizer, for an input of text (default: lengths in characters).")
@click.option("--tokenizer-dir", metavar="DIR", help="Use the tokenizer of this run, checkpoint or folder of shards.")
def data(job: Any, **_: Any) -> None:
    """Count the documents and tokens of SHARDS or another input, and show lengths, samples and duplicates.

    \b
    pealm data shards
    pealm data --input.records docs.jsonl --tokenizer-dir shards
    """
    from pealm_core import make_datasets, make_tokenizer

    if len(job.inputs) != 1:
        raise UserError("data needs one input: SHARDS or --input.NAME, see --help")
    ((table, dataset),) = make_datasets(job).items()
    tokenizer = make_tokenizer(job, None, dataset) if "tokenizer" in job.entries else None
    seen: dict[str, NDArray[Any]] = {}
    for split in SPLITS:
        shards: list[Any] = []
        if hasattr(dataset, "shards"):
            shards = list(dataset.shards(split))
            size = tokenizer.vocab_size if tokenizer is not None else getattr(dataset, "vocab_size", None)
            click.echo(f"{split}: {_number(sum(map(len, shards)), 'token')} in {_number(len(shards), 'shard')}")
            click.echo(f"  {_ids(shards, size)}" if shards else "  no shards")
            documents = _of_shards(dataset, split, tokenizer)
        elif hasattr(dataset, "documents"):
            documents = _of_text(dataset, split, tokenizer)
        else:
            raise UserError(
                f"--input.{job.entries[table].name} makes its own samples; there are no documents to show"
            )
        unit = "token" if tokenizer is not None or hasattr(dataset, "shards") else "character"
        seen[split] = _describe("" if hasattr(dataset, "shards") else f"{split}:\n", documents, unit)
        if not len(seen[split]) and shards:
            _samples(_windows(shards, tokenizer))
        click.echo()
    _shared(seen)


Counted = tuple[int, int, Callable[[], str]]  # a document's length, a hash of it, and what gives its start as text


def _of_text(dataset: Any, split: str, tokenizer: Any) -> Iterator[Counted]:
    from pealm_core import encode_document  # needs numpy, which the help page does without

    for document in dataset.documents(split):
        digest, length, start = hashlib.blake2b(digest_size=8), 0, ""
        for part in [document] if isinstance(document, str) else document:
            text = part if isinstance(part, str) else part.special or part.text
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
            length += len(text)
            start += text[: SHOWN - len(start)]
        if tokenizer is not None:
            length = sum(len(ids) for ids, _ in encode_document(document, tokenizer))
        yield length, int.from_bytes(digest.digest(), "big"), lambda start=start: start  # type: ignore[misc]


def _of_shards(dataset: Any, split: str, tokenizer: Any) -> Iterator[Counted]:
    import numpy as np

    offsets, eot = dataset.offsets(split) if hasattr(dataset, "offsets") else None, getattr(tokenizer, "eot_id", None)
    if offsets is None and eot is not None:  # as other programs write them, also before each document
        offsets = [np.flatnonzero(np.asarray(shard[:]) == eot) for shard in dataset.shards(split)]
        offsets = offsets if any(map(len, offsets)) else None
    rest: NDArray[Any] = np.zeros(0, np.int64)  # of a document that the next shard continues
    for shard, places in zip(dataset.shards(split), offsets or (), strict=bool(offsets)):
        starts = np.asarray(places[:]).tolist()
        borders = [*(starts or [len(shard)]), len(shard)]
        if borders[0]:
            rest = np.concatenate([rest, shard[: borders[0]]])
        for start, stop in pairwise(borders):
            if start < stop:
                if len(rest):
                    yield _counted(rest, tokenizer)
                rest = np.asarray(shard[start:stop])
    if len(rest):
        yield _counted(rest, tokenizer)


def _counted(ids: "NDArray[Any]", tokenizer: Any) -> Counted:
    digest = hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=8).digest()
    start = ids[:SHOWN].tolist()
    return len(ids), int.from_bytes(digest, "big"), lambda: _decoded(start, tokenizer)


def _decoded(ids: list[int], tokenizer: Any) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    first = [getattr(tokenizer, name, None) for name in ("eot_id", "bos_id")]  # before each document
    own = [i for place, i in enumerate(ids) if 0 <= i < tokenizer.vocab_size and not (place < 2 and i in first)]
    return str(tokenizer.decode(own))


def _ids(shards: Sequence[Any], size: int | None) -> str:
    """Return which ids there are, and how many are outside the vocabulary."""
    import numpy as np

    least, most, wrong, first = 2**63, -1, 0, ""
    for number, shard in enumerate(shards):
        for start in range(0, len(shard), CHUNK):
            ids = np.asarray(shard[start : start + CHUNK])
            least, most = min(least, int(ids.min())), max(most, int(ids.max()))
            if size is not None and not 0 <= least <= most < size:
                places = np.flatnonzero((ids >= size) | (ids < 0))
                if len(places) and not wrong:
                    first = (
                        f"the first is {int(ids[places[0]]):,}, token {start + int(places[0]):,} of shard {number}"
                    )
                wrong += len(places)
    line = f"ids {least:,} to {most:,}"
    if size is None:
        return f"{line}; the vocabulary is not known"
    if wrong:
        return f"{line}; {_number(wrong, 'id')} outside the vocabulary of {size:,}: {first}"
    return f"{line}, all in the vocabulary of {size:,}"


def _describe(head: str, documents: Iterator[Counted], unit: str) -> "NDArray[Any]":
    """Print what a split has, once it is read; returns the hashes of its documents, sorted."""
    import numpy as np

    rng, lengths, digests = random.Random(0), array("q"), array("Q")
    samples: list[tuple[int, Callable[[], str]]] = []
    for number, (length, digest, text) in enumerate(documents):
        lengths.append(length)
        digests.append(digest)
        if number < SAMPLES:  # each document has the same chance (Vitter's algorithm R)
            samples.append((number, text))
        elif (place := rng.randrange(number + 1)) < SAMPLES:
            samples[place] = number, text
    hashes = np.sort(np.frombuffer(digests, np.uint64)) if digests else np.zeros(0, np.uint64)
    click.echo(head, nl=False)
    if not lengths:
        click.echo("  no documents" if head else "  where documents start is not known")
        return hashes
    sizes = np.frombuffer(lengths, np.int64)
    twice = len(hashes) - len(np.unique(hashes))
    click.echo(f"  {_number(len(sizes), 'document')}, {_number(int(sizes.sum()), unit)} in all")
    click.echo(f"  {twice:,} {'is a duplicate' if twice == 1 else 'are duplicates'} of another document")
    ranks = (0.1, 0.5, 0.9, 1)
    few, middle, many, most = (int(np.quantile(sizes, rank, method="inverted_cdf")) for rank in ranks)
    click.echo(f"  lengths in {unit}s: median {middle:,}, 10% up to {few:,}, 90% up to {many:,}, longest {most:,}")
    _histogram(sizes)
    _samples({number + 1: text for number, text in samples})
    return hashes


def _samples(texts: Mapping[int, Callable[[], str]]) -> None:
    """Print a line for each text with its number, in order."""
    columns, digits = shutil.get_terminal_size().columns, len(f"{max(texts, default=0):,}")
    click.echo("  samples:")
    for number, text in sorted(texts.items()):
        click.echo(cut(f"  {number:>{digits},} | {printable(' '.join(text().split()))}", columns))


def _windows(shards: Sequence[Any], tokenizer: Any) -> dict[int, Callable[[], str]]:
    """Return tokens from evenly spaced places of shards, by the number of the first one."""
    texts: dict[int, Callable[[], str]] = {}
    for sample in range(SAMPLES):
        place = rest = sum(map(len, shards)) * sample // SAMPLES
        for shard in shards:
            if rest < len(shard):
                texts[place] = partial(_decoded, shard[rest : rest + SHOWN].tolist(), tokenizer)
                break
            rest -= len(shard)
    return texts


def _histogram(sizes: "NDArray[Any]") -> None:
    """Print how many documents there are of each length, by powers of two."""
    import numpy as np

    counts = np.bincount(np.frexp(sizes.astype(float))[1])  # an empty document is in class 0
    first, last = int(np.flatnonzero(counts)[0]), len(counts) - 1
    labels = ["0" if power == 0 else f"{2 ** (power - 1):,} to {2**power - 1:,}" for power in range(first, last + 1)]
    width, digits = max(map(len, labels)), len(f"{counts.max():,}")
    room = max(5, min(50, shutil.get_terminal_size().columns - width - digits - 8))
    for label, count in zip(labels, counts[first:].tolist(), strict=True):
        bar = "#" * max(round(room * count / int(counts.max())), int(count > 0))
        click.echo(f"    {label:>{width}}  {count:>{digits},}  {bar}".rstrip())


def _shared(seen: "dict[str, NDArray[Any]]") -> None:
    """Print how many validation documents training has as well."""
    import numpy as np

    train, val = (seen[split] for split in SPLITS)
    if len(train) and len(val):
        shared = int(np.isin(val, train).sum())
        click.echo(
            f"{_number(shared, 'validation document')} {'is' if shared == 1 else 'are'} in the training split as well"
        )


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
