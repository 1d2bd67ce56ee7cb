"""The format `hf`: a pealm checkpoint as a folder that transformers loads, and such a folder as a checkpoint."""

import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pealm_core import PealmError, UserError, load
from pealm_core.checkpoints import folder as checkpoint
from pealm_core.checkpoints.build import make_tokenizer
from pealm_core.config.job import plan
from pealm_core.config.layers import Layer
from pealm_core.contract.fields import dump
from pealm_gpt2.layout import read_folder, resize, write_folder
from pealm_gpt2.model import GPT2
from pealm_gpt2.vocabulary import export_vocabulary, import_vocabulary


def export_folder(source: Path, target: Path) -> None:
    """Write a checkpoint as a folder that AutoModelForCausalLM and AutoTokenizer load. Raises PealmError."""
    folder = checkpoint.find(source)
    lm = load(folder, device="cpu")
    if not isinstance(lm.model, GPT2):
        raise UserError(f"{source} is a {lm.config['model']['name']}, and the format hf is for gpt2")
    _check_free(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        write_folder(aside, lm.model, eot_id=lm.eot_id)
        saved = folder / checkpoint.TOKENIZER
        complete = export_vocabulary(saved, aside, block_size=lm.model.config.block_size)
        aside.rename(target)
    except (OSError, ValueError) as error:
        raise PealmError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not complete:
        print(f"{target} has no tokenizer: the format hf takes tiktoken's gpt2 along, no other", file=sys.stderr)


def import_folder(source: Path, target: Path) -> None:
    """Write a checkpoint from a folder that transformers saved. Raises PealmError.

    Where it has no tokenizer files, the tokenizer is gpt2's own by default. Embedding rows that no token of it has
    are left out.
    """
    config, state = read_folder(source)
    _check_free(target)
    tables = {"model": {"name": "gpt2", **dump(config)}}
    job = plan(("model", "tokenizer"), file=Layer(str(source), tables))
    with tempfile.TemporaryDirectory() as saved:
        tokenizer = make_tokenizer(job, Path(saved) if import_vocabulary(source, Path(saved)) else None)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}"
        )
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    checkpoint.save(
        target,
        model=resize(state, vocab_size=config.vocab_size, block_size=config.block_size),
        config=job.with_model_config(config).tables(),
        tokenizer=tokenizer,
        state={"step": 0},
    )


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; remove it or choose another place")
