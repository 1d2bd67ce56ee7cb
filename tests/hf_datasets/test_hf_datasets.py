"""Datasets through Hugging Face's `datasets`: a local folder, and a hub on the loopback device with the real client."""

import hashlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pealm_core import UserError
from pealm_files import is_validation
from pealm_hf_datasets.config import HFDatasetConfig
from pealm_hf_datasets.dataset import HFDataset
from pealm_testing import DatasetConformance

pytest.importorskip("datasets", reason="needs the package datasets: pip install datasets")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library
REPO, COMMIT = "someone/stories", "c" * 40
TEXTS = [f"story {i}: a rose is a rose {i}\nand so on \u00fc" for i in range(90)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of three training files, as the hub has them."""
    (path := tmp_path / "stories").mkdir()
    for number in range(3):
        rows = [{"id": i, "text": text, "body": f"b{i}"} for i, text in enumerate(TEXTS[number::3])]
        if number == 0:
            rows += [{"id": -1, "text": None, "body": ""}, {"id": -2, "text": "", "body": ""}]
        (path / f"train-{number:05d}-of-00003.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "validation.jsonl").write_text(json.dumps({"id": 0, "text": "other", "body": "b"}) + "\n")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return path


def read(folder: Path, **settings: Any) -> dict[str, list[str]]:
    data = HFDataset(HFDatasetConfig(str(folder), **settings))
    splits = {}
    for split in ("train", "val"):
        splits[split] = list(data.documents(split))
        assert [text for part in data.parts(split) for text in part.documents()] == splits[split]
    return splits


@pytest.mark.parametrize("streaming", [True, False])
def test_a_local_folder_streamed_or_not(folder: Path, streaming: bool) -> None:
    ordered = [text for number in range(3) for text in TEXTS[number::3]]
    splits = read(folder, streaming=streaming, val_fraction=0.2)
    assert splits["train"] == [text for text in ordered if not is_validation(text, 0.2)]
    assert splits["val"] == [text for text in ordered if is_validation(text, 0.2)] and len(splits["val"]) > 5
    splits = read(folder, streaming=streaming, val_split="validation")
    assert splits == {"train": ordered, "val": ["other"]}
    assert read(folder, streaming=streaming, column="body", val_split="validation")["val"] == ["b"]
    data = HFDataset(HFDatasetConfig(str(folder), streaming=streaming))
    assert len(data.parts("train")) == (3 if streaming else 1) and sorted(data.whole()) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"column": "texts"}, "has no column 'texts'; its columns: id, text, body"),
        ({"column": "id"}, "column 'id' has 0 in row 1, not text"),
        ({"train_split": "test"}, "test.*train.*validation"),
        ({"config": "small"}, "small"),
        ({"dataset": "/nowhere/at/all"}, "/nowhere/at/all can't be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(HFDataset(HFDatasetConfig(**{"dataset": str(folder), **settings})).documents("train"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_row_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = list[str]()
    library = logging.getLogger("datasets")  # says on its own what it then raises
    library.setLevel(logging.WARNING)
    monkeypatch.setattr(library, "handlers", [handler := logging.Handler()])
    monkeypatch.setattr(handler, "emit", lambda record: logged.append(record.getMessage()))
    with (folder / "train-00002-of-00003.jsonl").open("a") as file:
        file.write('{"id": 1, "text": "a')
    with pytest.raises(UserError, match="can't be read: ") as caught:
        list(HFDataset(HFDatasetConfig(str(folder))).documents("train"))
    assert len(str(caught.value).splitlines()) == 1 and not logged


def test_the_validation_split_is_another_one() -> None:
    with pytest.raises(ValueError, match="is the training split"):
        HFDatasetConfig("x", val_split="train")


def test_tokenized_in_parallel_as_by_one_worker(pealm: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    shards = []
    for workers in (1, 2):
        out = tmp_path / f"shards{workers}"
        line = ["--input.hf-dataset", folder, "--input.val-split", "validation", "--tokenizer", "char"]
        done = pealm("tokenize", *line, "--out", out, "--workers", workers)
        assert done.code == 0, done.err
        shards.append({path.name: path.read_bytes() for path in out.rglob("*.*") if path.is_file()})
    assert shards[0] == shards[1] and "train-00000.npy" in shards[0]


class TestConformance(DatasetConformance):
    spec = "hf-dataset"

    @pytest.fixture
    def config(self, folder: Path) -> dict[str, Any]:
        return {"dataset": str(folder), "val_fraction": 0.2}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its client asks for a dataset."""

    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        Hub.asked.append(f"{self.command} {path}")
        files = sorted(file for file in self.folder.iterdir() if file.is_file())
        rows = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
        info = {"id": REPO, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": []}
        info["siblings"] = [{"rfilename": file.name} for file in files]
        start = f"/api/datasets/{REPO}"
        if path == start or path.startswith(f"{start}/revision/"):
            if path.rpartition("/")[2] in ("main", COMMIT, "stories"):
                return self.reply(json.dumps(info).encode())
            return self.reply(b"{}", status=404, extra={"X-Error-Code": "RevisionNotFound"})
        if path.startswith(f"{start}/tree/"):
            return self.reply(json.dumps(rows if path.endswith(("main", COMMIT)) else []).encode())
        if path.startswith(f"{start}/paths-info/"):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            names = (
                json.loads(body)["paths"] if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())["paths"]
            )
            return self.reply(json.dumps([row for row in rows if row["path"] in names]).encode())
        name = path.rpartition("/")[2]
        if path.startswith(f"/datasets/{REPO}/resolve/") and (self.folder / name).is_file():
            data = (self.folder / name).read_bytes()
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            mark = hashlib.sha256(data).hexdigest()
            extra = {"X-Repo-Commit": COMMIT, "ETag": f'"{mark}"', "Accept-Ranges": "bytes"}
            if "Range" in self.headers:
                extra["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            return self.reply(part, status=206 if "Range" in self.headers else 200, extra=extra)
        known = path.startswith((f"/datasets/{REPO}/", start))
        return self.reply(b"{}", status=404, extra={"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def reply(self, data: bytes, *, status: int = 200, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        head = {"Content-Length": str(len(data)), "Content-Type": "application/json"}
        for key, value in {**head, **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    Hub.folder, Hub.asked = folder, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def run(hub: str, tmp_path: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "pealm", *map(str, words)]
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)


def test_a_dataset_of_a_hub_is_streamed(hub: str, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "data", "--input.hf-dataset", REPO, "--input.revision", COMMIT)
    assert done.returncode == 0, done.stderr + "\n".join(Hub.asked)
    counts = [
        int(line.split()[0]) for line in done.stdout.splitlines() if " documents, " in line or " document, " in line
    ]
    assert sum(counts) == len(TEXTS)
    assert any(f"/resolve/{COMMIT}/train-00001" in line for line in Hub.asked)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([REPO, "--input.revision", "nowhere"], "nowhere"),
        (["someone/else"], "someone/else"),
    ],
)
def test_what_a_hub_lacks_is_one_line(hub: str, tmp_path: Path, words: list[str], message: str) -> None:
    done = run(hub, tmp_path, "data", "--input.hf-dataset", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
