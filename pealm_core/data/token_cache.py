"""The token cache: text is tokenized once and kept as token files, named by a hash of the text and the tokenizer."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pealm_core.config.paths import cache_root, mark, written_aside
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.tokens import TokenFile

SPLITS = ("train", "val")
META = "meta.json"
PIECE = 2**20  # characters


class Shard(Protocol):
    """A 1-D array of token ids, or an object that reads slices of one, as `TokenFile` does."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Corpus:
    """Tokenized data: the shards of each split, and a hash (`key`) of their content."""

    train: Sequence[Shard]
    val: Sequence[Shard]
    key: str
    characters_per_token: float | None  # of val; None: unknown
    cached: bool


def fingerprint(name: str, config: dict[str, Any], tokenizer: Tokenizer) -> str:
    """Return a hash of what the tokenizer saves: equal fingerprints mean equal tokens."""
    digest = hashlib.sha256(json.dumps([name, config], sort_keys=True).encode())
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if has(tokenizer, "save"):
            tokenizer.save(Path(folder))  # type: ignore[attr-defined]
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def tokenize(
    dataset: Dataset, tokenizer: Tokenizer, tokenizer_hash: str, *, say: Callable[[str], None] = lambda line: None
) -> Corpus:
    """Return the dataset's documents as tokens, from the token cache if possible. Raises UserError.

    If the tokenizer has an end-of-text token, it precedes every document. tokenizer_hash: its `fingerprint`.
    """
    key, characters = _key(dataset, tokenizer, tokenizer_hash)
    folder = cache_root() / "tokens" / key[:32]
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    cached = _intact(folder, dtype)
    if not cached:
        if folder.exists():
            say(f"{folder} in the token cache is damaged; it is written again")
        say(f"tokenizing {sum(characters.values()):,} characters")
        _write(folder, dtype, dataset, tokenizer)
    files = {split: TokenFile(folder / f"{split}.bin", dtype) for split in SPLITS}
    train, val = ([files[split]] if len(files[split]) else [] for split in SPLITS)
    return Corpus(train, val, key, characters["val"] / max(1, len(files["val"])), cached)


def open_shards(dataset: Any, vocab_size: int) -> Corpus:
    """Return the shards of a tokenized dataset. Raises UserError if they have ids beyond the vocabulary.

    The key is a hash of the length and of both ends of every shard: hashing all of billions of tokens takes too long.
    """
    digest, shards = hashlib.sha256(), {}
    recorded = getattr(dataset, "vocab_size", None)
    if recorded not in (None, vocab_size):
        raise UserError(f"the tokens are of a vocabulary of {recorded:,} and the tokenizer has {vocab_size:,}")
    if has(dataset, "check"):
        dataset.check(vocab_size)
    for split in SPLITS:
        shards[split] = list(dataset.shards(split))
        for shard in shards[split]:
            ends = (np.asarray(part).astype("<u4").tobytes() for part in (shard[:4096], shard[-4096:]))
            digest.update(f"{split} {len(shard)} ".encode() + b"".join(ends))
    return Corpus(shards["train"], shards["val"], digest.hexdigest(), None, cached=False)


def _key(dataset: Dataset, tokenizer: Tokenizer, tokenizer_hash: str) -> tuple[str, dict[str, int]]:
    """Return a hash of all documents and of the tokenizer, and the number of characters of each split."""
    digest, characters = hashlib.sha256(tokenizer_hash.encode()), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        documents = dataset.documents(split)
        if isinstance(documents, str):
            raise PluginError(f"{type(dataset).__name__}.documents must give documents, not one text: [text]")
        for text in documents:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
            characters[split] += len(text)
            del text, data  # before the next document is read
        digest.update(split.encode())
    start = next(iter(dataset.documents("train")), "")[:1000]
    ids = [ids.astype(np.int64) for ids in _encode(start, tokenizer)]  # they change with the tokenizer's code
    digest.update(repr(ids).encode())
    return digest.hexdigest(), characters


def _intact(folder: Path, dtype: str) -> bool:
    """Whether a folder of the token cache is complete and its files have the recorded hashes."""
    try:
        return bool(json.loads((folder / META).read_text()) == _meta(folder, dtype))
    except (OSError, ValueError, RecursionError):
        return False


def _meta(folder: Path, dtype: str) -> dict[str, str]:
    """Return what meta.json must say: the dtype, and the hash of each split's file."""
    meta = {"dtype": dtype}
    for split in SPLITS:
        with (folder / f"{split}.bin").open("rb") as file:
            meta[split] = hashlib.file_digest(file, "sha256").hexdigest()
    return meta


def _write(folder: Path, dtype: str, dataset: Dataset, tokenizer: Tokenizer) -> None:
    """Tokenize into a folder that is complete even after a power cut. Another process may do the same."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark(folder.parent)
        with written_aside(folder) as aside:
            for split in SPLITS:
                with (aside / f"{split}.bin").open("wb") as file:
                    for text in dataset.documents(split):
                        for ids in _encode(text, tokenizer):
                            ids.astype(dtype).tofile(file)
                        del text, ids  # before the next document is read
            (aside / META).write_text(json.dumps(_meta(aside, dtype)))
            if not _intact(folder, dtype):
                if folder.is_file() or folder.is_symlink():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if not _intact(folder, dtype):  # else another process has written it
            reason = f"{folder.parent}: the token cache can't be written: {error.strerror or error}"
            raise UserError(f"{reason}; set PEALM_CACHE") from error


def _encode(text: str, tokenizer: Tokenizer) -> Iterator[NDArray[Any]]:
    """Yield the end-of-text token, if any, and the ids of a document, in pieces if the tokenizer allows it."""
    if (eot := getattr(tokenizer, "eot_id", None)) is not None:
        yield np.array([eot])
    name, size = type(tokenizer).__name__, PIECE if getattr(tokenizer, "by_character", False) else max(1, len(text))
    for start in range(0, max(1, len(text)), size):
        try:
            ids = np.asarray(tokenizer.encode(text[start : start + size]))
        except ValueError as error:
            place = f" after character {start:,}" if start else ""
            raise UserError(f"the text can't be tokenized{place}: {error}") from error
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise PluginError(f"{name}.encode must give a list of token ids, not {ids!r:.60}")
        if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
            raise PluginError(
                f"{name}.encode gave ids from {ids.min()} to {ids.max()}, and vocab_size is {tokenizer.vocab_size}"
            )
        yield ids
