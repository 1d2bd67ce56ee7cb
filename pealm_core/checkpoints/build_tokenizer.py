"""Make the datasets and the tokenizer of a job: a saved one, one that learns from the training text, or one as it is.

Without torch, so that commands which need no model start fast.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pealm_core.checkpoints.folder import TOKENIZER
from pealm_core.checkpoints.saved_tokenizer import read_saved_tokenizer
from pealm_core.config.resolve_job import Job, plan
from pealm_core.config.toml_layers import Layer
from pealm_core.contract.errors import PluginError, UserError
from pealm_core.contract.fields import dump
from pealm_core.contract.protocols import Dataset, Tokenizer, has
from pealm_core.data.documents import has_template
from pealm_core.data.special_tokens import specials_of, with_specials
from pealm_core.data.token_cache import cached_folder, content_of
from pealm_core.data.token_stream import SPLITS
from pealm_core.data.tokenizer_sample import FitSample
from pealm_core.hardware.launch import launched
from pealm_core.plugins.plugin_errors import ANYTHING, Returns, call_plugin, check, explain, owner

COMPONENTS = ("model", "tokenizer", "adapter")  # of a checkpoint
Config = Mapping[str, Mapping[str, Any]]  # the tables of a config.toml
NAMES: Returns = (
    lambda r: not isinstance(r, str) and all(map(str.strip, r)),
    'a tuple of names, such as ("<|end|>",)',
)
TABLE: Returns = (lambda r: all(isinstance(r[name], int) for name in r), "a mapping of names to token ids")


def make_datasets(job: Job) -> dict[str, Dataset]:
    """Make the datasets of a job, by table: one, or those of a mixture."""
    return {table: job.make(table) for table in job.inputs}


def plan_config(config: Config) -> Job:
    """Return the job of a config's tables. Raises UserError."""
    return plan(COMPONENTS, file=Layer("config", config))


def load_tokenizer(config: Config, saved: Path | None = None) -> Tokenizer:
    """Return the tokenizer of a config's tables, by default the model's own one, with a saved vocabulary.

    Only `[model] name` is needed. Raises PealmError.
    """
    return make_tokenizer(plan_config(config), saved)


def load_saved_tokenizer(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a run, a checkpoint or a folder of token shards. Raises PealmError."""
    saved = read_saved_tokenizer(Path(path))
    if saved is None:
        raise UserError(f"{path} does not say which tokenizer it was made with")
    return load_tokenizer(saved[0].tables, saved[1])


def make_tokenizer(job: Job, saved: Path | None = None, *datasets: Dataset) -> Tokenizer:
    """Make the job's tokenizer, with a saved vocabulary (else the job's) or fitted on the datasets' training text.

    The special tokens that datasets and objective name are added if it lacks them, and the datasets' chat layout.
    """
    saved, tokenizer = saved or job.vocabulary, job.make("tokenizer")
    name, dist = job.entries["tokenizer"].name, job.entries["tokenizer"].plugin.dist
    if has(tokenizer, "fit") and not (has(tokenizer, "save") and has(tokenizer, "load")):
        raise PluginError(f"{dist}: tokenizer {name!r} can fit but not save and load: its checkpoints would be lost")
    try:
        if saved is not None and has(tokenizer, "load"):
            call_plugin(tokenizer.load, ANYTHING, saved)
        elif saved is None and datasets and has(tokenizer, "fit"):
            for table, dataset in zip(job.inputs, datasets, strict=False):
                if not has(dataset, "documents"):
                    given = f"--input.{job.entries[table].name}"
                    raise UserError(f"{given} has no text for {name!r} to learn from; give --tokenizer-dir DIR")
            _learn(job, tokenizer, datasets)
        objective = job.entries.get("objective")
        check(f"{owner(type(tokenizer))}.specials", TABLE, specials_of(tokenizer))
        named = [(owner(type(dataset)), getattr(dataset, "specials", ())) for dataset in datasets]
        named += [(objective.plugin.dist, objective.spec.specials)] if objective else []
        wanted = [check(f"{what}: specials", NAMES, names) for what, names in named]
        layout = None if has_template(tokenizer) else _layout(job, datasets)
        tokenizer = with_specials(tokenizer, chain.from_iterable(wanted), saved, layout)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"tokenizer {name}: {saved or 'training text'}: {error}") from error
    if not isinstance(size := tokenizer.vocab_size, int) or size < 0:  # 0: fitted on no text
        raise PluginError(f"{dist}: vocab_size of tokenizer {name!r} is {size!r:.60}, not a number of tokens")
    eot = getattr(tokenizer, "eot_id", None)
    if size and eot is not None and not (isinstance(eot, int) and 0 <= eot < size):  # 0: not fitted
        raise PluginError(f"{dist}: eot_id of tokenizer {name!r} is {eot!r:.60}, not one of its {size:,} tokens")
    return tokenizer


def pretrained_vocabulary(job: Job) -> Path | None:
    """Return the folder with the vocabulary of the job's pretrained model, unless the user chose a tokenizer."""
    model, tokenizer, config = job.entries["model"], job.entries["tokenizer"], job.configs["tokenizer"]
    own = tokenizer.spec.name == model.spec.tokenizer and (config is None or config == type(config)())
    if model.spec.vocabulary is None or not own:
        return None
    folder: Path = model.load("vocabulary")(job.configs["model"])
    return folder


def _layout(job: Job, datasets: Iterable[Dataset]) -> Mapping[str, Any] | None:
    """Return the chat layout of the datasets. Raises UserError if they have several."""
    named = zip(job.inputs, datasets, strict=False)
    layouts = {job.entries[table].name: chat for table, dataset in named if (chat := getattr(dataset, "chat", None))}
    if any(chat != next(iter(layouts.values())) for chat in layouts.values()):
        raise UserError(f"[[input]] {' and '.join(layouts)} have different chat layouts; train on one of them")
    return next(iter(layouts.values()), None)


def _learn(job: Job, tokenizer: Any, datasets: Sequence[Dataset]) -> None:
    """Fit a tokenizer, or load what it learned from the same texts with the same settings. Raises UserError."""
    entry, config = job.entries["tokenizer"], job.configs["tokenizer"]
    splits = SPLITS if getattr(tokenizer, "fits_whole", False) else SPLITS[:1]
    contents = [content_of(dataset) for dataset in datasets]
    facts: Any = [entry.spec.name, entry.plugin.version, dump(config), [[one[s] for s in splits] for one in contents]]
    sample = FitSample(datasets, splits, getattr(tokenizer, "fit_bytes", None))

    def write(aside: Path) -> None:
        call_plugin(tokenizer.fit, ANYTHING, iter(sample))
        if sample.cut and launched()[0] == 0:
            print(f"pealm: tokenizer {entry.name} learned from a sample of {sample.size:,} bytes", file=sys.stderr)
        (aside / TOKENIZER).mkdir()
        call_plugin(tokenizer.save, ANYTHING, aside / TOKENIZER)
        loaded = job.make("tokenizer")
        try:
            loaded.load(aside / TOKENIZER)
            assert loaded.vocab_size == tokenizer.vocab_size, f"vocab_size {loaded.vocab_size}"
        except (Exception, SystemExit) as error:
            raise PluginError(f"{owner(loaded.load)}: can't load what `save` wrote: {explain(error)}") from error

    folder, cached = cached_folder(facts, {"tokenizer": entry.spec.name}, write)
    if cached:
        call_plugin(tokenizer.load, ANYTHING, folder / TOKENIZER)
