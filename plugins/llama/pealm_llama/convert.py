"""The formats `hf`, a folder of transformers, and `gguf`, a file of llama.cpp: from a checkpoint and to one."""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core import Checkpoint, UserError, load_tokenizer, read_checkpoint, write_checkpoint
from pealm_formats.folders import write_new
from pealm_formats.gguf_file import GGUF, write_gguf
from pealm_formats.gguf_vocabulary import vocabulary_fields, write_vocabulary
from pealm_formats.vocabulary import VOCABULARY, export_vocabulary
from pealm_llama.config import LlamaConfig
from pealm_llama.gguf_file import fields_of, read_gguf, tensors_of
from pealm_llama.layout import family_of, read_folder, write_folder

HF = {"model": {"name": "llama"}, "tokenizer": {"name": "hf"}}


def export_folder(source: Path, target: Path) -> None:
    """Write a checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load. Raises PealmError."""
    saved, config = _read(source, "hf")
    kind, tokenizer = _kind(saved), load_tokenizer(saved.config, saved.tokenizer)
    complete = False

    def write(aside: Path) -> None:
        nonlocal complete
        aside.mkdir()
        write_folder(aside, config, saved.model, eot_id=getattr(tokenizer, "eot_id", None))
        complete = export_vocabulary(kind, saved.tokenizer, aside, block_size=config.block_size)

    write_new(target, write)
    if not complete:
        print(f"{target} has no tokenizer: the format hf has none for {kind}", file=sys.stderr)


def export_gguf(source: Path, target: Path, dtype: str | None = None) -> None:
    """Write a checkpoint as a file that llama.cpp loads. dtype: as in `write_gguf`. Raises PealmError."""
    saved, config = _read(source, "gguf")
    with tempfile.TemporaryDirectory() as folder:
        if not export_vocabulary(_kind(saved), saved.tokenizer, Path(folder), block_size=config.block_size):
            raise UserError(f"{source} can't be written as gguf, which has no tokenizer {_kind(saved)!r}")
        fields = {**fields_of(config), **vocabulary_fields(Path(folder), config.vocab_size)}
    tensors, family = tensors_of(config, saved.model), family_of(config, "gguf")
    write_new(target, lambda aside: write_gguf(aside, family, fields, tensors, dtype))


def import_folder(source: Path, target: Path) -> None:
    """Write a checkpoint from a folder that transformers saved. Raises PealmError.

    Embedding rows without a token are left out.
    """
    if not (source / VOCABULARY).is_file():
        raise UserError(
            f"{source} has no {VOCABULARY}; transformers makes one: "
            f"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    tokenizer = load_tokenizer(HF, source)
    _write(target, *read_folder(source, tokenizer.vocab_size), tokenizer)


def import_gguf(source: Path, target: Path) -> None:
    """Write a checkpoint from a GGUF file, its weights as fp32. Raises PealmError."""
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(GGUF(source), Path(folder))
        tokenizer = load_tokenizer(HF, Path(folder))
        _write(target, *read_gguf(source, tokenizer.vocab_size), tokenizer)


def _read(source: Path, format: str) -> tuple[Checkpoint, LlamaConfig]:
    saved = read_checkpoint(source)
    table = {key.replace("-", "_"): value for key, value in saved.config["model"].items()}
    if (name := str(table.pop("name"))).rpartition("/")[2] != "llama":
        raise UserError(f"{source} is {name!r}, and this format {format} is for llama")
    tokenizer = load_tokenizer(saved.config, saved.tokenizer)
    return saved, LlamaConfig(**{**table, "vocab_size": tokenizer.vocab_size})


def _kind(saved: Checkpoint) -> str:
    return str(saved.config["tokenizer"]["name"]).rpartition("/")[2]


def _write(target: Path, config: LlamaConfig, state: dict[str, Tensor], tokenizer: Any) -> None:
    table = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    write_checkpoint(target, model=state, config={**HF, "model": {"name": "llama", **table}}, tokenizer=tokenizer)
