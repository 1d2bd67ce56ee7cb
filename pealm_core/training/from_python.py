"""Train from Python, in a script or a notebook, as `pealm train` does."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pealm_core.checkpoints.saved_tokenizer import plan_with_tokenizer
from pealm_core.config.choose_components import COMPONENTS
from pealm_core.config.local_plugins import differences
from pealm_core.config.resolve_job import TRAINING, check_training
from pealm_core.config.settings import TrainSettings
from pealm_core.config.toml_layers import Layer, file_layer
from pealm_core.contract.fields import word
from pealm_core.hardware.launch import launched
from pealm_core.training.run_folder import CONFIG
from pealm_core.training.train import train as run_training

Values = Mapping[str, Any]


def train(
    model: str | Values | None = None,
    input: str | Values | Sequence[Values] | None = None,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    tokenizer_dir: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Train a model, or resume the run in `out`, and return the run's folder. Raises PealmError.

    model, and in settings tokenizer, optimizer, schedule, objective, strategy, adapter: a component's name, or a
    table of its settings: `{"name": "muon", "momentum": 0.9}`. input: a dataset's name, a table such as
    `{"text": "book.txt"}`, or a list of these, each with a `weight`. observer: a table for each observer with
    settings, `{"csv": {"every": 10}}`. out: the folder, by default a new one below `runs`. preset: the model's.
    tokenizer_dir: a run, checkpoint or folder of shards whose tokenizer is used. Other settings are those of `pealm
    train`: `steps=100, lr=1e-3`.

    A first Ctrl-C ends the run after the current step, with a checkpoint, and raises KeyboardInterrupt.
    """
    named = {"model": model, "input": input, **settings}
    mixture = named.pop("input") if isinstance(input, Sequence) and not isinstance(input, str) else None
    flat: dict[str, Any] = {}
    words: dict[str, dict[str, Any]] = {"train": flat}
    for key, value in named.items():
        if isinstance(value, Mapping):
            given = {name.replace("_", "-"): item for name, item in value.items()}
            flags = key == "input"  # {"tinyshakespeare": True}
            words[key] = {name: item if flags and item is True else _word(item) for name, item in given.items()}
        elif key in COMPONENTS and value is not None:
            words[key] = {value: True} if key == "input" else {"name": str(value)}
        elif key not in COMPONENTS:
            flat[key.replace("_", "-")] = _word(value)
    file = Layer("train()", {} if mixture is None else {"input": mixture})
    if out is not None and (Path(out) / CONFIG).exists():
        file = file_layer(Path(out) / CONFIG)
    sources: dict[str, Any] = {"file": file, "preset": preset, "words": words, "tokenizer_dir": tokenizer_dir}
    job = plan_with_tokenizer(TRAINING, flat={"train": TrainSettings}, **sources)
    rank, processes, _ = launched()
    for line in differences(file, job.host) if rank == 0 else ():
        print(line, file=sys.stderr)
    check_training(job, processes)
    folder, code = run_training(job, None if out is None else Path(out))
    if code:
        raise KeyboardInterrupt
    return folder


def _word(value: Any) -> Any:
    """Return a value as a word of the command line; numbers stay as they are, also those of an observer's table."""
    if isinstance(value, Mapping):
        return {key.replace("_", "-"): _word(item) for key, item in value.items()}
    return value if type(value) in (int, float) else word(value)
