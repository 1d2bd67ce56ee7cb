"""A small run, a model that talks, and a server on loopback that serves both."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import pealm_core
from pealm_serve import runs
from pealm_serve.app import make_app
from pealm_serve.engine import Engine
from pealm_serve.models import load_models

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64}
QUICK: dict[str, Any] = {"batch_size": 8, "eval_tokens": 500, "eval_every": 20, "warmup_steps": 5, "seed": 1}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints and two samples."""
    home = tmp_path_factory.mktemp("story")
    (home / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_CACHE", str(home / "cache"))
        patch.setenv("PEALM_DISABLE_PLUGINS", "report")
        every: dict[str, Any] = {"save_every": 20, "sample_every": 20, "sample_prompt": "the"}
        model = {"name": "char-transformer", **SMALL}
        return pealm_core.train(model, {"text": str(home / "book.txt")}, steps=40, out=home / "fox", **every, **QUICK)


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on conversations."""
    home = tmp_path_factory.mktemp("talk")
    answer = {"role": "assistant", "content": "Good day."}
    talks = [[{"role": "user", "content": f"Hello {a}{b}!"}, answer] for a in "abcdefgh" for b in "abcdefgh"]
    (home / "talk.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in talks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_CACHE", str(home / "cache"))
        patch.setenv("PEALM_DISABLE_PLUGINS", "report")
        model = {"name": "char-transformer", **SMALL}
        data = {"conversations": str(home / "talk.jsonl")}
        return pealm_core.train(model, data, steps=60, lr=1e-2, out=home / "talk", **QUICK)


class Quiet(uvicorn.Server):
    """A server in a thread of its own; `ready` is set when it listens."""

    ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="session")
def served(run: Path, talk: Path) -> Iterator[str]:
    """The address of a server with the models `fox` and `talk`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SECONDS", 0.05)
        engine = Engine(load_models([str(run), str(talk)], device="cpu"))
        config = uvicorn.Config(
            make_app(engine), port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=5
        )
        server = Quiet(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        assert server.ready.wait(60)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        engine.stopping._loop.call_soon_threadsafe(engine.stopping.set) if engine.stopping._loop else None  # type: ignore[attr-defined]
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def ask(served: str) -> Callable[..., Any]:
    """Ask for JSON: `ask("view/encode", model="fox", text="the")`; of a stream, the list of its events."""

    def request(path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if body else None
        message = urllib.request.Request(f"{served}/{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(message, timeout=60) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]["message"]
        if answer.headers["Content-Type"].startswith("text/event-stream"):
            events = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
            return [json.loads(event) for event in events if event != "[DONE]"]
        return json.loads(text)

    return request
