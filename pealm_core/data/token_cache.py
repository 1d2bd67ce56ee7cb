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
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pealm_core.config.paths import cache_root, digest, mark, written_aside
from pealm_core.contract.errors import UserError
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.token_file import TokenFile
from pealm_core.data.token_stream import SPLITS, Corpus, Split, hash_of
from pealm_core.data.tokenize_parts import FILES, hash_part, map_parts, parts_of, tokenize_part
from pealm_core.plugins.plugin_errors import ANYTHING, call_plugin

META, STAMPS, CONTENT = "meta.json", "stamps.json", "content.json"
SAY_EVERY = 30  # seconds
Say = Callable[[str], None]


def fingerprint(name: str, config: dict[str, Any], tokenizer: Tokenizer) -> str:
    """Return a hash of what the tokenizer saves: equal fingerprints mean equal tokens."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if has(tokenizer, "save"):
            call_plugin(tokenizer.save, ANYTHING, Path(folder))  # type: ignore[attr-defined]
        return hash_of([name, config, _each(Path(folder), digest)])


def tokenize(dataset: Dataset, tokenizer: Tokenizer, tokenizer_hash: str, *, say: Say = lambda line: None) -> Corpus:
    """Return the dataset's documents as tokens, from the token cache if possible. Raises UserError.

    If the tokenizer has an end-of-text token, it precedes every document. tokenizer_hash: its `fingerprint`.
    """
    version, content = _version(dataset), content_of(dataset)
    code = _code(getattr(tokenizer, "tokenizer", tokenizer))
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"

    def write(aside: Path) -> None:
        say(f"tokenizing {sum(characters for _, characters in content.values()):,} characters")
        for split in SPLITS:
            _write(aside / split, dtype, parts_of(dataset, split), tokenizer, say)
        _check(dataset, version)

    key = [tokenizer_hash, [text_hash for text_hash, _ in content.values()], code]
    folder, cached = cached_folder(key, {"dtype": dtype}, write, say=say)
    train, val = (_split(folder / split, dtype) for split in SPLITS)
    ratio = content["val"][1] / max(1, sum(map(len, val.shards)))
    return Corpus(train, val, hash_of([content, (folder / META).read_text()]), ratio, cached)


def content_of(dataset: Dataset) -> dict[str, tuple[str, int]]:
    """Return by split a hash of a dataset's documents, and their number of characters. Raises UserError.

    If the dataset has a `version`, they are kept, and the documents are not read again.
    """
    if (version := _version(dataset)) is None:
        return _read(dataset)

    def write(aside: Path) -> None:
        _write_json(aside / CONTENT, _read(dataset))
        _check(dataset, version)

    folder, _ = cached_folder(version, {}, write)
    content: dict[str, tuple[str, int]] = json.loads((folder / CONTENT).read_text())
    return content


def _check(dataset: Dataset, version: Any) -> None:
    """Raise UserError if a dataset had another version, where it is known."""
    if version is not None and _version(dataset) != version:
        raise UserError("a file of the input was changed while it was read; start again")


def _version(dataset: Any) -> Any:
    """Return what changes with a dataset's documents and the code that reads them; None: unknown."""
    version, code = dataset.version() if has(dataset, "version") else None, _code(dataset)
    return [type(dataset).__module__, type(dataset).__qualname__, version, code] if version and code else None


def _code(component: Any) -> str | None:
    """Return a hash of the Python files beside a component's module and this one; None: it has no file."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    folders = [Path(place).parent for place in (__file__, file) if place]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py")) if path.is_file()]
    return hash_of([path.read_text(errors="replace") for path in paths]) if file else None


def _read(dataset: Dataset) -> dict[str, tuple[str, int]]:
    """Read what `content_of` returns."""
    content = {}
    for split in SPLITS:
        parts, whole, characters = parts_of(dataset, split), hashlib.sha256(), 0
        for part_hash, count in map_parts(hash_part, parts, sum(part.size for part in parts)):
            whole.update(part_hash)
            characters += count
        content[split] = whole.hexdigest(), characters
    return content


def _write(path: Path, dtype: str, parts: list[Any], tokenizer: Tokenizer, say: Say) -> None:
    """Write the tokens of a split, where documents start, and where something is not learned, a mask."""
    tasks = [(part, path.with_name(f"part-{number}")) for number, part in enumerate(parts)]
    size, done, due = sum(part.size for part in parts), 0, time.monotonic() + SAY_EVERY
    tokens, masked, mask = 0, False, path.with_suffix(".mask")
    with ExitStack() as stack:
        files = {suffix: stack.enter_context(path.with_suffix(suffix).open("wb")) for suffix in FILES}
        results = map_parts(partial(tokenize_part, tokenizer, dtype), tasks, size)
        for (part, source), (count, some) in zip(tasks, results, strict=True):
            starts = source.with_suffix(".offsets")
            (np.fromfile(starts, "<u8") + np.uint64(tokens)).tofile(starts)
            for suffix, file in files.items():
                with source.with_suffix(suffix).open("rb") as own:
                    shutil.copyfileobj(own, file, 2**20)
                source.with_suffix(suffix).unlink()
            tokens, masked, done = tokens + count, masked or some, done + part.size
            if size and time.monotonic() > due:
                say(f"tokenized {done / size:.0%}")
                due += SAY_EVERY
    if not masked:
        mask.unlink()


def _split(path: Path, dtype: str) -> Split:
    """Open a split of the token cache."""
    shard, mask = TokenFile(path.with_suffix(".bin"), dtype), path.with_suffix(".mask")
    masks = [TokenFile(mask, "u1", count=len(shard))] if mask.exists() else []
    return Split([shard], masks, [TokenFile(path.with_suffix(".offsets"), "<u8")])


def cached_folder(
    key: Any, facts: dict[str, Any], write: Callable[[Path], None], *, say: Say = lambda line: None
) -> tuple[Path, bool]:
    """Return the folder of the cache for what `key` determines, and whether it was there, intact.

    Else it is written, complete even after a power cut. facts: what its meta.json says besides the hashes of its
    files. Another process may write the same folder.
    """
    folder = cache_root() / "tokens" / hash_of(key)[:32]
    if _intact(folder, facts):
        return folder, True
    if folder.exists():
        say(f"{folder} in the token cache is damaged; it is written again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mark(folder.parent)
        with written_aside(folder) as aside:
            write(aside)
            _write_json(aside / META, {**facts, "files": _each(aside, digest)})
            _write_json(aside / STAMPS, _each(aside, _stamp))
            if not _intact(folder, facts):
                if folder.is_file() or folder.is_symlink():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if not _intact(folder, facts):  # else another process has written it
            reason = f"{folder.parent}: the token cache can't be written: {error.strerror or error}"
            raise UserError(f"{reason}; set PEALM_CACHE") from error
    return folder, False


def _intact(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether a folder of the cache is complete and its files have the recorded hashes."""
    known: Any = None
    try:
        meta, stamps = json.loads((folder / META).read_text()), _each(folder, _stamp)
        with suppress(OSError, ValueError):
            known = json.loads((folder / STAMPS).read_text())
        if known == stamps:
            return bool(meta == {**facts, "files": meta["files"]})
        if meta != {**facts, "files": _each(folder, digest)}:
            return False
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    with suppress(OSError):
        _write_json(folder / STAMPS, stamps)
    return True


def _stamp(path: Path) -> list[int]:
    """Return what changes with a file: its size, and the times of change in nanoseconds. Raises OSError."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _write_json(path: Path, facts: Any) -> None:
    path.write_text(json.dumps(facts))


def _each(folder: Path, describe: Callable[[Path], Any]) -> dict[str, Any]:
    """Return what a function says of each file of a folder but this module's own two."""
    paths = (path for path in sorted(folder.rglob("*")) if path not in (folder / META, folder / STAMPS))
    return {path.relative_to(folder).as_posix(): describe(path) for path in paths if path.is_file()}
