"""FineWeb-Edu: real parquet, the real hub client against a hub on this machine, kills and full disks."""

import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken

from pealm_core import UserError
from pealm_core.cli.command_group import pealm as commands
from pealm_fineweb.config import FinewebConfig, FinewebEduConfig
from pealm_fineweb.dataset import Fineweb, FinewebEdu
from pealm_fineweb.files import REVISION

ROOT = Path(__file__).resolve().parents[2]
SHARD = 30_000
REPO = "HuggingFaceFW/fineweb-edu"


@pytest.fixture(autouse=True)
def _vocabulary(monkeypatch: pytest.MonkeyPatch, tiktoken_files: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))


@pytest.fixture(scope="session")
def documents(shakespeare: Path) -> list[list[str | None]]:
    """Three files' documents; some are odd."""
    speeches: list[str | None] = list(shakespeare.read_text().split("\n\n"))[:3600]
    speeches[5:5] = ["", "<|endoftext|>", None, "漢字🧑‍🚀"]
    return [speeches[:1500], speeches[1500:3000], speeches[3000:]]


@pytest.fixture(scope="session")
def parquet(documents: list[list[str | None]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as parquet: small row groups, one large one, another column first."""
    folder = tmp_path_factory.mktemp("parquet")
    for number, (texts, size) in enumerate(zip(documents, (400, 1500, 70), strict=True)):
        table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"{number:03d}_00000.parquet", row_group_size=size)
    return folder


def tokens_of(files: list[list[str | None]]) -> np.ndarray:  # type: ignore[type-arg]
    """What the shards must hold, by the plainest means."""
    encoding = tiktoken.get_encoding("gpt2")
    ids: list[int] = []
    for texts in files:
        for text in texts:
            ids += [] if text is None else [50256, *encoding.encode_ordinary(text)]
    return np.array(ids)


def prepare(out: Path, source: Path, **options: object) -> None:
    """Run `pealm prepare fineweb` in this process; its errors are raised."""
    words: list[object] = ["prepare", "fineweb", "--out", out, "--source", source]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", value]
    commands.main([str(word) for word in words], "pealm", standalone_mode=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stream(folder: Path, pattern: str = "*") -> np.ndarray:  # type: ignore[type-arg]
    """The shards one after another: val first, as it is the stream's beginning."""
    paths = sorted(folder.glob(f"edufineweb_{pattern}.npy"), key=lambda path: path.stem[-6:])
    return np.concatenate([np.load(path) for path in paths])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.fixture(scope="session")
def prepared(parquet: Path, tiktoken_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole of it, with two workers."""
    out = tmp_path_factory.mktemp("prepared") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))
        prepare(out, parquet, shard_size=SHARD, workers=2)
    return out


def test_the_shards_are_the_documents_in_order(prepared: Path, documents: list[list[str | None]]) -> None:
    wanted = tokens_of(documents)
    count = -(-len(wanted) // SHARD)
    shards = ["edufineweb_val_000000.npy", *(f"edufineweb_train_{n:06d}.npy" for n in range(1, count))]
    offsets = [name.replace(".npy", ".offsets") for name in shards]
    assert names(prepared) == sorted([*shards, *offsets, "meta.json", "tokenizer"])
    arrays = [np.load(prepared / name) for name in shards]
    assert {array.dtype for array in arrays} == {np.dtype("uint16")}
    assert [len(array) for array in arrays] == [SHARD] * (count - 1) + [len(wanted) % SHARD]
    assert np.array_equal(np.concatenate(arrays), wanted)
    meta = json.loads((prepared / "meta.json").read_text())
    assert (meta["tokenizer"]["name"], meta["tokenizer"]["encoding"]) == ("tiktoken", "gpt2")
    counts = [meta["splits"][split] for split in ("val", "train")]
    assert [count["shards"] for count in counts] == [1, len(shards) - 1]
    assert sum(count["tokens"] for count in counts) == len(wanted)
    assert sum(count["documents"] for count in counts) == np.count_nonzero(wanted == 50256)


def test_the_dataset_has_the_shards(prepared: Path, tmp_path: Path) -> None:
    data = Fineweb(FinewebConfig(prepared))
    assert data.vocab_size == 50257
    assert [len(shard) for shard in data.shards("val")] == [SHARD]
    assert sum(map(len, data.shards("train"))) == len(stream(prepared, "train_*"))
    with pytest.raises(UserError, match="has no train shards; `pealm prepare fineweb` makes them"):
        Fineweb(FinewebConfig(tmp_path)).shards("train")


def test_the_number_of_workers_changes_nothing(prepared: Path, parquet: Path, tmp_path: Path) -> None:
    prepare(tmp_path, parquet, shard_size=SHARD, workers=1)
    assert content(tmp_path) == content(prepared)


def test_what_is_done_is_not_done_again(prepared: Path, parquet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    prepare(prepared, parquet, shard_size=SHARD)
    assert "is complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before
    with pytest.raises(UserError, match="has token shards already"):
        prepare(prepared, parquet, shard_size=20_000)


def test_parts_share_the_files_and_fit_into_one_folder(
    parquet: Path, tmp_path: Path, documents: list[list[str | None]]
) -> None:
    for part in (2, 1):
        prepare(tmp_path, parquet, part=f"{part}/2", shard_size=SHARD, workers=1)
    assert np.array_equal(stream(tmp_path, "*_00[0]*"), tokens_of(documents[::2]))
    assert np.array_equal(stream(tmp_path, "*_01[0]*"), tokens_of(documents[1::2]))
    assert [path.name for path in tmp_path.glob("*val*.npy")] == ["edufineweb_val_000000.npy"]
    assert (tmp_path / "edufineweb_train_010000.npy").exists()
    with pytest.raises(UserError, match="which is divided differently"):
        prepare(tmp_path, parquet, part="3/3")
    with pytest.raises(UserError, match="--part 4/4: the input has only 3 independent parts"):
        prepare(tmp_path / "new", parquet, part="4/4")


def test_a_limit_takes_the_first_tokens_and_leaves_some_to_train_on(
    parquet: Path, tmp_path: Path, documents: list[list[str | None]]
) -> None:
    prepare(tmp_path, parquet, limit=12_345, workers=1)
    assert np.array_equal(stream(tmp_path), tokens_of(documents[:1])[:12_345])
    assert len(list(tmp_path.glob("*train*.npy"))) == 10  # shards of 1,234, and a rest of 5


def test_a_limit_that_is_reached_needs_no_file_any_more(parquet: Path, tmp_path: Path) -> None:
    """Killed between the last shard and the end, it only has to record that it is done."""
    prepare(tmp_path, parquet, limit=12_000, workers=1)
    before = content(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pealm_data.folder.Folder.finish", None)
        with pytest.raises(TypeError):
            prepare(tmp_path / "out", parquet, limit=12_000, workers=1)
        patch.undo()
        patch.setattr("pealm_fineweb.files.LocalFile.fetch", None)
        prepare(tmp_path / "out", parquet, limit=12_000, workers=1)
    assert content(tmp_path / "out") == before and not (tmp_path / "out" / ".tokenize").exists()


def test_a_damaged_file_is_named_and_its_good_part_stays(prepared: Path, parquet: Path, tmp_path: Path) -> None:
    """It stops in the middle of a file, and resumes from the last shard, in the middle of a document."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for path in parquet.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    damaged = source / "002_00000.parquet"
    whole = damaged.read_bytes()
    groups = pq.ParquetFile(damaged).metadata
    at = groups.row_group(groups.num_row_groups - 1).column(1).dictionary_page_offset
    damaged.write_bytes(whole[:at] + b"\xff" * 60 + whole[at + 60 :])
    with pytest.raises(UserError, match=r"002_00000.parquet, near row \d+") as error:
        prepare(out, source, shard_size=7_000, workers=1)
    assert "\n" not in str(error.value)
    state = json.loads((out / ".tokenize" / "state.json").read_text())["train"]
    assert state["part"] == 2 and state["piece"] > 0 and state["offset"] > 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert len(before) == state["shards"] > 1
    pieces = {path: path.stat().st_mtime_ns for path in (out / ".tokenize").glob("*.json") if path.name[0] == "0"}
    assert len(pieces) > 5
    # Other text in a piece whose tokens are in shards is refused, the repaired file is not.
    pq.write_table(pa.table({"text": ["another text"] * 600}), damaged, row_group_size=70)
    with pytest.raises(UserError, match="the input has changed where its tokens are in shards already"):
        prepare(out, source, shard_size=7_000, workers=1)
    damaged.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pealm_data.folder.Folder.finish", lambda *_: None)  # keeps the work folder
        prepare(out, source, shard_size=7_000, workers=1)
    assert np.array_equal(stream(out), stream(prepared))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in pieces} == pieces
    prepare(out, source, shard_size=7_000, workers=1)
    assert not list(out.glob(".*"))


def test_mistakes_are_named(prepared: Path, parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder, or no .parquet file"):
        prepare(tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"a.parquet is not a readable parquet file"):
        prepare(tmp_path / "out", bad)
    pq.write_table(pa.table({"content": ["x"], "text": [1]}), bad / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has no column 'text' of text; its columns: content, text"):
        prepare(tmp_path / "out", bad)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "edufineweb_train_000007.npy").write_bytes(b"")
    with pytest.raises(UserError, match="theirs is not empty"):
        prepare(tmp_path / "theirs", parquet)
    with pytest.raises(UserError, match=r"can't be made"):
        prepare(prepared / "meta.json" / "x", parquet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pealm_fineweb.command.find_spec", lambda name: None if name == "pealm_data" else name)
        with pytest.raises(UserError, match="prepare fineweb needs pealm-data; try: pip install pealm-data"):
            prepare(tmp_path / "out", parquet)


def test_too_little_text_for_a_val_shard_says_what_to_do(parquet: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens fit into the first shard, .* --shard-size 17039"):
        prepare(tmp_path, parquet, shard_size=10**7, workers=1)
    prepare(tmp_path, parquet, shard_size=SHARD, workers=1)
    assert content(tmp_path) == content(prepared)


def test_only_one_process_prepares_a_part(parquet: Path, tmp_path: Path) -> None:
    (tmp_path / ".tokenize").mkdir()
    with (tmp_path / ".tokenize" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing these shards"):
            prepare(tmp_path, parquet)


def test_other_tokenizers_and_splits_by_a_hash(parquet: Path, documents: Any, pealm: Any, tmp_path: Path) -> None:
    """As any dataset; `documents` gives the same split."""
    bpe = ["--tokenizer", "bpe", "--tokenizer.vocab-size", 300]
    options = ["--input.fineweb-edu", "--input.source", parquet, "--input.val-fraction", 0.1]
    done = pealm("tokenize", *options, *bpe, "--workers", 1, "--out", tmp_path)
    assert done.code == 0, done.err
    counts = json.loads((tmp_path / "meta.json").read_text())["splits"]
    data = FinewebEdu(FinewebEduConfig(source=parquet, val_fraction=0.1))
    for split in ("train", "val"):
        assert counts[split]["documents"] == sum(1 for _ in data.documents(split))
    every = sum(text is not None for texts in documents for text in texts)
    assert counts["train"]["documents"] + counts["val"]["documents"] == every
    assert 0.05 * every < counts["val"]["documents"] < 0.15 * every


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its client asks for a dataset's files."""

    protocol_version = "HTTP/1.1"
    folder: Path
    sizes: dict[str, int]  # announced ones that are not true
    fetched: list[str]
    gate: threading.Event  # closed: a download beyond the first file waits
    missing: bool  # no such repository
    drops: int  # so many connections end in the middle of a file

    def do_GET(self) -> None:
        files = {f"sample/10BT/{path.name}": path for path in sorted(self.folder.iterdir())}
        if self.path.startswith(f"/api/datasets/{REPO}/tree/{REVISION}/sample%2F10BT") and not self.missing:
            rows = [
                {"type": "file", "path": name, "size": self.sizes.get(name, path.stat().st_size), "oid": "0" * 40}
                for name, path in reversed(files.items())
            ]
            self.reply(json.dumps([{"type": "directory", "path": "sample/10BT/x", "oid": "1"}, *rows]).encode())
            return
        name = self.path.removeprefix(f"/datasets/{REPO}/resolve/{REVISION}/")
        if name not in files:
            self.reply(b"{}", status=404, extra={"X-Error-Code": "RepoNotFound"})
            return
        data = files[name].read_bytes()
        if self.command == "GET":
            self.fetched.append(name)
            if len(self.fetched) > 1:
                self.gate.wait(60)
        mark = hashlib.sha256(data).hexdigest()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        extra = {"X-Repo-Commit": REVISION, "ETag": f'"{mark}"', "Accept-Ranges": "bytes"}
        if begin:
            extra["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.reply(data[begin:], status=206 if begin else 200, extra=extra)

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, data: bytes, *, status: int = 200, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            cut = Hub.drops > 0 and len(data) > 10_000
            Hub.drops -= cut
            with contextlib.suppress(ConnectionError):  # a client that was killed
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(parquet: Path) -> Iterator[str]:
    Hub.folder, Hub.sizes, Hub.fetched, Hub.gate, Hub.drops = parquet, {}, [], threading.Event(), 0
    Hub.missing = False
    Hub.gate.set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        Hub.gate.set()
        httpd.shutdown()
        thread.join()


@pytest.fixture
def fineweb(hub: str, tmp_path: Path) -> Callable[..., Any]:
    """Start `python scripts/fineweb.py`: `fineweb("--out", "x")`, wait for it with `.communicate()`."""

    def begin(*args: object, **kwargs: Any) -> "subprocess.Popen[str]":
        env = {
            **os.environ,
            "HF_ENDPOINT": hub,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "60",  # a file that the gate delays may wait for slow worker processes
        }
        command = [sys.executable, str(ROOT / "scripts" / "fineweb.py"), *map(str, args)]
        if args[0] == "pealm":
            command = [sys.executable, "-m", *map(str, args)]
        return subprocess.Popen(
            command,
            **{"cwd": tmp_path, "env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            | kwargs,
        )

    return begin


def until(happened: Callable[[], Any]) -> None:
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            pass
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the worker processes")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ended_it_resumes_without_a_finished_file(
    fineweb: Any, prepared: Path, tmp_path: Path, how: signal.Signals
) -> None:
    line = ["--out", "out", "--shard-size", SHARD, "--workers", 2]
    Hub.gate.clear()
    first = fineweb(*line, start_new_session=True)
    work = tmp_path / "out" / ".tokenize"
    fetched = work / "sample" / "10BT" / "000_00000.parquet"
    # The first file is done, and it waits for the second one.
    until(lambda: first.poll() is not None or ((work / "000000.pieces").exists() and not fetched.exists()))
    assert first.poll() is None, first.communicate()
    assert [name[-17:-14] for name in Hub.fetched] == ["000", "001"]
    workers = children(first.pid)
    assert workers
    if how == signal.SIGINT:
        os.killpg(first.pid, how)  # as Ctrl-C does: the workers get it as well
        _, err = first.communicate()
        assert (first.returncode, err.strip().splitlines()[-1]) == (130, "pealm: interrupted")
    else:
        first.kill()
        first.communicate()
    until(lambda: not any(map(alive, workers)))
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npy")}
    assert shards
    Hub.gate.set()
    second = fineweb(*line)
    _, err = second.communicate()
    assert second.returncode == 0, err
    assert content(tmp_path / "out") == content(prepared)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert [name[-17:-14] for name in Hub.fetched] == ["000", "001", "001", "002"]
    assert names(tmp_path / "out") == names(prepared)  # no parquet, no tail, no lock
    assert "left" in err and "edufineweb_train_000002.npy" in err
    assert "sample/10BT/002_00000.parquet  is being fetched\n" in err


def test_a_full_disk_is_one_line_and_it_resumes_afterwards(
    fineweb: Any, parquet: Path, prepared: Path, tmp_path: Path
) -> None:
    line = ["--out", "out", "--source", parquet, "--shard-size", SHARD, "--workers", 1]
    full = fineweb(*line, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (58_000, 58_000)))
    _, err = full.communicate()
    assert full.returncode == 2
    assert err == "pealm: out/tokenizer can't be written: File too large; make room, and try again\n"
    again = fineweb(*line)
    assert again.communicate()[1] and again.returncode == 0
    assert content(tmp_path / "out") == content(prepared)


def test_a_disk_that_is_too_small_is_found_before_the_download(fineweb: Any, tmp_path: Path) -> None:
    Hub.sizes = {"sample/10BT/001_00000.parquet": 10**15}
    done = fineweb("--out", "out")
    _, err = done.communicate()
    assert done.returncode == 2
    assert "out needs about 1,600,000.0 GB more, and its disk has" in err and err.count("\n") == 1
    assert Hub.fetched == []


def test_an_interrupted_download_is_resumed(fineweb: Any, prepared: Path, tmp_path: Path) -> None:
    Hub.drops = 1
    done = fineweb("--out", "out", "--shard-size", SHARD, "--workers", 1)
    _, err = done.communicate()
    assert done.returncode == 0, err
    assert len(Hub.fetched) == 4 and content(tmp_path / "out") == content(prepared)


def test_a_file_that_the_hub_does_not_give_is_one_line(fineweb: Any, tmp_path: Path) -> None:
    Hub.folder = tmp_path / "missing"
    Hub.folder.mkdir()
    (Hub.folder / "0.parquet").write_bytes(b"PAR1")
    Hub.sizes = {"sample/10BT/0.parquet": 5}
    done = fineweb("--out", "out")
    _, err = done.communicate()
    assert done.returncode == 2
    assert "0.parquet has another size" in err and err.count("\n") == 1
    (Hub.folder / "0.parquet").unlink()
    done = fineweb("--out", "other")
    assert f"{REPO} has no parquet files in sample/10BT" in done.communicate()[1]


@pytest.mark.parametrize("missing", [False, True])
def test_no_hub_is_one_line(fineweb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    Hub.missing = missing
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(not missing)))
    done = fineweb("--out", "out")
    _, err = done.communicate()
    assert done.returncode == 2
    assert f"the list of {REPO}'s files can't be downloaded" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pealm_prepare_does_the_same(fineweb: Any, tmp_path: Path) -> None:
    done = fineweb("pealm", "prepare", "fineweb")
    _, err = done.communicate()
    assert done.returncode == 2
    assert "pealm: all " in err and "fit into the first shard" in err  # which has room for 100 million tokens
    assert [name[-17:-14] for name in Hub.fetched] == ["000", "001", "002"]
    assert (tmp_path / "data" / "fineweb_edu10B" / "meta.json").exists()


def test_the_help_and_mistakes_of_the_line(pealm: Any, tmp_path: Path) -> None:
    assert "Part 1 writes the val shard" in " ".join(pealm("prepare", "fineweb", "--help").out.split())
    for part in ("0/2", "3/2", "half"):
        done = pealm("prepare", "fineweb", "--part", part, "--out", tmp_path / "out")
        assert done.code == 2 and f"'{part}' is not a part such as 1/4" in done.err


def test_the_record_and_the_config_load_nothing_heavy() -> None:
    code = (
        "import sys, pealm_fineweb.plugin, pealm_fineweb.config; "
        "print({'pyarrow', 'numpy', 'tiktoken', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
