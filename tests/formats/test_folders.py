"""Hugging Face's folders: weights that torch.save wrote, and what goes wrong with them."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pealm_core import UserError
from pealm_formats.folders import Weights, write_new, write_weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file_of_tensors_is_read(zipped: bool, tmp_path: Path) -> None:
    mask = {"h.0.attn.bias": torch.ones(2, 2, dtype=torch.bool)}
    torch.save({**TENSORS, **mask}, tmp_path / BIN, _use_new_zipfile_serialization=zipped)
    weights = Weights(tmp_path, (".attn.bias",))
    assert weights.shapes == {"a": (2, 3), "b": (4,)}
    found = dict(weights.items())
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    with pytest.raises(UserError, match=r"h.0.attn.bias is bool; pealm reads"):
        Weights(tmp_path)


def test_shards_of_pickled_files_are_read(tmp_path: Path) -> None:
    names = {name: f"pytorch_model-{i}.bin" for i, name in enumerate(TENSORS)}
    for name, file in names.items():
        torch.save({name: TENSORS[name]}, tmp_path / file)
    (tmp_path / BIN_INDEX).write_text(json.dumps({"weight_map": names}))
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in Weights(tmp_path).items())
    (tmp_path / BIN_INDEX).write_text(json.dumps({"weight_map": {**names, "a": "../x.bin"}}))
    with pytest.raises(UserError, match=r"names '../x.bin', which is not a .bin file in its folder"):
        Weights(tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({"a": Evil()}, path), "was refused: it has more than tensors"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Evil()})), "was refused: it has more than tensors"),
        (lambda path: path.write_bytes(b""), "can't be read, it is truncated or damaged"),
        (lambda path: torch.save([1], path), "is not a state dict of names and tensors"),
        (lambda path: torch.save({"a": 1}, path), "is not a state dict of names and tensors"),
    ],
)  # fmt: skip
def test_other_pickled_files_are_one_line(write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    write(tmp_path / BIN)
    with pytest.raises(UserError, match=message) as error:
        Weights(tmp_path)
    assert "\n" not in str(error.value)


def test_a_truncated_pickled_file_is_one_line(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / BIN)
    whole = (tmp_path / BIN).read_bytes()
    for kept in (whole[:-100], whole[:200]):
        (tmp_path / BIN).write_bytes(kept)
        with pytest.raises(UserError, match=r"can't be read|was refused") as error:
            Weights(tmp_path)
        assert "\n" not in str(error.value)


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise ValueError("no more")

    with pytest.raises(Exception, match="out could not be written: no more"):
        write_new(tmp_path / "out", fail)
    assert not [*tmp_path.iterdir()]


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from pealm_llama.layout import read_folder
read_folder(Path(sys.argv[1]) / "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config, state = read_folder(Path(sys.argv[1]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, sum(tensor.nbytes for tensor in state.values()))
"""


def test_shards_take_the_memory_of_the_weights_and_one_shard(tmp_path: Path) -> None:
    from pealm_llama.config import LlamaConfig
    from pealm_llama.layout import write_config
    from pealm_llama.model import Llama
    from pealm_llama.names import separate

    for folder, n_embd in ((tmp_path / "small", 8), (tmp_path, 512)):
        config = LlamaConfig(vocab_size=4000, n_layer=12, n_head=4, n_kv_head=2, n_embd=n_embd)
        folder.mkdir(exist_ok=True)
        state = separate(Llama(config).state_dict(), n_head=4, kv_heads=2)
        (folder / "config.json").write_text(json.dumps(write_config(config, dtype="float32", eot_id=None)))
        write_weights(folder, state, shard=2**24)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], check=True, capture_output=True, text=True)
    used, weights = map(int, done.stdout.split())
    assert weights > 5 * 2**24 and used < weights + 2 * 2**24, (used, weights)
