"""Servers on loopback, and a model that talks."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn

import pealm_core
from pealm_serve.app import make_app
from pealm_serve.engine import Engine
from pealm_serve.guard import Limits
from pealm_serve.models import load_models

WEIGHTS = Path(__file__).parents[2] / "weights"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Quiet(uvicorn.Server):
    """A server whose `ready` is set when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@dataclass
class Running:
    """A server in a thread of this process."""

    engine: Engine
    host: str
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, **more)

    def error(self, path: str, body: Any, **more: Any) -> tuple[int, str]:
        """The status and the message of an error."""
        answer = self.post(path, body, **more)
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return answer.status_code, error["message"]


@contextmanager
def running(engine: Engine, limits: Limits | None = None, api_key: str | None = None) -> Iterator[Running]:
    """Run a server for an engine."""
    app = make_app(engine, limits, api_key=api_key, hosts=LOOPBACK)
    server = Quiet(
        uvicorn.Config(
            app, port=0, log_level="critical", lifespan="on", server_header=False, timeout_graceful_shutdown=5
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.ready.wait(60)
        host = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=f"http://{host}", timeout=60) as client:
            yield Running(engine, host, client)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on conversations."""
    home = tmp_path_factory.mktemp("talk")
    answer = {"role": "assistant", "content": "Good day."}
    talks = [[{"role": "user", "content": "Hello" + "!" * size}, answer] for size in range(1, 9)]
    (home / "talk.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in talks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_CACHE", str(home / "cache"))
        patch.setenv("PEALM_DISABLE_PLUGINS", "report")
        model = {"name": "char-transformer", "n-layer": 1, "n-head": 2, "n-embd": 32, "block-size": 64}
        data = {"conversations": str(home / "talk.jsonl")}
        return pealm_core.train(model, data, steps=40, lr=1e-2, batch_size=4, eval_every=0, out=home / "talk")


@pytest.fixture(scope="session")
def loaded(talk: Path) -> Any:
    """The models `char-transformer`, `gpt2-shakespeare` and `talk`."""
    paths = [str(WEIGHTS / "char-transformer"), str(WEIGHTS / "gpt2-shakespeare"), str(talk)]
    return load_models(paths, device="cpu")


@pytest.fixture(scope="session")
def server(loaded: Any) -> Iterator[Running]:
    """A server with these models."""
    with running(Engine(loaded)) as served:
        yield served


@pytest.fixture
def small(loaded: Any) -> Callable[..., AbstractContextManager[Running]]:
    """Run a server with other limits or a key: `with small(Limits(seconds=0.1)) as served`."""

    def run(limits: Limits | None = None, api_key: str | None = None) -> AbstractContextManager[Running]:
        return running(Engine(loaded, (limits or Limits()).concurrent), limits, api_key)

    return run
