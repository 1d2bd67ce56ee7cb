"""Text is tokenized once: token files in the user's cache, under a key of the text and the tokenizer.

The key is a hash of every document and of the tokenizer's fingerprint, so that the same text is never tokenized
twice and a changed one never mistaken for it.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pealm_core.config.paths import cache_root, mark
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.tokens import TokenFile

SPLITS = ("train", "val")


class Shard(Protocol):
    """Token ids in a row: a 1-D array, or what reads one piece by piece, as `TokenFile` does."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Corpus:
    """Tokenized data: shards by split, read as needed, and the key that stands for their content."""

    train: Sequence[Shard]
    val: Sequence[Shard]
    key: str
    characters_per_token: float | None  # of val, where it is known
    cached: bool


def fingerprint(name: str, config: dict[str, Any], tokenizer: Tokenizer) -> str:
    """A hash of what the tokenizer would save: equal fingerprints give equal tokens."""
    digest = hashlib.sha256(json.dumps([name, config], sort_keys=True).encode())
    with tempfile.TemporaryDirectory() as folder:
        save = getattr(tokenizer, "save", None)
        if save is not None:
            save(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def tokenize(
    dataset: Dataset, tokenizer: Tokenizer, mark: str, *, say: Callable[[str], None] = lambda line: None
) -> Corpus:
    """The dataset's documents as tokens, from the cache where they are there. mark: the tokenizer's fingerprint.

    Where the tokenizer has an end-of-text token, it stands before every document. Raises UserError.
    """
    digest, characters = hashlib.sha256(mark.encode()), {}
    for split in SPLITS:
        characters[split] = 0
        documents = dataset.documents(split)
        if isinstance(documents, str):
            raise PluginError(f"{type(dataset).__name__}.documents must give documents, not one text: [text]")
        for text in documents:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
            characters[split] += len(text)
        digest.update(split.encode())
    first = next(iter(dataset.documents("train")), "")
    digest.update(repr(list(_encoded([first[:1000]], tokenizer))).encode())  # notices a tokenizer whose code changed
    key = digest.hexdigest()
    folder = cache_root() / "tokens" / key[:32]
    cached = (folder / "meta.json").is_file()
    if not cached:
        say(f"tokenizing {sum(characters.values()):,} characters")
        _write(folder, dataset, tokenizer)
    meta = json.loads((folder / "meta.json").read_text())
    shards = {
        split: [TokenFile(folder / f"{split}.bin", meta["dtype"], count=meta[split])] if meta[split] else []
        for split in SPLITS
    }
    ratio = characters["val"] / meta["val"] if meta["val"] else 0.0
    return Corpus(shards["train"], shards["val"], key, ratio, cached)


def open_shards(dataset: Any, vocab_size: int) -> Corpus:
    """A dataset that is tokenized already. Raises UserError where its ids are beyond the vocabulary.

    Its key is a hash of every shard's length and both of its ends: a corpus of billions is not read through for it.
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


def _write(folder: Path, dataset: Dataset, tokenizer: Tokenizer) -> None:
    """Tokenize into a folder beside the final one, then rename: a killed run leaves no half cache."""
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark(folder.parent)
        aside = Path(tempfile.mkdtemp(prefix="tokenizing-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        meta: dict[str, Any] = {"dtype": dtype, "vocab_size": tokenizer.vocab_size}
        for split in SPLITS:
            with (aside / f"{split}.bin").open("wb") as file:
                meta[split] = sum(_append(file, ids, dtype) for ids in _encoded(dataset.documents(split), tokenizer))
        (aside / "meta.json").write_text(json.dumps(meta))
        try:
            aside.rename(folder)
        except OSError:  # another run was faster
            if not (folder / "meta.json").is_file():
                raise
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder.parent}: the token cache can't be written: {error.strerror or error}; set PEALM_CACHE")


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterable[NDArray[Any]]:
    eot = getattr(tokenizer, "eot_id", None)
    for text in texts:
        if eot is not None:
            yield np.array([eot])
        try:
            ids = np.asarray(tokenizer.encode(text))
        except ValueError as error:
            raise UserError(f"the text can't be tokenized: {error}") from error
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise PluginError(f"{type(tokenizer).__name__}.encode must give a list of token ids, not {ids!r:.60}")
        if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
            raise PluginError(
                f"{type(tokenizer).__name__}.encode gave ids from {ids.min()} to {ids.max()}, "
                f"and vocab_size is {tokenizer.vocab_size}"
            )
        yield ids


def _append(file: Any, ids: NDArray[Any], dtype: str) -> int:
    ids.astype(dtype).tofile(file)
    return len(ids)
