"""The formats `hf`, a folder of transformers, and `gguf`, a file of llama.cpp: from a checkpoint and to one."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pealm_core import Checkpoint, Tokenizer, UserError, load_tokenizer, read_checkpoint, write_checkpoint
from pealm_formats.folders import write_new
from pealm_formats.gguf_file import GGUF, write_gguf
from pealm_formats.gguf_vocabulary import vocabulary_fields, write_vocabulary
from pealm_formats.ranks import write_ranks
from pealm_formats.vocabulary import VOCABULARY, export_vocabulary
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.gguf_file import FAMILY, fields_of, read_gguf, tensors_of
from pealm_gpt2.layout import read_folder, write_folder


def export_folder(source: Path, target: Path) -> None:
    """Write a checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load. Raises PealmError."""
    saved, config, tokenizer = _read(source, "hf")
    kind, has_tokenizer = _kind(saved), False

    def write(aside: Path) -> None:
        nonlocal has_tokenizer
        aside.mkdir()
        write_folder(aside, config, saved.model, eot_id=getattr(tokenizer, "eot_id", None))
        has_tokenizer = export_vocabulary(kind, saved.tokenizer, aside, block_size=config.block_size)

    write_new(target, write)
    if not has_tokenizer:
        print(f"{target} has no tokenizer: the format hf has none for {kind}", file=sys.stderr)


def export_gguf(source: Path, target: Path, dtype: str | None = None) -> None:
    """Write a checkpoint as a file that llama.cpp loads. dtype: as in `write_gguf`. Raises PealmError."""
    saved, config, _ = _read(source, "gguf")
    with tempfile.TemporaryDirectory() as folder:
        if not export_vocabulary(_kind(saved), saved.tokenizer, Path(folder), block_size=config.block_size):
            raise UserError(f"{source} can't be written as gguf, which has no tokenizer {_kind(saved)!r}")
        fields = {**fields_of(config), **vocabulary_fields(Path(folder), config.vocab_size)}
    write_new(target, lambda aside: write_gguf(aside, FAMILY, fields, tensors_of(config, saved.model), dtype))


def import_folder(source: Path, target: Path) -> None:
    """Write a checkpoint from a folder that transformers saved. Raises PealmError.

    Without tokenizer files, the tokenizer is gpt2's own default; one that is not like GPT-2's becomes `hf`. Embedding
    rows without a token are left out.
    """
    _import(source, target, source, lambda tokens: read_folder(source, tokens))


def import_gguf(source: Path, target: Path) -> None:
    """Write a checkpoint from a GGUF file, its weights as fp32. Raises PealmError."""
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(GGUF(source), Path(folder))
        _import(source, target, Path(folder), lambda tokens: read_gguf(source, tokens))


def _import(
    source: Path, target: Path, vocabulary: Path, read: Callable[[int], tuple[GPT2Config, dict[str, Tensor]]]
) -> None:
    """Write a checkpoint with the tokenizer in a folder. read: called with the number of its tokens."""
    tables = {"model": {"name": "gpt2"}}
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer = load_tokenizer(tables, Path(folder) if write_ranks(vocabulary, Path(folder)) else None)
        except UserError:
            if not (vocabulary / VOCABULARY).is_file():
                raise
            tables["tokenizer"] = {"name": "hf"}
            tokenizer = load_tokenizer(tables, vocabulary)
    config, state = read(tokenizer.vocab_size)
    tables["model"] |= dataclasses.asdict(config)
    write_checkpoint(target, model=state, config=tables, tokenizer=tokenizer)


def _read(source: Path, format: str) -> tuple[Checkpoint, GPT2Config, Tokenizer]:
    saved = read_checkpoint(source)
    table = {key.replace("-", "_"): value for key, value in saved.config["model"].items()}
    if (name := str(table.pop("name"))).rpartition("/")[2] != "gpt2":
        raise UserError(f"{source} is {name!r}, and the format {format} is for gpt2")
    tokenizer = load_tokenizer(saved.config, saved.tokenizer)
    return saved, GPT2Config(**{**table, "vocab_size": tokenizer.vocab_size}), tokenizer


def _kind(saved: Checkpoint) -> str:
    return str(saved.config["tokenizer"]["name"]).rpartition("/")[2]
