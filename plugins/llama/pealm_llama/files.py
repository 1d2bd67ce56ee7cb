"""Hugging Face's folders on disk: JSON, and safetensors in one file or in shards with an index."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from pealm_core import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON = 2**26
SHARD = 5 * 10**9  # bytes of weights in a file that we write
FLOATS = {"F32", "F16", "BF16"}  # the dtypes that are read, as safetensors calls them


def read_json(path: Path) -> Any:
    """Read a JSON file, but no pipe or device, which may never end. Raises UserError."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST_JSON):
        raise UserError(f"{path} can't be read: it is not a regular file of at most {LARGEST_JSON:,} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file as transformers formats it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def shards(index: Path) -> list[str]:
    """Return the names of the files in an index. Raises UserError for one that is not in its folder."""
    values = read_json(index)
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    for name in names.values():
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise UserError(f"{index} names {name!r:.80}, which is not a .safetensors file in its folder")
    return sorted(set(names.values()))


class Weights:
    """The tensors of a folder: shapes from the files' headers, and tensors as they are asked for.

    Raises UserError for missing and damaged files.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        index = folder / INDEX
        names = [WEIGHTS] if (folder / WEIGHTS).exists() or not index.exists() else shards(index)
        self.where = folder / WEIGHTS if names == [WEIGHTS] else index
        self._paths: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in (folder / name for name in names):
            if not path.is_file():
                raise UserError(
                    f"{folder} has no {path.name}{'' if path.name == WEIGHTS else f', which {INDEX} names'}"
                )
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a mapping)
                        part = file.get_slice(name)
                        if part.get_dtype() not in FLOATS:
                            raise UserError(f"{path}: {name} is {part.get_dtype()}; pealm reads {', '.join(FLOATS)}")
                        self._paths[name], self.shapes[name] = path, tuple(part.get_shape())
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path} can't be read, it is truncated or damaged: {error}") from None

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors by name, file by file."""
        from safetensors import safe_open

        for path in dict.fromkeys(self._paths.values()):
            with ExitStack() as opened:
                file = opened.enter_context(safe_open(path, framework="pt"))
                for name in (name for name, place in self._paths.items() if place == path):
                    yield name, file.get_tensor(name)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], *, shard: int = SHARD) -> None:
    """Write tensors as one file, or as shards of at most `shard` bytes with an index. Raises OSError."""
    from safetensors.torch import save_file

    parts, size = [dict[str, Tensor]()], 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > shard:
            parts.append({})
            size = 0
        parts[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    if len(parts) == 1:
        save_file(parts[0], folder / WEIGHTS, {"format": "pt"})
        return
    places = dict[str, str]()
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
