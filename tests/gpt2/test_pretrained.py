"""OpenAI's weights: the hub's real client against a hub on this machine that serves a small model, and local folders."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pealm_core import UserError
from pealm_gpt2.config import PretrainedConfig
from pealm_gpt2.model import GPT2
from pealm_gpt2.pretrained import HUB, pretrained

SIZES = {"vocab_size": 60, "n_positions": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


@pytest.fixture
def theirs(peer: Callable[..., Any]) -> Any:
    return peer(**SIZES)


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    """A model as OpenAI's repositories hold it: keys without a prefix, causal masks among them, no head."""
    folder = tmp_path / "small"
    theirs.save_pretrained(folder)
    tensors = {
        name.removeprefix("transformer."): t for name, t in theirs.state_dict().items() if "lm_head" not in name
    }
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


def check_same(config: PretrainedConfig, theirs: Any) -> None:
    sizes, state = pretrained(config)
    model = GPT2(sizes).eval()
    model.load_state_dict(state)
    idx = torch.randint(60, (2, sizes.block_size))
    with torch.no_grad():
        torch.testing.assert_close(model(idx)[0], theirs(idx).logits, atol=1e-5, rtol=1e-4)


def change(folder: Path, new: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in new(load_file(path)).items()}, path)


# Local folders


@pytest.mark.parametrize("layout", ["OpenAI's", "transformers'", "with a head", "half precision"])
def test_both_layouts_of_keys_are_read(folder: Path, theirs: Any, layout: str) -> None:
    if layout == "transformers'":
        theirs.save_pretrained(folder)
        assert "transformer.wte.weight" in load_file(folder / "model.safetensors")
    elif layout == "with a head":
        change(folder, lambda t: {**t, "lm_head.weight": t["wte.weight"]})
    elif layout == "half precision":
        theirs = theirs.bfloat16().float()
        change(folder, lambda t: {name: tensor.bfloat16() for name, tensor in t.items()})
    check_same(PretrainedConfig(path=folder), theirs)


def test_block_size_and_dropout_may_be_chosen(folder: Path, theirs: Any) -> None:
    check_same(PretrainedConfig(path=folder, block_size=5), theirs)
    config, state = pretrained(PretrainedConfig(path=folder, block_size=5, dropout=0.1))
    assert (config.block_size, config.dropout) == (5, 0.1) and state["wpe.weight"].shape == (5, 8)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "h.1.mlp.c_fc.bias"}, "h.1.mlp.c_fc.bias is missing"),
        (lambda t: {**t, "h.2.ln_1.weight": t["ln_f.weight"]}, "h.2.ln_1.weight is not GPT-2's"),
        (
            lambda t: {**t, "h.0.attn.c_attn.weight": t["h.0.attn.c_attn.weight"].t()},
            r"h.0.attn.c_attn.weight is \(8, 24\) there and \(24, 8\) by its config",
        ),
        (lambda t: {**t, "lm_head.weight": t["wte.weight"] + 1}, "lm_head.weight is not wte.weight"),
        (lambda t: {"x": t["wte.weight"]}, "n_layer is 2, and it has 1 tensors"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(folder: Path, new: Any, message: str) -> None:
    change(folder, new)
    with pytest.raises(UserError, match=f"model.safetensors does not fit: .*{message}"):
        pretrained(PretrainedConfig(path=folder))


def test_deep_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config.json can't be read"):
        pretrained(PretrainedConfig(path=folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', not 'gpt2'"),
        ({"activation_function": "relu", "n_layer": None}, "n_layer is None; activation_function is 'relu'"),
        ({"n_inner": 99}, "n_inner is 99, not 4 n_embd"),
        ({"n_head": 3}, "n-head 3 does not divide n-embd 8"),
        ({"n_layer": 10**20}, "n_layer is 1000"),
        ({"n_layer": 999_999}, "n_layer is 999,999, and it has"),
        ({"n_embd": 10**20}, "n_embd is 1000"),
        ({"n_positions": 10**9}, "n_positions is 1000"),
    ],
)
def test_another_kind_of_model_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(UserError, match=message):
        pretrained(PretrainedConfig(path=folder))


def test_files_that_are_missing_or_damaged_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere has no config\.json"):
        pretrained(PretrainedConfig(path=tmp_path / "nowhere"))
    whole = (folder / "model.safetensors").read_bytes()
    for kept in (whole[:-100], whole[:20], b""):
        (folder / "model.safetensors").write_bytes(kept)
        with pytest.raises(UserError, match=r"model.safetensors can't be read, it is truncated or damaged: .*"):
            pretrained(PretrainedConfig(path=folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"small has no model\.safetensors"):
        pretrained(PretrainedConfig(path=folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json can't be read"):
        pretrained(PretrainedConfig(path=folder))


# The hub


@dataclass
class Hub:
    """What the hub serves, and how it misbehaves: "drop" (every time), "drop once", "truncate", or an error's code."""

    files: dict[str, bytes]
    mood: str = ""
    asked: list[str] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """The few answers of a hub that its client needs for a file: metadata on HEAD, content (in part) on GET."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        assert (repo, revision) in HUB.values(), self.path
        large = name == "model.safetensors"
        if self.hub.mood.startswith("Repo") or (self.hub.mood[:1].isupper() and large):
            self.send_response(404)
            self.send_header("X-Error-Code", self.hub.mood)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = self.hub.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = whole[start:]
        if self.hub.mood == "truncate" and large and self.command == "GET":
            body = body[: len(body) // 2]
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            if large and self.hub.mood.startswith("drop"):
                if self.hub.mood == "drop once":
                    self.wfile.write(body[: len(body) // 2])
                    self.hub.mood = ""
                self.close_connection = True
            else:
                self.wfile.write(body)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and the client's settings, which it reads when it is imported, pointed at it."""
    from huggingface_hub import constants

    hub = Hub({path.name: path.read_bytes() for path in folder.iterdir()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's, between its tries
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("size", ["small", "xl"])
def test_weights_come_from_the_hub_once(hub: Hub, theirs: Any, size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_same(PretrainedConfig(size=size), theirs)
    repo, revision = HUB[size]
    assert f"GET /{repo}/resolve/{revision}/model.safetensors" in hub.asked
    hub.asked.clear()
    check_same(PretrainedConfig(size=size), theirs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_same(PretrainedConfig(size=size), theirs)
    assert not hub.asked  # a commit does not change


def test_a_dropped_connection_is_taken_up_where_it_broke(hub: Hub, theirs: Any) -> None:
    hub.mood = "drop once"
    check_same(PretrainedConfig(), theirs)
    assert sum("GET" in line and "model.safetensors" in line for line in hub.asked) == 2


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("drop", "gpt2/model.safetensors can't be downloaded: "),
        ("truncate", "gpt2/model.safetensors can't be downloaded: .*should be of size"),
        ("RepoNotFound", "gpt2/config.json can't be downloaded: the hub has no such repository"),
        ("RevisionNotFound", "gpt2/model.safetensors can't be downloaded: the hub has no revision 607a"),
        ("EntryNotFound", "gpt2/model.safetensors can't be downloaded: the hub has no such file"),
    ],
)
def test_what_the_hub_does_wrong_is_one_line(hub: Hub, theirs: Any, mood: str, message: str) -> None:
    hub.mood = mood
    with pytest.raises(UserError, match=message) as error:
        pretrained(PretrainedConfig())
    assert "\n" not in str(error.value) and "--model.path DIR" in str(error.value)
    hub.mood = ""
    check_same(PretrainedConfig(), theirs)  # nothing half-written stays in the cache


def test_a_file_that_the_hub_holds_truncated(hub: Hub) -> None:
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-100]
    with pytest.raises(UserError, match=r"model\.safetensors can't be read, it is truncated or damaged"):
        pretrained(PretrainedConfig())


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and it is not in the hub's cache"):
        pretrained(PretrainedConfig())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"  # nobody listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UserError, match="no connection, and it is not in the hub's cache"):
        pretrained(PretrainedConfig())
    assert not hub.asked


def test_it_samples_from_a_local_folder(pealm: Any, bpe: Any, peer: Callable[..., Any], tmp_path: Path) -> None:
    peer(**{**SIZES, "vocab_size": 50257}).save_pretrained(tmp_path / "large")
    done = pealm("sample", "gpt2-pretrained", "--model.path", tmp_path / "large", "--prompt", "Hello", "-n", "5")
    assert (done.code, done.out[:5]) == (0, "Hello"), done.err
    done = pealm("sample", "gpt2-pretrained", "--model.path", tmp_path / "nowhere", "--prompt", "Hello", "-n", "5")
    assert done.code == 2 and "nowhere has no config.json" in done.err


# The tokenizer of a folder, shards, and files of torch.save


def test_a_folder_brings_its_own_tokenizer(pealm: Any, peer: Callable[..., Any], tmp_path: Path) -> None:
    """Once, a folder with a vocabulary of its own was read with OpenAI's, silently."""
    from pealm_formats.ranks import spell
    from pealm_gpt2.pretrained import vocabulary

    folder = tmp_path / "own"
    peer(**{**SIZES, "vocab_size": 264}).save_pretrained(folder)
    vocab = {"<|endoftext|>": 0, **{spell(bytes([byte])): byte + 1 for byte in range(256)}, "th": 257, "the": 258}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    config = PretrainedConfig(path=folder)
    assert pretrained(config)[0].vocab_size == 259  # rows without a token are left out
    assert vocabulary(config) == vocabulary(config) is not None
    done = pealm("sample", "gpt2-pretrained", "--model.path", folder, "--prompt", "the ", "-n", "3")
    assert done.code == 0 and done.out.startswith("the "), done.err
    peer(**{**SIZES, "vocab_size": 100}).save_pretrained(folder)
    with pytest.raises(UserError, match="own: the tokenizer has 259 tokens, the model 100"):
        pretrained(config)
    (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(UserError, match="not a byte-level BPE like GPT-2's; use it as it is: --tokenizer hf"):
        vocabulary(config)
    assert vocabulary(PretrainedConfig()) is None


def test_shards_and_files_of_torch_save(folder: Path, theirs: Any) -> None:
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="2KB")
    assert len([*folder.glob("*.safetensors")]) > 1 and not (folder / "model.safetensors").exists()
    check_same(PretrainedConfig(path=folder), theirs)
    for path in folder.glob("model*"):
        path.unlink()
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool) for layer in range(2)}
    torch.save({**theirs.state_dict(), **masks}, folder / "pytorch_model.bin")
    check_same(PretrainedConfig(path=folder), theirs)


def test_large_models_are_written_in_shards(
    peer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from pealm_formats import folders
    from pealm_gpt2 import layout

    theirs = peer(**SIZES)
    theirs.save_pretrained(tmp_path / "theirs")
    config, state = layout.read_folder(tmp_path / "theirs")
    monkeypatch.setattr(layout, "write_weights", lambda *args: folders.write_weights(*args, shard=2000))
    (tmp_path / "ours").mkdir()
    layout.write_folder(tmp_path / "ours", config, state, eot_id=None)
    assert len([*(tmp_path / "ours").glob("*.safetensors")]) > 1
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in theirs.state_dict().items())
