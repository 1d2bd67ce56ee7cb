"""Hugging Face's folders on disk: JSON, and weights in one file or in shards with an index."""

import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pealm_core import PealmError, UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# The first that is there is read.
PLACES = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
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


def write_new(target: Path, write: Callable[[Path], None]) -> None:
    """Make a new file or folder by `write(aside)`, complete or not at all.

    An empty folder may be there. Raises UserError for anything else, and PealmError if writing fails.
    """
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} exists already; remove it or choose another place")
    aside = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        for path in [aside] if aside.is_file() else sorted(aside.iterdir()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.is_dir() and aside.is_file():
            target.rmdir()
        aside.rename(target)
    except (OSError, ValueError) as error:
        raise PealmError(f"{target} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):
            aside.unlink()


def indexed(index: Path) -> list[str]:
    """Return the names of the files in an index. Raises UserError for one that is not in its folder."""
    values, ending = read_json(index), ".bin" if index.name.startswith("pytorch") else ".safetensors"
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    for name in names.values():
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(ending):
            raise UserError(f"{index} names {name!r:.80}, which is not a {ending} file in its folder")
    return sorted(set(names.values()))


class Weights:
    """The tensors of a folder: shapes from the files' headers, and tensors as they are asked for.

    unused: endings of names that are not weights, such as masks; they are left out. Raises UserError for missing and
    damaged files.
    """

    def __init__(self, folder: Path, unused: tuple[str, ...] = ()) -> None:
        self.where = next((folder / name for name in PLACES if (folder / name).exists()), folder / WEIGHTS)
        names = indexed(self.where) if self.where.suffix == ".json" else [self.where.name]
        self._paths: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in (folder / name for name in names):
            if not path.is_file():
                raise UserError(
                    f"{folder} has no {path.name}{'' if path == self.where else f', which {self.where.name} names'}"
                )
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if name.endswith(unused):
                        continue
                    part = file.get_slice(name)
                    if (kind := part.get_dtype()) not in FLOATS:
                        raise UserError(f"{path}: {name} is {kind}; pealm reads {', '.join(FLOATS)}")
                    self._paths[name], self.shapes[name] = path, tuple(part.get_shape())

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors by name, file by file."""
        for path in dict.fromkeys(self._paths.values()):
            with _open(path) as file:
                for name in (name for name, place in self._paths.items() if place == path):
                    yield name, file.get_tensor(name)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file of tensors. Raises UserError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".bin":
        yield _Pickled(path)
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read, it is truncated or damaged: {error}") from None


class _Pickled:
    """A file that torch.save wrote, with the methods of `safe_open`. Code in it is never run."""

    def __init__(self, path: Path) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):
                zipped = zipfile.is_zipfile(path)  # else an older form, which can't be mapped into memory
                self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError:
            raise UserError(
                f"{path} was refused: it has more than tensors, and reading it could run its code"
            ) from None
        except Exception as error:  # torch has no class for a damaged file
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UserError(f"{path} can't be read, it is truncated or damaged: {reason}") from None
        tensors = self._tensors.items() if isinstance(self._tensors, dict) else [("", None)]
        if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors):
            raise UserError(f"{path} is not a state dict of names and tensors")

    def keys(self) -> Iterable[str]:
        return list(self._tensors)

    def get_tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._tensors[name]
        return tensor.detach().clone(memory_format=torch.contiguous_format)  # not the file's memory

    def get_slice(self, name: str) -> "_Slice":
        return _Slice(self._tensors[name])


class _Slice:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> Sequence[int]:
        return self._tensor.shape

    def get_dtype(self) -> str:
        kind = str(self._tensor.dtype).removeprefix("torch.")
        return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(kind, kind)


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
