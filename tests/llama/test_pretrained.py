"""Published weights: the hub's real client against a hub on this machine that serves a small model, and folders."""

import http.server
import json
import shutil
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
from pealm_formats.folders import INDEX
from pealm_llama.config import PretrainedConfig
from pealm_llama.model import Llama
from pealm_llama.pretrained import pretrained, vocabulary

REPO, COMMIT = "someone/small", "0123456789012345678901234567890123456789"


@pytest.fixture
def theirs(peer: Callable[..., Any]) -> Any:
    return peer("smollm2", vocab_size=280)


@pytest.fixture
def folder(theirs: Any, tokenizer: Path, tmp_path: Path) -> Path:
    """A model in shards, with its tokenizer."""
    theirs.save_pretrained(tmp_path / "small", max_shard_size="30KB")
    shutil.copytree(tokenizer, tmp_path / "small", dirs_exist_ok=True)
    return tmp_path / "small"


def check_same(config: PretrainedConfig, theirs: Any) -> None:
    sizes, state = pretrained(config)
    model = Llama(sizes).eval()
    model.load_state_dict(state)
    idx = torch.randint(280, (2, min(20, sizes.block_size)))
    with torch.no_grad():
        torch.testing.assert_close(model(idx)[0], theirs(idx).logits[..., :280], atol=1e-4, rtol=1e-4)


def change_config(folder: Path, values: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Local folders


def test_a_folder_is_read_with_its_tokenizer(folder: Path, theirs: Any) -> None:
    config = PretrainedConfig(path=folder)
    check_same(config, theirs)
    assert pretrained(config)[0].block_size == 64 and vocabulary(config) == folder
    assert pretrained(PretrainedConfig(path=folder, block_size=5))[0].block_size == 5
    (folder / "tokenizer.json").unlink()
    assert vocabulary(config) is None
    check_same(config, theirs)


def test_rows_without_a_token_are_left_out(peer: Callable[..., Any], folder: Path) -> None:
    wide = peer("llama", vocab_size=300)
    wide.save_pretrained(folder, max_shard_size="5GB")
    assert pretrained(PretrainedConfig(path=folder))[0].vocab_size == 280
    check_same(PretrainedConfig(path=folder), wide)


def test_it_samples_from_a_local_folder(pealm: Any, folder: Path, tmp_path: Path) -> None:
    done = pealm("sample", "llama-pretrained", "--model.path", folder, "--prompt", "the quick", "-n", "5")
    assert (done.code, done.out[:9]) == (0, "the quick"), done.err
    done = pealm("sample", "llama-pretrained", "--model.path", tmp_path / "nowhere", "--prompt", "Hello")
    assert done.code == 2 and "nowhere has no config.json" in done.err


def test_older_files_say_the_same_in_other_words(folder: Path, theirs: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "rope_interleaved": False, "pretraining_tp": 1}
    (folder / "config.json").write_text(json.dumps(values))
    check_same(PretrainedConfig(path=folder), theirs)
    values["rope_scaling"] = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    values["rope_scaling"]["original_max_position_embeddings"] = 16
    (folder / "config.json").write_text(json.dumps(values))
    own = pretrained(PretrainedConfig(path=folder))[0]
    assert (own.rope_base, own.rope_factor, own.rope_original) == (100_000.0, 8.0, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', not one of llama, mistral, qwen2, qwen3"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\]"),
        ({"model_type": "mixtral"}, "model_type is 'mixtral'"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"model_type": "mistral", "sliding_window": 32}, "sliding_window is 32"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has 'sliding_attention'"),
        ({"layer_types": 3}, "layer_types has 3"),
        ({"num_local_experts": 8, "hidden_act": "gelu"}, "hidden_act is 'gelu'; num_local_experts is 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias is True; mlp_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope factor is None"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters has 'full_attention'"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta is 'big'"),
        ({"rope_parameters": 7}, "rope_parameters is 7"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"num_attention_heads": 7, "head_dim": None}, "n-kv-head 3 does not divide n-head 7"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 100_000}, "it has .* tensors for 100,000 layers"),
        ({"hidden_size": 10**20}, "hidden_size is 1000"),
        ({"hidden_size": -36}, "hidden_size is -36"),
        ({"hidden_size": "36"}, "hidden_size is '36'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 2**22, "intermediate_size": 2**22, "vocab_size": 2**22}, "model.embed_tokens.weight is "),
        ({"hidden_size": 2**22, "head_dim": 2**22, "num_attention_heads": 3 * 2**20}, "are too large"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
    ],
)  # fmt: skip
def test_what_pealm_lacks_is_named(folder: Path, values: dict[str, Any], message: str) -> None:
    change_config(folder, values)
    with pytest.raises(UserError, match=message) as error:
        pretrained(PretrainedConfig(path=folder))
    assert "\n" not in str(error.value)


def one_file(folder: Path, theirs: Any) -> Path:
    for path in folder.glob("model*"):
        path.unlink()
    theirs.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up_proj" not in k}, "layers.1.mlp.up_proj.weight is missing"),
        (lambda t: {**t, "model.layers.2.input_layernorm.weight": t["model.norm.weight"]}, "layers.2.* is not in the model"),
        (lambda t: {**t, "model.norm.weight": t["model.norm.weight"][:5]}, r"model.norm.weight is \(5,\) there and \(36,\) by its config"),
        (lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 1}, "lm_head.weight differs from embed_tokens.weight"),
        (lambda t: {**t, "model.norm.weight": t["model.norm.weight"].to(torch.float8_e4m3fn)}, "model.norm.weight is F8_E4M3"),
        (lambda t: {**t, "model.layers.0.self_attn.q_proj.weight": t["model.layers.0.self_attn.q_proj.weight"].half()}, "layers.0.self_attn.qkv_proj.weight differ in width or dtype"),
        (lambda t: {"x": t["model.norm.weight"]}, "it has 1 tensors for 2 layers"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(folder: Path, theirs: Any, new: Any, message: str) -> None:
    path = one_file(folder, theirs)
    save_file({name: tensor.clone().contiguous() for name, tensor in new(load_file(path)).items()}, path)
    with pytest.raises(UserError, match=message):
        pretrained(PretrainedConfig(path=folder))


def test_files_that_are_missing_or_damaged_are_named(folder: Path, theirs: Any) -> None:
    first, *_ = sorted(folder.glob("model-*"))
    whole = first.read_bytes()
    for kept in (whole[:-100], whole[:20], b""):
        first.write_bytes(kept)
        with pytest.raises(UserError, match=f"{first.name} can't be read, it is truncated or damaged: .*"):
            pretrained(PretrainedConfig(path=folder))
    first.unlink()
    with pytest.raises(UserError, match=f"small has no {first.name}, which model.safetensors.index.json names"):
        pretrained(PretrainedConfig(path=folder))
    path = one_file(folder, theirs)
    check_same(PretrainedConfig(path=folder), theirs)
    path.unlink()
    with pytest.raises(UserError, match=r"small has no model\.safetensors$"):
        pretrained(PretrainedConfig(path=folder))


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "", "..", "x.bin"]
)
def test_an_index_that_leaves_its_folder_is_refused(folder: Path, name: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"which is not a \.safetensors file in its folder"):
        pretrained(PretrainedConfig(path=folder))


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000, ""])
def test_a_damaged_index_is_one_line(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    with pytest.raises(UserError, match=INDEX) as error:
        pretrained(PretrainedConfig(path=folder))
    assert "\n" not in str(error.value)


# The hub


@dataclass
class Hub:
    """What the hub serves, and the error code that it answers large files with."""

    files: dict[str, bytes]
    mood: str = ""
    asked: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """The few answers of a hub that its client needs for a file: metadata on HEAD, content on GET."""

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
        code = "" if repo == REPO else "RepoNotFound"
        code = code or ("" if revision in ("main", COMMIT) else "RevisionNotFound")
        code = code or (self.hub.mood if name.endswith(".safetensors") or self.hub.mood == "GatedRepo" else "")
        code = code or ("" if name in self.hub.files else "EntryNotFound")
        self.send_response(403 if code == "GatedRepo" else 404 if code else 200)
        body = b"" if code else self.hub.files[name]
        self.send_header(*(("X-Error-Code", code) if code else ("ETag", f'"{name}"')))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and the client's settings, which it reads when it is imported, pointed at it."""
    from huggingface_hub import constants

    hub = Hub({path.name: path.read_bytes() for path in folder.iterdir()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's, between its tries
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("layout", ["shards", "one file"])
def test_a_repository_is_fetched_once(
    hub: Hub, folder: Path, theirs: Any, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "one file":
        one_file(folder, theirs)
        hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = PretrainedConfig(repo=REPO)
    check_same(config, theirs)
    place = vocabulary(config)
    assert place is not None and (place / "tokenizer.json").read_bytes() == hub.files["tokenizer.json"]
    assert (place / "chat_template.jinja").is_file()
    fetched = [line.split("/")[-1] for line in hub.asked if line.startswith("GET")]
    assert len(fetched) == len(set(fetched)) and {"config.json", "tokenizer.json"} <= {*fetched}
    assert all("/main/" not in line for line in hub.asked if "config.json" not in line)  # all files of one commit
    hub.asked.clear()
    check_same(PretrainedConfig(repo=REPO, revision=COMMIT), theirs)  # a commit does not change
    assert not [line for line in hub.asked if line.startswith("GET")]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    check_same(config, theirs)
    assert not hub.asked


def test_a_repository_without_a_tokenizer(hub: Hub, theirs: Any) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        del hub.files[name]
    check_same(PretrainedConfig(repo=REPO), theirs)
    assert vocabulary(PretrainedConfig(repo=REPO)) is None


@pytest.mark.parametrize(
    ("settings", "mood", "message"),
    [
        (
            {"repo": "someone/else"},
            "",
            "someone/else/config.json can't be downloaded: the hub has no such repository",
        ),
        ({"repo": "a b/c/d"}, "", "a repository is called OWNER/NAME"),
        ({"repo": None}, "", "needs --model.repo NAME or --model.path DIR"),
        ({"revision": "v9"}, "", "the hub has no revision v9"),
        ({}, "GatedRepo", "its owners give it on request only: ask at https://huggingface.co/someone/small"),
        ({}, "EntryNotFound", "model-00001-of-.*safetensors can't be downloaded: the hub has no such file"),
    ],
)
def test_what_goes_wrong_is_one_line(hub: Hub, settings: dict[str, Any], mood: str, message: str) -> None:
    hub.mood = mood
    with pytest.raises(UserError, match=message) as error:
        pretrained(PretrainedConfig(**{"repo": REPO, **settings}))
    assert "\n" not in str(error.value)


def test_a_hostile_index_of_the_hub_fetches_nothing(hub: Hub) -> None:
    index = json.loads(hub.files[INDEX])
    index["weight_map"]["model.norm.weight"] = "../../secret.safetensors"
    hub.files[INDEX] = json.dumps(index).encode()
    with pytest.raises(UserError, match=r"not a \.safetensors file in its folder"):
        pretrained(PretrainedConfig(repo=REPO))
    assert not [line for line in hub.asked if "secret" in line]


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and it is not in the hub's cache"):
        pretrained(PretrainedConfig(repo=REPO))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"  # nobody listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UserError, match="no connection, and it is not in the hub's cache"):
        pretrained(PretrainedConfig(repo=REPO))
    assert not hub.asked


def test_fine_tuning_takes_weights_and_tokenizer(
    folder: Path, pealm: Any, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pealm_llama.pretrained._folder", lambda config, weights=False: folder)
    line = ("--init", "llama-pretrained", "--tokenizer", "hf", "--input.text", book, "--model.block-size", 16)
    small = ("--steps", 1, "--batch-size", 2, "--warmup-steps", 0, "--eval-tokens", 50, "--out", tmp_path / "run")
    done = pealm("train", "llama", *line, *small)
    assert done.code == 0, done.err
    (saved,) = (tmp_path / "run" / "best" / "tokenizer").glob("tokenizer.json")
    assert saved.read_bytes() == (folder / "tokenizer.json").read_bytes()
    done = pealm("sample", "--ckpt", tmp_path / "run", "--prompt", "the quick", "-n", 3)
    assert done.code == 0, done.err
