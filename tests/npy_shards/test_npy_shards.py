"""Token shards: both formats, every way in which a file can be wrong, and files that change during a run."""

import json
import os
import struct
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pealm_core import UserError
from pealm_core.data.token_file import MAX_OPEN
from pealm_core.data.token_stream import open_shards
from pealm_core.data.windows import Windows
from pealm_npy_shards.config import NpyShardsConfig
from pealm_npy_shards.dataset import NpyShards
from pealm_npy_shards.shard import open_shard


def dataset(folder: Path) -> NpyShards:
    return NpyShards(NpyShardsConfig(folder))


def write_bin(path: Path, ids: list[int], magic: int = 20240520, version: int = 1, count: int | None = None) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, "<u2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good shards and two other files."""
    np.save(tmp_path / "edufineweb_val_000000.npy", np.arange(50, dtype=np.uint16))
    np.save(tmp_path / "edufineweb_train_000002.npy", np.arange(200, 300, dtype=np.uint32))
    np.save(tmp_path / "edufineweb_train_000001.npy", np.arange(100, dtype=np.uint16))
    np.save(tmp_path / "interval_0.npy", np.zeros((2, 2)))
    (tmp_path / "train.log").write_text("x")
    return tmp_path


def test_npy_shards_in_the_order_of_their_names(folder: Path) -> None:
    data = dataset(folder)
    first, second = data.shards("train")
    assert (first.path.name, len(first), first.dtype) == ("edufineweb_train_000001.npy", 100, np.uint16)
    assert (len(second), second.dtype) == (100, np.uint32)
    assert first[3:7].tolist() == [3, 4, 5, 6]
    assert second[95:200].tolist() == [295, 296, 297, 298, 299]
    assert [first[:].tolist(), first[-2:].tolist(), first[9:9].tolist()] == [[*range(100)], [98, 99], []]
    assert [len(shard) for shard in data.shards("val")] == [50]


def test_the_byte_order_is_the_files(folder: Path) -> None:
    np.save(folder / "edufineweb_val_000001.npy", np.array([1, 2, 50256], ">u2"))
    assert dataset(folder).shards("val")[1][:].tolist() == [1, 2, 50256]


def test_llm_c_shards(tmp_path: Path) -> None:
    write_bin(tmp_path / "tiny_shakespeare_train.bin", [50256, 1, 2, 65535])
    write_bin(tmp_path / "tiny_shakespeare_val.bin", [7])
    (shard,) = dataset(tmp_path).shards("train")
    assert (len(shard), shard[:].tolist()) == (4, [50256, 1, 2, 65535])
    assert dataset(tmp_path).shards("val")[0][0:1].tolist() == [7]


def test_a_slice_is_what_numpy_reads(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50257, 10_000).astype(np.uint16)
    np.save(tmp_path / "train.npy", ids)
    shard = open_shard(tmp_path / "train.npy")
    for start, stop in [(0, 1025), (8975, 10_000), (5, None), (None, None)]:
        assert np.array_equal(shard[start:stop], ids[start:stop])


def test_the_vocabulary_is_what_meta_json_says(folder: Path) -> None:
    assert dataset(folder).vocab_size is None
    (folder / "meta.json").write_text(json.dumps({"tokenizer": "tiktoken", "vocab_size": 50257}))
    assert dataset(folder).vocab_size == 50257
    for wrong in ("{", "[" * 100_000):
        (folder / "meta.json").write_text(wrong)
        with pytest.raises(UserError, match=r"meta.json can't be read"):
            _ = dataset(folder).vocab_size
    (folder / "meta.json").write_text('{"vocab_size": "many"}')
    with pytest.raises(UserError, match="must be a positive whole number, not 'many'"):
        _ = dataset(folder).vocab_size


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(9, dtype=np.int64), "has int64; token shards are uint16 or uint32"),
        (np.arange(9, dtype=np.float16), "has float16"),
        (np.zeros((3, 3), np.uint16), r"has shape \(3, 3\)"),
        (np.uint16(3), r"has shape \(\)"),
        (np.zeros(0, np.uint16), "is empty: it has no tokens"),
    ],
)
def test_a_wrong_array_is_named(folder: Path, array: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    np.save(folder / "edufineweb_train_000003.npy", array)
    with pytest.raises(UserError, match=f"edufineweb_train_000003.npy {message}"):
        dataset(folder).shards("train")


def test_a_truncated_or_foreign_file_is_named(folder: Path) -> None:
    path = folder / "edufineweb_train_000001.npy"
    whole = path.read_bytes()
    for data, message in [
        (whole[:-2], "is truncated: it has 326 bytes; a header of 100 tokens means 328 bytes"),
        (whole + b"??", "is too long"),
        (whole[:50], "is not an .npy file"),
        (b"PK\3\4" + whole, "is not an .npy file"),
        (b"", "is empty"),
    ]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"edufineweb_train_000001.npy {message}"):
            dataset(folder).shards("train")


def test_a_wrong_llm_c_file_is_named(folder: Path) -> None:
    path = folder / "x_train_0.bin"
    write_bin(path, [1, 2], magic=20240801)
    with pytest.raises(UserError, match=r"x_train_0.bin is not an llm.c data file: magic 20240801 has version 7"):
        dataset(folder).shards("train")
    write_bin(path, [1, 2], version=7)
    with pytest.raises(UserError, match="version 1, not 7"):
        dataset(folder).shards("train")
    write_bin(path, [1, 2], count=3)
    with pytest.raises(UserError, match=r"x_train_0.bin is truncated: it has 1,028 bytes"):
        dataset(folder).shards("train")
    write_bin(path, [], count=0)
    with pytest.raises(UserError, match="is empty"):
        dataset(folder).shards("train")
    path.write_bytes(np.array(20240520, "<i4").tobytes() + b"\0" * 96)
    with pytest.raises(UserError, match=r"x_train_0.bin is truncated: it has 100 bytes"):
        dataset(folder).shards("train")


def test_a_missing_split_or_folder_is_named_with_the_way_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "edufineweb_val_000000.npy").rename(folder / "edufineweb_value_000000.npy")
    with pytest.raises(UserError, match=r"has no val shard: .* as in part_val_000001.npy"):
        dataset(folder).shards("val")
    np.save(folder / "train_val.npy", np.arange(9, dtype=np.uint16))
    with pytest.raises(UserError, match=r"train_val.npy has both"):
        dataset(folder).shards("val")
    with pytest.raises(UserError, match=r"nowhere: no such folder$"):
        dataset(tmp_path / "nowhere").shards("train")
    with pytest.raises(UserError, match=r"train.log: Not a directory; give a folder"):
        dataset(folder / "train.log").shards("train")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/fineweb_edu10B: no such folder; `python scripts/fineweb.py` makes it"):
        NpyShards().shards("train")


def test_an_id_beyond_the_vocabulary_is_named_with_its_place(folder: Path) -> None:
    data = dataset(folder)
    data.check(300)
    with pytest.raises(
        UserError, match=r"train_000002.npy has token 250 \(position 50\), beyond the vocabulary of 250"
    ):
        data.check(250)
    with pytest.raises(UserError, match=r"train_000001.npy has token 40 \(position 40\)"):
        data.check(40)


def test_the_scan_of_a_large_shard_reaches_both_ends_and_reads_little(folder: Path) -> None:
    path, n = folder / "edufineweb_train_000001.npy", 20_000_000
    with path.open("wb") as file:  # a sparse file of zeros
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (n,)})
        begin = file.tell()
        file.truncate(begin + 2 * n)
    dataset(folder).check(300)
    for place in (0, n - 1):
        with path.open("r+b") as file:
            file.seek(begin + 2 * place)
            file.write(np.array([60000], "<u2").tobytes())
        with pytest.raises(UserError, match=f"token 60,000 \\(position {place:,}\\)"):
            dataset(folder).check(50257)
        with path.open("r+b") as file:
            file.seek(begin + 2 * place)
            file.write(b"\0\0")


def test_a_file_that_shrinks_is_named_and_one_that_is_deleted_stays_readable(folder: Path) -> None:
    first, second = dataset(folder).shards("train")
    os.truncate(first.path, 228)
    assert first[:50].tolist() == [*range(50)]
    with pytest.raises(UserError, match=r"train_000001.npy has become shorter"):
        first[40:60]
    os.truncate(first.path, 0)
    with pytest.raises(UserError, match=r"train_000001.npy has become shorter"):
        first[0:1]
    second.path.unlink()
    assert second[99:].tolist() == [299]


def test_a_pipe_is_refused_instead_of_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "edufineweb_train_000003.npy")
    with pytest.raises(UserError, match=r"train_000003.npy is not a regular file"):
        dataset(folder).shards("train")


def test_the_record_and_the_config_load_nothing_heavy() -> None:
    code = (
        "import sys, pealm_npy_shards.plugin, pealm_npy_shards.config; print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_masks_and_offsets_lie_beside_the_shards(folder: Path) -> None:
    data = dataset(folder)
    assert data.masks("train") is None and data.offsets("train") is None
    for number in (1, 2):
        np.ones(100, "u1").tofile(folder / f"edufineweb_train_00000{number}.mask")
        np.array([0, 40 * number], "<u8").tofile(folder / f"edufineweb_train_00000{number}.offsets")
    masks, offsets = data.masks("train"), data.offsets("train")
    assert masks is not None and [len(mask) for mask in masks] == [100, 100] and data.masks("val") is None
    assert offsets is not None and [places[:].tolist() for places in offsets] == [[0, 40], [0, 80]]
    (folder / "edufineweb_train_000002.mask").write_bytes(b"\1" * 99)
    with pytest.raises(UserError, match=r"000002.mask is truncated: 99 of 100"):
        data.masks("train")
    with (folder / "edufineweb_train_000001.offsets").open("ab") as file:
        file.truncate(12)
    with pytest.raises(UserError, match=r"000001.offsets is truncated: 12 bytes"):
        data.offsets("train")
    (folder / "edufineweb_train_000002.mask").unlink()
    with pytest.raises(UserError, match=r"000002.mask can't be read: No such file"):
        data.masks("train")


def test_both_of_llm_cs_formats(tmp_path: Path) -> None:
    write_bin(tmp_path / "fineweb_val_000000.bin", [7, 65535])
    header = np.zeros(256, "<i4")
    header[:3] = 20240801, 7, 3
    (tmp_path / "fineweb_train_000001.bin").write_bytes(header.tobytes() + np.array([1, 2, 128255], "<u4").tobytes())
    assert [shard[:].tolist() for shard in dataset(tmp_path).shards("train")] == [[1, 2, 128255]]
    assert dataset(tmp_path).shards("val")[0][:].tolist() == [7, 65535]


def test_nanogpts_files_have_ids_alone(tmp_path: Path) -> None:
    for name, ids in (("train", [*range(600)]), ("val", [5, 6])):
        np.array(ids, np.uint16).tofile(tmp_path / f"{name}.bin")
    data = dataset(tmp_path)
    assert data.shards("train")[0][:].tolist() == [*range(600)] and data.offsets("train") is None
    assert data.shards("val")[0][:].tolist() == [5, 6]
    np.array([70000, 1], np.uint32).tofile(tmp_path / "val.bin")
    assert NpyShards(NpyShardsConfig(tmp_path, "uint32")).shards("val")[0][:].tolist() == [70000, 1]
    (tmp_path / "val.bin").write_bytes(b"123")
    with pytest.raises(UserError, match=r"val.bin is truncated: 3 bytes are not a number of uint16 ids"):
        dataset(tmp_path).shards("val")


def write_megatron(prefix: Path, documents: list[list[list[int]]], dtype: str) -> None:
    """Write documents of sequences as Megatron-LM's IndexedDatasetBuilder does."""
    sequences = [sequence for document in documents for sequence in document]
    ids, lengths = np.array([*chain(*sequences)], dtype), np.array([len(s) for s in sequences], np.int32)
    pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * ids.itemsize
    ends = np.cumsum([0, *(len(document) for document in documents)], dtype=np.int64)
    code = {"int32": 4, "int64": 5, "uint16": 8}[dtype]
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(ends))
    prefix.with_suffix(".bin").write_bytes(ids.tobytes())
    prefix.with_suffix(".idx").write_bytes(head + lengths.tobytes() + pointers.tobytes() + ends.tobytes())


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_megatrons_files(tmp_path: Path, dtype: str) -> None:
    documents = [[[1, 2, 3], [4]], [[5, 6]], [[7], [8], [9, 10]]]
    write_megatron(tmp_path / "my_text_document", documents, dtype)
    data = NpyShards(NpyShardsConfig(tmp_path, val_fraction=0.3))  # no name has "train" or "val" in it
    assert [shard[:].tolist() for shard in data.shards("train")] == [[1, 2, 3, 4, 5, 6, 7]]
    assert [shard[:].tolist() for shard in data.shards("val")] == [[8, 9, 10]]
    assert [places.tolist() for places in data.offsets("train") or ()] == [[0, 4, 6]]
    data.check(11)
    with pytest.raises(UserError, match="has token 10"):
        data.check(10)
    for name, cut, message in (("bin", -1, "is truncated"), ("idx", -1, "truncated my_text_document.idx")):
        path = tmp_path / f"my_text_document.{name}"
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=message):
            dataset(tmp_path).shards("train")
        path.write_bytes(whole)
    (tmp_path / "my_text_document.idx").write_bytes(b"x" * 99)
    with pytest.raises(UserError, match="an index that is not Megatron's"):
        dataset(tmp_path).shards("train")


def test_negative_ids_are_named(tmp_path: Path) -> None:
    write_megatron(tmp_path / "train", [[[1, -2]]], "int32")
    write_megatron(tmp_path / "val", [[[1, 2]]], "int32")
    with pytest.raises(UserError, match=r"has token -2 \(position 1\)"):
        dataset(tmp_path).check(10)


@pytest.mark.parametrize("size", [2, 4])
def test_datatroves_files(tmp_path: Path, size: int) -> None:
    documents = [[1, 2, 3, 0], [4, 0], [5, 6, 7, 8, 0]]
    for number in range(2):
        path = tmp_path / f"{number:05d}_00000_shuffled.ds"
        ids = [*chain(*documents)]
        path.write_bytes(struct.pack(f"<{len(ids)}{'H' if size == 2 else 'I'}", *ids))
        Path(f"{path}.index").write_bytes(struct.pack("<3Q", *np.cumsum([len(document) for document in documents])))
        Path(f"{path}.metadata").write_text(f"gpt2|{size}\n11\n11 T")
        Path(f"{path}.loss").write_bytes(struct.pack("<11?", *([True] * 9 + [False] * 2)))
    data = NpyShards(NpyShardsConfig(tmp_path, val_fraction=0.2))
    assert [shard[:].tolist() for shard in data.shards("train")] == [ids, [1, 2, 3, 0, 4, 0]]
    assert [shard[:].tolist() for shard in data.shards("val")] == [[5, 6, 7, 8, 0]]
    assert [places.tolist() for places in data.offsets("train") or ()] == [[0, 4, 6], [0, 4]]
    assert [mask[:].tolist() for mask in data.masks("val") or ()] == [[1, 1, 1, 0, 0]]
    Path(f"{path}.metadata").write_text("gpt2|8\n")
    with pytest.raises(UserError, match="first line doesn't end in"):
        dataset(tmp_path).shards("train")


def test_a_thousand_shards_open_with_few_descriptors(tmp_path: Path) -> None:
    head = {"descr": "<u2", "fortran_order": False, "shape": (10_000_000,)}
    for number in range(1000):  # ten billion tokens, in sparse files
        with (tmp_path / f"part_{'train' if number else 'val'}_{number:06d}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            file.truncate(file.tell() + 20_000_000)
    with (tmp_path / "part_train_000500.npy").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(np.array([60_000], "<u2").tobytes())
    data, before = dataset(tmp_path), len([*Path("/dev/fd").iterdir()])
    corpus = open_shards(data, SimpleNamespace(vocab_size=60_001))  # type: ignore[arg-type]
    windows = Windows(corpus.train, 1024)
    assert windows.tokens == 9_990_000_000 and windows.rows(range(100))["idx"].shape == (100, 1024)
    assert len([*Path("/dev/fd").iterdir()]) - before <= MAX_OPEN < 48
    with pytest.raises(UserError, match=r"part_train_000500\.npy has token 60,000 \(position 9,999,999\)"):
        data.check(60_000)


def test_the_shards_of_datatrove_itself(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="not a dependency: pip install datatrove")
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<eot>": 0, "a": 1, "b": 2, "c": 3, "?": 4}, unk_token="?"))  # type: ignore[call-arg]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for rank, texts in enumerate((["a b c", "b", "c c a"], ["d", "a a b"])):
        writer = DocumentTokenizer(
            str(tmp_path / "out"), str(tmp_path / "tokenizer.json"), eos_token="<eot>", shuffle_documents=rank > 0
        )
        writer.run([Document(text=text, id=str(number)) for number, text in enumerate(texts)], rank, 2)
    data = NpyShards(NpyShardsConfig(tmp_path / "out", val_fraction=0.4))
    assert [shard[:].tolist() for shard in data.shards("train")] == [[1, 2, 3, 0, 2, 0, 3, 3, 1]]
    assert [places.tolist() for places in data.offsets("train") or ()] == [[0, 4, 6]]
    last, shuffled = data.shards("val")
    assert (last[:].tolist(), last.dtype) == ([0], np.uint16)
    assert shuffled[:].tolist() in ([4, 0, 1, 1, 2, 0], [1, 1, 2, 0, 4, 0])
    data.check(5)
