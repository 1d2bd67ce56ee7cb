"""The token cache: text is tokenized once and kept as token files, named by a hash of the text and the tokenizer."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pealm_core.config.paths import cache_root, mark, written_aside
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.protocols import Conversation, Dataset, Tokenizer, has
from pealm_core.data.documents import encode_document, segments
from pealm_core.data.specials import WithSpecials
from pealm_core.data.stream import Shard, Split
from pealm_core.data.tokens import TokenFile

SPLITS = ("train", "val")
META = "meta.json"
SEGMENTS = b"\xff" * 8  # in the key, before a document of segments: no text is as long as that
LISTED = 10  # segments of the first document that the key is made of, with 1,000 characters of each


@dataclass(frozen=True)
class Corpus:
    """Tokenized data: each split, and a hash (`key`) of their content."""

    train: Split
    val: Split
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

    def write(aside: Path) -> None:
        say(f"tokenizing {sum(characters.values()):,} characters")
        _write(aside, dtype, dataset, tokenizer)

    cached = cached_folder(folder, {"dtype": dtype}, write, say=say)
    train, val = (_split(folder, split, dtype) for split in SPLITS)
    return Corpus(train, val, key, characters["val"] / max(1, sum(map(len, val.shards))), cached)


def _split(folder: Path, split: str, dtype: str) -> Split:
    """Open a split of the token cache."""
    shard, mask = TokenFile(folder / f"{split}.bin", dtype), folder / f"{split}.mask"
    if not len(shard):
        return Split(())
    masks = [TokenFile(mask, "u1", count=len(shard))] if mask.exists() else []
    return Split([shard], masks, [TokenFile(folder / f"{split}.offsets", "<u8")])


def open_shards(dataset: Any, tokenizer: Tokenizer) -> Corpus:
    """Return the shards of a tokenized dataset. Raises UserError if they have ids beyond the vocabulary.

    The key is a hash of the length and of both ends of every shard: hashing all of billions of tokens takes too long.
    """
    digest, size = hashlib.sha256(), tokenizer.vocab_size
    sizes = (None, size, tokenizer.tokenizer.vocab_size if isinstance(tokenizer, WithSpecials) else size)
    if (recorded := getattr(dataset, "vocab_size", None)) not in sizes:
        raise UserError(f"the tokens are of a vocabulary of {recorded:,} and the tokenizer has {size:,}")
    if has(dataset, "check"):
        dataset.check(size)
    splits = {}
    for name in SPLITS:
        arrays = {kind: _arrays(dataset, kind, name) for kind in ("shards", "masks", "offsets")}
        for kind, array in ((kind, array) for kind, several in arrays.items() for array in several):
            ends = (np.asarray(part).astype("<u4").tobytes() for part in (array[:4096], array[-4096:]))
            label = name if kind == "shards" else kind
            digest.update(f"{label} {len(array)} ".encode() + b"".join(ends))
        lengths, masked = ([len(array) for array in arrays[kind]] for kind in ("shards", "masks"))
        if masked and masked != lengths:
            raise UserError(f"the {name} shards have {lengths} tokens, and their masks {masked} entries")
        splits[name] = Split(**arrays)
    return Corpus(splits["train"], splits["val"], digest.hexdigest(), None, cached=False)


def _arrays(dataset: Any, method: str, split: str) -> list[Shard]:
    """Return what a tokenized dataset has for each shard of a split, if anything."""
    return list(getattr(dataset, method)(split) or ()) if has(dataset, method) else []


def _key(dataset: Dataset, tokenizer: Tokenizer, tokenizer_hash: str) -> tuple[str, dict[str, int]]:
    """Return a hash of all documents and of the tokenizer, and the number of characters of each split."""
    digest, characters = hashlib.sha256(tokenizer_hash.encode()), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        documents = dataset.documents(split)
        if isinstance(documents, str):
            raise PluginError(f"{type(dataset).__name__}.documents must give documents, not one text: [text]")
        for document in documents:
            parts = segments(document)
            if not isinstance(document, str):
                digest.update(SEGMENTS + repr([(part.learn, part.special) for part in parts]).encode())
            for part in parts:
                data = part.text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
                characters[split] += len(part.text)
                del part, data
            del document, parts  # before the next one is read
        digest.update(split.encode())
    start = next(iter(dataset.documents("train")), "")
    if not isinstance(start, Conversation):
        start = [replace(part, text=part.text[:1000]) for part in segments(start)[:LISTED]]
    # They change with the tokenizer's code.
    ids = [ids.astype(np.int64) for ids, _ in encode_document(start, tokenizer)]
    digest.update(repr(ids).encode())
    return digest.hexdigest(), characters


def cached_folder(
    folder: Path,
    facts: dict[str, Any],
    write: Callable[[Path], None],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Return whether a folder of the cache is intact; else write it, complete even after a power cut.

    facts: what its meta.json says besides the hashes of its files. Another process may write the same folder.
    """
    if _intact(folder, facts):
        return True
    if folder.exists():
        say(f"{folder} in the token cache is damaged; it is written again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark(folder.parent)
        with written_aside(folder) as aside:
            write(aside)
            (aside / META).write_text(json.dumps(_meta(aside, facts)))
            if not _intact(folder, facts):
                if folder.is_file() or folder.is_symlink():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if not _intact(folder, facts):  # else another process has written it
            reason = f"{folder.parent}: the token cache can't be written: {error.strerror or error}"
            raise UserError(f"{reason}; set PEALM_CACHE") from error
    return False


def _intact(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether a folder of the cache is complete and its files have the recorded hashes."""
    try:
        return bool(json.loads((folder / META).read_text()) == _meta(folder, facts))
    except (OSError, ValueError, RecursionError):
        return False


def _meta(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what meta.json must say: the facts, and the hash of each file."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / META):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return {**facts, "files": digests}


def _write(folder: Path, dtype: str, dataset: Dataset, tokenizer: Tokenizer) -> None:
    """Write the tokens of each split, where documents start, and where something is not learned, a mask."""
    for split in SPLITS:
        paths = [folder / f"{split}.{ending}" for ending in ("bin", "offsets", "mask")]
        with paths[0].open("wb") as tokens, paths[1].open("wb") as offsets, paths[2].open("wb") as mask:
            count, masked = 0, False
            for document in dataset.documents(split):
                np.array([count], "<u8").tofile(offsets)
                for ids, learn in encode_document(document, tokenizer):
                    ids.astype(dtype).tofile(tokens)
                    np.full(len(ids), learn, "u1").tofile(mask)
                    count, masked = count + len(ids), masked or not learn
                    del ids
                del document  # before the next one is read
        if not masked:
            paths[2].unlink()
