"""HellaSwag against lm-evaluation-harness's own figures, closed forms, bad rows and a server on this machine."""

import hashlib
import http.server
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from pealm_char.config import CharConfig
from pealm_char.tokenizer import CharTokenizer
from pealm_core import UserError, cache_root
from pealm_gpt2.config import GPT2Config
from pealm_gpt2.model import GPT2
from pealm_hellaswag import download as downloading
from pealm_hellaswag.config import HellaSwagConfig
from pealm_hellaswag.evaluator import HellaSwag
from pealm_hellaswag.rows import read_rows
from pealm_hellaswag.styles import clean, encode
from pealm_tiktoken.tokenizer import TiktokenTokenizer

ROOT = Path(__file__).resolve().parents[2]
WIKIHOW = Path(__file__).parent / "wikihow.jsonl"
ROW: dict[str, Any] = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "ctx": "A man is sitting on a roof. he",
    "split": "val",
    "endings": ["is using wrap.", "is ripping tiles off.", "is holding a cube.", "starts pulling up roofing."],
    "label": 3,
}


@pytest.fixture
def sample() -> Path:
    path = ROOT.parent / "shared" / "data" / "hellaswag_val_sample.jsonl"
    if not path.exists():  # wikihow.jsonl, which is here, is compared in the same way
        pytest.skip("needs ../shared/data/hellaswag_val_sample.jsonl")
    return path


@pytest.fixture
def gpt2(monkeypatch: pytest.MonkeyPatch, tiktoken_files: Path) -> TiktokenTokenizer:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))
    return TiktokenTokenizer()


class Bytes:
    """Bytes as tokens."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode()


class Bigram(nn.Module):
    """A table over bytes."""

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = GPT2Config(vocab_size=size, block_size=512)
        self.table = nn.Parameter(torch.randn(size, size))

    def forward(self, idx: torch.Tensor, targets: Any = None, *, cache: Any = None, at: Any = None) -> Any:
        return self.table[idx if at is None else idx[:, at]], None


class NoModel:
    """What must not be run."""

    config = GPT2Config(vocab_size=256)

    def parameters(self) -> Any:
        raise AssertionError("a model was used")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def evaluate(model: Any, tokenizer: Any, progress: Any = lambda done, total, text: None, **settings: Any) -> Any:
    return HellaSwag(HellaSwagConfig(**settings)).evaluate(model, tokenizer, config={}, progress=progress)


@pytest.mark.parametrize("name", ["harness.json", "wikihow_harness.json"])
def test_harness_style_has_the_harness_s_numbers(
    name: str, request: pytest.FixtureRequest, gpt2: TiktokenTokenizer, tmp_path: Path
) -> None:
    """What lm-eval 0.4.13 gives for these weights and rows; scripts/bench/hellaswag.py wrote both files.

    wikihow.jsonl has every marker of WikiHow, which the other rows lack.
    """
    stored = json.loads((Path(__file__).parent / name).read_text())
    rows = WIKIHOW
    if name == "harness.json":
        sample: Path = request.getfixturevalue("sample")
        lines = sample.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(lines[:: len(lines) // 40][:40]), encoding="utf-8")
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=50257, n_layer=4, n_head=4, n_embd=128)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() == 2 else 1.0)
    result = evaluate(model, gpt2, style="harness", file=rows, details=True)
    for row, expected in zip(result.details, stored["log_likelihood"], strict=True):
        assert row["log_likelihood"] == pytest.approx(expected, abs=1e-3)
    assert [int(row["choice"] == row["label"]) for row in result.details] == stored["acc"]
    assert [int(row["choice_norm"] == row["label"]) for row in result.details] == stored["acc_norm"]
    n = len(stored["acc"])
    assert result.metrics["acc"][0] == sum(stored["acc"]) / n
    assert result.metrics["acc_norm"][0] == sum(stored["acc_norm"]) / n
    assert 0 < sum(stored["acc"]) != sum(stored["acc_norm"]) < n


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness's own functions for the task."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("lm_eval.tasks.hellaswag.utils", reason="needs lm-eval", exc_type=ImportError)


def test_rows_become_the_harness_s_texts(harness: Any) -> None:
    class Docs(list[dict[str, Any]]):
        """As much of a dataset as `process_docs` uses."""

        def map(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
            return [function(row) for row in self]

    raw = [json.loads(line) for line in WIKIHOW.read_text(encoding="utf-8").splitlines()]
    for marker in ("[header]", "[title]", "[step]", "[substeps]", "  "):
        assert any(marker in row["ctx"] for row in raw)
        assert marker == "[header]" or any(marker in ending for row in raw for ending in row["endings"])
    tokenizer = Bytes()
    for row, theirs in zip(read_rows(WIKIHOW, "val"), harness.process_docs(Docs(raw)), strict=True):
        item = encode(row, "harness", tokenizer)
        texts = [tokenizer.decode([*item.context, *ending]) for ending in item.choices]
        assert texts == [f"{theirs['query']} {choice}" for choice in theirs["choices"]]
        assert tokenizer.decode(item.context) == theirs["query"].rstrip()
        assert item.lengths == [*map(len, theirs["choices"])]
        assert (item.label, item.line) == (theirs["gold"], row.line)


PIECES = [
    "[header]",
    "[title]",
    "[step]",
    "[substeps]",
    "[",
    "]",
    "[]",
    " ",
    "  ",
    "   ",
    ".",
    "\n",
    "Mix",
    "a b",
    "\u00e9",
]


@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_texts_are_cleaned_as_by_the_harness(harness: Any, text: str) -> None:
    assert clean(text) == harness.preprocess(text)


def test_completion_style_is_the_likeliest_ending_by_token(tmp_path: Path) -> None:
    rows = [
        {**ROW, "ctx": f"Context {i}", "endings": [f"x{i}y", f"{i}" * 3, "zoo", f"a{i} longer one"], "label": i % 4}
        for i in range(12)
    ]
    model = Bigram()
    log_p = model.table.detach().log_softmax(-1)
    acc, acc_norm, expected = 0, 0, []
    for row in rows:
        sums, means = list[float](), list[float]()
        for ending in row["endings"]:
            ids = (row["ctx"] + " " + ending).encode()
            begin = len(row["ctx"])
            sums.append(sum(float(log_p[a, b]) for a, b in zip(ids[begin - 1 :], ids[begin:], strict=False)))
            means.append(sums[-1] / (len(ending) + 1))
        acc += sums.index(max(sums)) == row["label"]
        acc_norm += means.index(max(means)) == row["label"]
        expected.append((sums, means))
    shown: list[tuple[int, int, str]] = []
    result = evaluate(
        model, Bytes(), lambda *told: shown.append(told), file=write(tmp_path / "rows.jsonl", rows), details=True
    )
    assert result.n == 12
    for name, right in (("acc", acc), ("acc_norm", acc_norm)):
        p = right / 12
        assert result.metrics[name] == pytest.approx((p, math.sqrt(p * (1 - p) / 11)))
    assert 0 < acc_norm < 12
    value, stderr = result.metrics["acc_norm"]
    assert shown[-1] == (12, 12, f"accuracy {value:.4f} ± {stderr:.4f}")
    for row, (sums, means) in zip(result.details, expected, strict=True):
        assert (row["log_likelihood"], row["normalized"]) == (pytest.approx(sums), pytest.approx(means))
        choice, choice_norm = sums.index(max(sums)), means.index(max(means))
        assert (row["choice"], row["choice_norm"]) == (choice, choice_norm)
        assert (row["acc"], row["acc_norm"]) == (choice == row["label"], choice_norm == row["label"])
    assert "ties" not in result.details[0]
    assert [row["line"] for row in result.details] == list(range(1, 13))


def test_only_rows_of_the_split_and_within_the_limit(tmp_path: Path) -> None:
    rows = [{**ROW, "ind": i, "split": "train" if i % 3 else "val"} for i in range(9)]
    file = write(tmp_path / "rows.jsonl", rows)
    assert [row.line for row in read_rows(file, "val")] == [1, 4, 7]
    assert [row.line for row in read_rows(file, "train", 2)] == [2, 3]
    assert evaluate(Bigram(), Bytes(), file=file, split="train", limit=4).n == 4
    with pytest.raises(UserError, match="has no rows of split 'val'"):
        read_rows(write(tmp_path / "other.jsonl", rows[1:3]), "val")
    with pytest.raises(ValueError, match="split train needs a file"):
        HellaSwagConfig(split="train")


def test_a_label_may_be_text(tmp_path: Path) -> None:
    number, text = read_rows(write(tmp_path / "rows.jsonl", [ROW, {**ROW, "label": "3"}]), "val")
    assert (text.endings, text.label) == (number.endings, number.label) == (tuple(ROW["endings"]), 3)


def test_the_harness_s_cleaning() -> None:
    wiki = "How to bake [title] Mix. [step] Take  flour. [substeps] Stir."
    assert clean(f" {wiki} ") == "How to bake. Mix. Take flour. Stir."
    assert clean("[header] How to fly") == " How to fly"


def test_harness_style_encodes_together_and_moves_spaces_to_the_ending(
    gpt2: TiktokenTokenizer, tmp_path: Path
) -> None:
    odd = {**ROW, "ctx_b": "waits [step]", "endings": ["[header] goes.", *ROW["endings"][1:]]}
    [row] = read_rows(write(tmp_path / "rows.jsonl", [odd]), "val")
    item = encode(row, "harness", gpt2)
    assert gpt2.decode(item.context) == "Roof shingle removal: A man is sitting on a roof. Waits"
    assert gpt2.decode(item.choices[0]) == "   goes."
    assert item.lengths[0] == len(" goes.")
    assert encode(row, "completion", gpt2).lengths[3] == len(gpt2.encode(" starts pulling up roofing."))


BAD: dict[str, tuple[bytes, str]] = {
    "missing field": (json.dumps({k: v for k, v in ROW.items() if k != "ctx_b"}).encode(), "has no 'ctx_b'"),
    "label": (json.dumps({**ROW, "label": 4}).encode(), "'label' must be 0 to 3, not 4"),
    "no label": (json.dumps({**ROW, "label": ""}).encode(), "'label' must be 0 to 3, not ''"),
    "true label": (json.dumps({**ROW, "label": True}).encode(), "'label' must be 0 to 3, not True"),
    "three endings": (json.dumps({**ROW, "endings": ["a", "b", "c"]}).encode(), "must be a list of four, not 3 of them"),
    "endings text": (json.dumps({**ROW, "endings": "abcd"}).encode(), "must be a list of four, not 'abcd'"),
    "empty ending": (json.dumps({**ROW, "endings": ["a", " ", "c", "d"]}).encode(), "ending 1 is empty"),
    "ending number": (json.dumps({**ROW, "endings": ["a", "b", "c", 4]}).encode(), "ending 3 must be text, not 4"),
    "empty context": (json.dumps({**ROW, "ctx": ""}).encode(), "'ctx' is empty"),
    "context number": (json.dumps({**ROW, "ctx_a": 7}).encode(), "'ctx_a' must be text, not 7"),
    "broken JSON": (b'{"ind": 1, ', "broken JSON: Expecting property name enclosed in double quotes in column 12"),
    "deep JSON": (b"[" * 100_000, "broken JSON: nested too deeply"),
    "no object": (b"[1]", "is not a JSON object"),
    "encoding": (json.dumps(ROW).encode().replace(b"man", b"m\xe4n"), "byte 0xe4 in column 68 is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_before_any_model_runs(case: str, tmp_path: Path) -> None:
    line, words = BAD[case]
    file = tmp_path / "rows.jsonl"
    good = json.dumps(ROW).encode()
    file.write_bytes(b"\n".join([good, b"", good, line, good]) + b"\n")
    with pytest.raises(UserError) as error:
        evaluate(NoModel(), Bytes(), file=file)
    assert str(error.value).startswith(f"{file}, line 4: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_rows(write(tmp_path / "rows.jsonl", [{**ROW, "label": 9}] * 25), "val")
    lines = str(error.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "and 15 more"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read: No such file"):
        evaluate(NoModel(), Bytes(), file=tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match=r"run pealm prepare hellaswag, or give --eval\.file FILE"):
        evaluate(NoModel(), Bytes())


def test_character_models_do_as_their_tokenizer_s_option_says(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{**ROW, "endings": ["an é", "b", "c", "d" * n]} for n in (400, 500, 700)])
    plain = CharTokenizer(CharConfig())
    plain.fit(iter(["abcdefghijklmnopqrstuvwxyz A."]))
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: character 'é'"):
        evaluate(NoModel(), plain, file=file)
    lenient = CharTokenizer(CharConfig(unknown="replace"))
    lenient.fit(iter(["abcdefghijklmnopqrstuvwxyz A."]))
    result = evaluate(Bigram(lenient.vocab_size), lenient, file=file)
    assert result.n == 3
    assert result.notes == ["1 of 3 questions are longer than the model's context and lose their beginning"]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file, or a part of it."""

    data = b""
    announced = 0

    def do_GET(self) -> None:
        if self.path != "/file":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.announced or len(self.data)))
        self.end_headers()
        self.wfile.write(self.data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of a small file; `download` takes it for the real one."""
    data = (json.dumps(ROW) + "\n").encode() * 3
    monkeypatch.setattr(Server, "data", data)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}/file"
        monkeypatch.setattr(downloading, "URL", url)
        monkeypatch.setattr(downloading, "SHA256", hashlib.sha256(data).hexdigest())
        yield url
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEALM_CACHE", str(tmp_path / "cache"))


def test_prepare_downloads_once_and_eval_reads_it(
    served: str, pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pealm("prepare", "hellaswag")
    assert (result.code, result.out) == (0, f"{cache_root() / 'hellaswag_val.jsonl'} is ready\n")
    monkeypatch.setattr(downloading, "URL", served + "-gone")
    assert pealm("prepare", "hellaswag").code == 0
    assert evaluate(Bigram(), Bytes()).n == 3
    downloading.path().write_bytes(b"something else")
    result = pealm("prepare", "hellaswag")
    assert result.code == 2 and "is not HellaSwag's validation file; remove it" in result.err


@pytest.mark.parametrize("wrong", ["missing", "other content", "cut off", "no server"])
def test_a_download_that_fails_leaves_nothing(
    wrong: str, served: str, pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "missing":
        monkeypatch.setattr(downloading, "URL", served + "-gone")
    elif wrong == "other content":
        monkeypatch.setattr(Server, "data", b"<html>")
    elif wrong == "cut off":
        monkeypatch.setattr(Server, "announced", 10_000)
    else:
        monkeypatch.setattr(downloading, "URL", "http://127.0.0.1:9/file")
    result = pealm("prepare", "hellaswag")
    assert result.code == 2
    words = (
        "gave 6 bytes that are not" if wrong == "other content" else "give a local copy: pealm eval ... --eval.file"
    )
    assert words in result.err
    assert not list(cache_root().glob("*"))


def test_the_script_is_the_same_command(tmp_path: Path) -> None:
    """A proxy that isn't there stands for a machine without internet."""
    env = {**os.environ, "https_proxy": "http://127.0.0.1:9", "PEALM_CACHE": str(tmp_path / "c")}
    run = [sys.executable, str(ROOT / "scripts" / "hellaswag.py")]
    shown = subprocess.run([*run, "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert "10,042 rows" in shown.stdout
    failed = subprocess.run(run, env=env, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2
    assert failed.stderr.startswith("hellaswag: HellaSwag can't be downloaded")
    assert len(failed.stderr.splitlines()) == 1
