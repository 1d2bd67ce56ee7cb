"""The files of a tokenizer: `tokenizer.json`, and what may be beside it. They are kept byte by byte."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VOCABULARY, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
LARGEST = 2**28  # bytes of a file; the largest vocabularies in use take 40 MB
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")  # where no file names an `eos_token`


def read(place: Path) -> dict[str, bytes]:
    """Return the content of the files by name. place: a `tokenizer.json` or its folder.

    Raises FileNotFoundError, and ValueError for what is not a regular file of at most 256 MiB.
    """
    folder, first = (place, VOCABULARY) if place.is_dir() else (place.parent, place.name)
    files = {}
    for name, path in {VOCABULARY: folder / first, SETTINGS: folder / SETTINGS, TEMPLATE: folder / TEMPLATE}.items():
        if name != VOCABULARY and not path.exists():
            continue
        if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):
            raise ValueError(f"{path} is not a regular file of at most {LARGEST:,} bytes")
        files[name] = path.read_bytes()
    return files


def settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the content of tokenizer_config.json, {} without one. Raises ValueError."""
    try:
        values = json.loads(files.get(SETTINGS, b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {SETTINGS} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"its {SETTINGS} is not a table")
    return values


def end_of_text(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the names that the end-of-text token may have, the first one first. Raises ValueError."""
    name = settings(files).get("eos_token")
    name = name.get("content") if isinstance(name, dict) else name  # older files have the token's flags, too
    return (name,) if isinstance(name, str) else END_OF_TEXT


def chat_template(files: Mapping[str, bytes]) -> str | None:
    """Return the Jinja template of conversations, of several the default one. Raises ValueError."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode("utf-8")
    template = settings(files).get("chat_template")
    if isinstance(template, list):  # of {"name": ..., "template": ...}
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
