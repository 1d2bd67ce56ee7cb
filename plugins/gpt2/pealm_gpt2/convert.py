"""The format `hf`: a pealm checkpoint as a folder that transformers loads, and such a folder as a checkpoint."""

import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pealm_core import PealmError, UserError, load_tokenizer, read_checkpoint, write_checkpoint
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.layout import read_folder, resize, write_folder
from pealm_gpt2.vocabulary import export_vocabulary, import_vocabulary


def export_folder(source: Path, target: Path) -> None:
    """Write a checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load. Raises PealmError."""
    saved = read_checkpoint(source)
    table = dict(saved.config["model"])
    name = table.pop("name")
    if name.rpartition("/")[2] != "gpt2":
        raise UserError(f"{source} is {name!r}, and the format hf is for gpt2")
    config = GPT2Config(**{key.replace("-", "_"): value for key, value in table.items()})
    tokenizer = load_tokenizer(saved.config, saved.tokenizer)
    _check_free(target)
    aside = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        aside.mkdir(parents=True)
        write_folder(aside, config, saved.model, eot_id=getattr(tokenizer, "eot_id", None))
        complete = export_vocabulary(saved.tokenizer, aside, block_size=config.block_size)
        aside.rename(target)
    except (OSError, ValueError) as error:
        raise PealmError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not complete:
        print(f"{target} has no tokenizer: the format hf only has one for tiktoken's gpt2", file=sys.stderr)


def import_folder(source: Path, target: Path) -> None:
    """Write a checkpoint from a folder that transformers saved. Raises PealmError.

    If it has no tokenizer files, the tokenizer is gpt2's own default. Embedding rows without a token are left out.
    """
    config, state = read_folder(source)
    _check_free(target)
    tables = {"model": {"name": "gpt2", **dataclasses.asdict(config)}}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(tables, Path(folder) if import_vocabulary(source, Path(folder)) else None)
    size = tokenizer.vocab_size
    if size > config.vocab_size:
        raise UserError(f"{source}: the tokenizer has {size:,} tokens, the model {config.vocab_size:,}")
    state = resize(state, vocab_size=size, block_size=config.block_size)
    write_checkpoint(target, model=state, config=tables, tokenizer=tokenizer)


def _check_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} exists already; remove it or choose another place")
