"""Records as a dataset: every format, every way to cut it, and every row that can't be read."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pealm_core import UserError
from pealm_records import readers
from pealm_records.config import RecordsConfig
from pealm_records.dataset import Records

TEXTS = [f"document {i}, line one\nline \u00fc{i}" * (1 + i % 3) for i in range(300)]


def write(path: Path, texts: list[str]) -> Path:
    """Write texts in the format of the file's name."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    kind = path.name.split(".", 1)[1]
    if kind == "parquet":
        table = pa.table({"id": range(len(texts)), "text": texts})
        pq.write_table(table, path, row_group_size=40)
        return path
    if kind.startswith("csv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    else:
        lines = [json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()[:5000]) + gzip.compress(path.read_bytes()[5000:]))
    if path.suffix == ".zst":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    return path


def read(path: Path, fraction: float = 0.1, column: str = "text") -> dict[str, list[str]]:
    data = Records(RecordsConfig(str(path), column, fraction))
    splits = {}
    for split in ("train", "val"):
        splits[split] = list(data.documents(split))
        assert [text for part in data.parts(split) for text in part.documents()] == splits[split]
    return splits


@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "csv.zst", "parquet"])
@pytest.mark.parametrize("size", [1000, 2**24])
def test_every_format_gives_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    monkeypatch.setattr(readers, "RANGE", size)
    path = write(tmp_path / f"docs.{kind}", TEXTS)
    splits = read(path)
    assert 10 < len(splits["val"]) < 60
    assert sorted([*splits["train"], *splits["val"]]) == sorted(TEXTS)
    assert splits == read(write(tmp_path / "other.jsonl", TEXTS))
    parts = Records(RecordsConfig(str(path))).parts("train")
    assert (len(parts) > 5) == (size == 1000 and kind in ("jsonl", "ndjson", "parquet"))
    assert len({part.name for part in parts}) == len(parts)


def test_a_split_does_not_change_when_documents_are_added(tmp_path: Path) -> None:
    before = read(write(tmp_path / "docs.jsonl", TEXTS[:200]))
    after = read(write(tmp_path / "docs.jsonl", TEXTS[200:] + TEXTS[:200]))
    for split in ("train", "val"):
        assert {*before[split]} <= {*after[split]}


def test_folders_globs_and_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a.csv", ".hidden/x.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [f"of {name}"])
    assert read(tmp_path, 1e-9)["train"] == ["of a.csv", "of b/2.jsonl"]
    assert read(tmp_path / "*" / "*.jsonl", 1e-9)["train"] == ["of b/2.jsonl"]


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": null}\n\n{"text": ""}\n{"text": "a"}')
    assert read(path, 1e-9)["train"] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"a.jsonl, line 2 is not JSON: .* \(character 13\)$"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', r"a.jsonl, line 3 is not an object with columns, but \[1\]"),
        ("a.jsonl", b'{"body": "a", "id": 1}', "line 1 has no column 'text'; its columns: body, id"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 7}', "line 2: column 'text' is 7, not text"),
        ("a.jsonl", b'{"text": "a"}\n\xff\xfe\n', "line 2 is not UTF-8"),
        (
            "a.jsonl",
            b'{"text": "\\u00e9 \\ud83d\\ude00"}\n{"text": "a\\ud800b"}',
            "line 2: column 'text' has half a surrogate",
        ),
        ("a.csv", b"id,body\n1,a\n", "a.csv has no column 'text'; its columns: id, body"),
        ("a.csv", b'text,id\n"a\nb",1\nc,2,3\n', "line 4 has 3 columns, and the head 2"),
        ("a.csv", b'text,id\n"a,1\n', "is not CSV: unexpected end of data"),
        ("a.csv", b"text\nok\n\xff\n", "line 3 is not UTF-8"),
        ("a.parquet", b"PAR1 not really", "a.parquet is not a readable parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 99, mtime=0)[:-9], "truncated|damaged"),
        ("a.jsonl.gz", b"no gzip at all", "a.jsonl.gz is damaged"),
        ("a.jsonl.zst", b"no zstd at all", "a.jsonl.zst is damaged"),
        ("a.txt", b"text", "a.txt is not one of .*; for text, --input.text"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_the_line_is_that_of_the_file_in_a_later_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "RANGE", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some words"}\n' * 50 + "oops\n")
    with pytest.raises(UserError, match="line 51 is not JSON"):
        read(path)


def test_a_column_of_numbers_in_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(UserError, match="column 'id' is int64, not text"):
        read(path, column="id")
    with pytest.raises(UserError, match="has no column 'body'; its columns: id, text"):
        read(path, column="body")


def test_parquet_with_a_dictionary_and_broken_ones(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array(["a", "b", None, "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", 1e-9)["train"] == ["a", "b", "a"]
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="column 'text' is list"):
        read(tmp_path / "b.parquet")
    path = write(tmp_path / "c.parquet", TEXTS)
    data = bytearray(path.read_bytes())
    wrong = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "<i4").tobytes()), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"text": wrong}), tmp_path / "d.parquet")
    for name, content in (("c", data[: len(data) // 2]), ("e", data[:200] + b"\xff" * 200 + data[400:]), ("d", None)):
        message = "is not a readable parquet file" if content is not None else "has a text that is not UTF-8: .* 0xff"
        if content is not None:
            (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.parquet {message}") as caught:
            read(tmp_path / f"{name}.parquet")
        assert len(str(caught.value).splitlines()) == 1


def test_a_truncated_zst(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.zst", TEXTS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is truncated"):
        read(path)
