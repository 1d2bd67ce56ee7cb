"""The format `hf`, a folder that transformers loads, from a checkpoint and to one; `gguf`, a file, to one."""

import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core import PealmError, UserError, load_tokenizer, read_checkpoint, write_checkpoint
from pealm_llama.config import LlamaConfig
from pealm_llama.gguf_file import GGUF, read_gguf
from pealm_llama.gguf_vocabulary import write_vocabulary
from pealm_llama.layout import read_folder, resize, write_folder
from pealm_llama.vocabulary import VOCABULARY, export_vocabulary


def export_folder(source: Path, target: Path) -> None:
    """Write a checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load. Raises PealmError."""
    saved = read_checkpoint(source)
    table = {key.replace("-", "_"): value for key, value in saved.config["model"].items()}
    if (name := str(table.pop("name"))).rpartition("/")[2] != "llama":
        raise UserError(f"{source} is {name!r}, and this format hf is for llama")
    _check_free(target)
    config = LlamaConfig(**table)
    tokenizer = load_tokenizer(saved.config, saved.tokenizer)
    aside = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        aside.mkdir(parents=True)
        write_folder(aside, config, saved.model, eot_id=getattr(tokenizer, "eot_id", None))
        kind = str(saved.config["tokenizer"]["name"]).rpartition("/")[2]
        complete = export_vocabulary(kind, saved.tokenizer, aside, block_size=config.block_size)
        aside.rename(target)
    except (OSError, ValueError) as error:
        raise PealmError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not complete:
        print(f"{target} has no tokenizer: the format hf has none for {kind}", file=sys.stderr)


def import_folder(source: Path, target: Path) -> None:
    """Write a checkpoint from a folder that transformers saved. Raises PealmError.

    Embedding rows without a token are left out.
    """
    config, state = read_folder(source)
    _check_free(target)
    if not (source / VOCABULARY).is_file():
        raise UserError(
            f"{source} has no {VOCABULARY}; transformers makes one: "
            f"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    _write(target, config, state, source, where=source)


def import_gguf(source: Path, target: Path) -> None:
    """Write a checkpoint from a GGUF file, its weights as fp32. Raises PealmError."""
    config, state = read_gguf(source)
    _check_free(target)
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(GGUF(source), Path(folder))
        _write(target, config, state, Path(folder), where=source)


def _write(target: Path, config: LlamaConfig, state: dict[str, Tensor], saved: Path, *, where: Path) -> None:
    """Write a checkpoint with the tokenizer of a folder, for which the embedding may be too large."""
    tables: dict[str, dict[str, Any]] = {"model": {"name": "llama", **_table(config)}, "tokenizer": {"name": "hf"}}
    tokenizer = load_tokenizer(tables, saved)
    size = tokenizer.vocab_size
    if size > config.vocab_size:
        raise UserError(f"{where}: the tokenizer has {size:,} tokens, the model {config.vocab_size:,}")
    write_checkpoint(target, model=resize(state, size), config=tables, tokenizer=tokenizer)


def _table(config: LlamaConfig) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(config).items() if value is not None}


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; remove it or choose another place")
