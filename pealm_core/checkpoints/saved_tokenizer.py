"""The tokenizer that a run, a checkpoint, token shards or initial weights carry, for a command that names none."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pealm_core.checkpoints import folder as checkpoint
from pealm_core.config.resolve_job import Job, plan
from pealm_core.config.toml_layers import Layer, file_layer, read_regular
from pealm_core.contract.errors import UserError
from pealm_core.contract.specs import ModelSpec
from pealm_core.plugins.loading import PluginHost

META = "meta.json"  # beside token shards


def plan_with_tokenizer(components: Sequence[str], *, tokenizer_dir: Path | str | None = None, **sources: Any) -> Job:
    """Return the job of `plan`, with the tokenizer saved in a folder, else that of its token shards or of `--init`.

    Else it is that of the weights of `--init`. A config file or the command line may name another. Raises UserError.
    """
    file, words = sources.get("file"), sources.get("words") or {}
    if "tokenizer" not in components:
        return plan(components, **sources)
    if tokenizer_dir is not None:
        place, saved = f"--tokenizer-dir {tokenizer_dir}", read_saved_tokenizer(Path(tokenizer_dir))
    elif file is not None and "name" in file.tables.get("tokenizer", {}):
        return plan(components, **sources)
    else:
        own = {table: values for table, values in words.items() if table in ("model", "input")}
        place, saved = _of_shards(plan(("model", "input"), **{**sources, "words": own}))
    layer, folder = saved or (_of_init(sources), None)
    job = plan(components, **sources, carried=layer)
    if layer is None or folder is None:
        return job  # only the vocabulary's size can be compared
    name = layer.tables["tokenizer"]["name"]
    if job.entries["tokenizer"].spec.name != name.rpartition("/")[2]:
        raise UserError(f"{place} has the tokenizer {name!r}, not {job.entries['tokenizer'].name!r}")
    return replace(job, vocabulary=folder)


def read_saved_tokenizer(path: Path) -> tuple[Layer, Path | None] | None:
    """Return the settings of the tokenizer in a run, a checkpoint or a folder of shards, and where its files are.

    None if the shards don't say which tokenizer it was. Raises UserError.
    """
    if (path / META).exists():
        return _of_meta(path)
    folder = checkpoint.find(path)
    checkpoint.verify(folder, checkpoint.CONFIG, checkpoint.TOKENIZER)
    file = file_layer(folder / checkpoint.CONFIG)
    table = file.tables.get("tokenizer", {})
    if "name" not in table:
        raise UserError(f"{folder / checkpoint.CONFIG} does not name a tokenizer")
    return Layer(file.origin, {"tokenizer": table}), folder / checkpoint.TOKENIZER


def _of_meta(path: Path) -> tuple[Layer, Path | None] | None:
    try:
        meta = json.loads(read_regular(path / META))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path / META} can't be read: {error}") from error
    table = meta.get("tokenizer") if isinstance(meta, dict) else None
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        return None
    folder = path / checkpoint.TOKENIZER
    return Layer(str(path / META), {"tokenizer": table}), folder if folder.is_dir() else None


def _of_shards(job: Job) -> tuple[str, tuple[Layer, Path | None] | None]:
    """Return the tokenizer of a job's token shards, and how messages call them. Raises UserError for two."""
    several: list[tuple[str, tuple[Layer, Path | None]]] = []
    for table in job.inputs:
        spec = job.entries[table].spec
        path = Path(getattr(job.configs[table], spec.value)) if spec.shards else None
        if path is not None and (path / META).exists() and (saved := _of_meta(path)):
            several.append((f"--input.{spec.name} {path}", saved))
    for place, (layer, folder) in several[1:]:
        first, (other, other_folder) = several[0]
        if layer.tables != other.tables or _files(folder) != _files(other_folder):
            raise UserError(f"{place} and {first} were made with different tokenizers")
    return several[0] if several else ("", None)


def _of_init(sources: Mapping[str, Any]) -> Layer | None:
    """Return the tokenizer of the weights that `--init` names, if it is known. Raises UserError."""
    file = sources.get("file")
    tables = [sources.get("words") or {}, file.tables if file else {}]
    init = next((str(t["train"]["init"]) for t in tables if t.get("train", {}).get("init")), "")
    path, host = Path(init or "-"), sources.get("host") or PluginHost.installed()
    if path.is_dir() or (path.parent / checkpoint.STATE).is_file():
        saved = read_saved_tokenizer(path)
        return saved[0] if saved else None
    names = [entry.spec.tokenizer for entry in host.entries(ModelSpec).get(init.rpartition("/")[2], [])]
    return Layer(f"--init {init}", {"tokenizer": {"name": names[0]}}) if names and names[0] else None


def _files(folder: Path | None) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}
