"""The token cache: text is tokenized once and kept as token files, named by a hash of the text and the tokenizer.

Nothing large is read at a later start: the hash of a text is kept for as long as its files are the same by name, size
and times of change, and token files are hashed again only if theirs are different.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pealm_core.config.paths import cache_root, digest, mark, temporary, written_aside
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Conversation, Dataset, Segment, Tokenizer, has
from pealm_core.data.documents import encode_document, segments
from pealm_core.data.files import stamp
from pealm_core.data.parts import FILES, hash_part, map_parts, parts_of, tokenize_part
from pealm_core.data.stream import SPLITS, Corpus, Split, hash_of
from pealm_core.data.tokens import TokenFile

META, STAMPS, CONTENT = "meta.json", "stamps.json", "content.json"
LISTED = 10  # segments of the first document that are kept, with 1,000 characters of each
SAY_EVERY = 30  # seconds


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
    content = content_of(dataset)
    start = [] if content["messages"] is None else Conversation(content["messages"])
    start += [Segment(*fields) for fields in content["start"]]
    ids = [ids.tolist() for ids, _ in encode_document(start, tokenizer)]  # they change with the tokenizer's code
    key = hash_of([tokenizer_hash, content["hashes"], ids])
    folder = cache_root() / "tokens" / hash_of([key, _code(getattr(tokenizer, "tokenizer", tokenizer))])[:32]
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"

    def write(aside: Path) -> None:
        say(f"tokenizing {sum(content['characters'].values()):,} characters")
        _write(aside, dtype, dataset, tokenizer, say)
        _check(dataset, content["version"])

    cached = cached_folder(folder, {"dtype": dtype}, write, say=say)
    train, val = (_split(folder, split, dtype) for split in SPLITS)
    ratio = content["characters"]["val"] / max(1, sum(map(len, val.shards)))
    return Corpus(train, val, key, ratio, cached)


def content_of(dataset: Dataset) -> dict[str, Any]:
    """Return hashes of a dataset's documents and numbers of characters, by split, and how the first document starts.

    If the dataset has a `version`, they are kept, and the documents are not read again. Raises UserError.
    """
    if (version := _version(dataset)) is None:
        return _read(dataset, None)
    folder = cache_root() / "tokens" / version[:32]
    cached_folder(folder, {}, lambda aside: _write_json(aside / CONTENT, _read(dataset, version)))
    content: dict[str, Any] = json.loads((folder / CONTENT).read_text())
    return content


def _check(dataset: Dataset, version: str | None) -> None:
    """Raise UserError if a dataset had another version, where it is known."""
    if version is not None and _version(dataset) != version:
        raise UserError("a file of the input was changed while it was read; start again")


def _version(dataset: Any) -> str | None:
    """Return a hash that changes with a dataset's documents and the code that reads them; None: unknown."""
    version, code = dataset.version() if has(dataset, "version") else None, _code(dataset)
    kind = type(dataset)
    return hash_of([kind.__module__, kind.__qualname__, version, code]) if version and code else None


def _code(component: Any) -> str | None:
    """Return a hash of the Python files beside a component's module and this one; None: it has no file."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    folders = [Path(place).parent for place in (__file__, file) if place]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py")) if path.is_file()]
    return hash_of([path.read_text(errors="replace") for path in paths]) if file else None


def _read(dataset: Dataset, version: str | None) -> dict[str, Any]:
    parts = [(split, part) for split in SPLITS for part in parts_of(dataset, split)]
    hashes, characters = {split: hashlib.sha256() for split in SPLITS}, dict.fromkeys(SPLITS, 0)
    results = map_parts(hash_part, [part for _, part in parts], size=sum(part.size for _, part in parts))
    for (split, _), (part_hash, count) in zip(parts, results, strict=True):
        hashes[split].update(part_hash)
        characters[split] += count
    first = next(iter(parts[0][1].documents()), "")
    start = [(part.text[:1000], part.learn, part.special) for part in segments(first)[:LISTED]]
    messages = first.messages if isinstance(first, Conversation) else None
    digests = {split: whole.hexdigest() for split, whole in hashes.items()}
    _check(dataset, version)
    facts = {"characters": characters, "start": start, "messages": messages, "version": version}
    return {"hashes": digests, **facts}


def _write(folder: Path, dtype: str, dataset: Dataset, tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
    """Write the tokens of each split, where documents start, and where something is not learned, a mask."""
    tasks = [(split, part) for split in SPLITS for part in parts_of(dataset, split)]
    paths = [folder / f"part-{number}" for number in range(len(tasks))]
    size, done, due = sum(part.size for _, part in tasks), 0, time.monotonic() + SAY_EVERY
    counts, masked = dict.fromkeys(SPLITS, 0), set[str]()
    todo = [(part, path) for (_, part), path in zip(tasks, paths, strict=True)]
    results = map_parts(partial(tokenize_part, tokenizer, dtype), todo, size=size)
    for (split, part), path, (tokens, some) in zip(tasks, paths, results, strict=True):
        starts = path.with_suffix(".offsets")
        (np.fromfile(starts, "<u8") + np.uint64(counts[split])).tofile(starts)
        for suffix in FILES:
            source = path.with_suffix(suffix)
            with (folder / split).with_suffix(suffix).open("ab") as whole, source.open("rb") as file:
                shutil.copyfileobj(file, whole, 2**20)
            source.unlink()
        counts[split], done = counts[split] + tokens, done + part.size
        masked |= {split} if some else set()
        if time.monotonic() > due and size:
            say(f"tokenized {done / size:.0%}")
            due += SAY_EVERY
    for split in {*SPLITS} - masked:
        (folder / f"{split}.mask").unlink()


def _split(folder: Path, split: str, dtype: str) -> Split:
    """Open a split of the token cache."""
    shard, mask = TokenFile(folder / f"{split}.bin", dtype), folder / f"{split}.mask"
    if not len(shard):
        return Split(())
    masks = [TokenFile(mask, "u1", count=len(shard))] if mask.exists() else []
    return Split([shard], masks, [TokenFile(folder / f"{split}.offsets", "<u8")])


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
            _write_json(aside / META, {**facts, "files": _each(aside, digest)})
            _write_json(aside / STAMPS, _each(aside, stamp))
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
        meta, stamps = json.loads((folder / META).read_text()), _each(folder, stamp)
        known = json.loads((folder / STAMPS).read_text()) if (folder / STAMPS).exists() else None
        if meta != {**facts, "files": meta["files"] if known == stamps else _each(folder, digest)}:
            return False
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    with suppress(OSError):
        if known != stamps:
            aside = temporary(folder / STAMPS, "tmp")
            _write_json(aside, stamps)
            aside.replace(folder / STAMPS)
    return True


def _write_json(path: Path, facts: Any) -> None:
    path.write_text(json.dumps(facts))


def _each(folder: Path, describe: Callable[[Path], Any]) -> dict[str, Any]:
    """Return what a function says of each file of a folder but this module's own two."""
    paths = (path for path in sorted(folder.rglob("*")) if path not in (folder / META, folder / STAMPS))
    return {path.relative_to(folder).as_posix(): describe(path) for path in paths if path.is_file()}
