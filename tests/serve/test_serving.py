"""Turns, clients that leave, signals, limits, keys, hosts, hostile requests."""

import asyncio
import contextvars
import ctypes
import dataclasses
import gc
import http.client
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from pealm_core import KVCache, Sampling
from pealm_serve import engine as engine_module
from pealm_serve.engine import Engine
from pealm_serve.generation import Texts
from pealm_serve.guard import CSP, Limits
from pealm_testing import CommandConformance

ROOT = Path(__file__).parents[2]
LONG = {"model": "char-transformer", "prompt": "A", "max_tokens": 4000}
PATIENCE = 60.0  # seconds


class TestCommand(CommandConformance):
    spec = "serve"


def until(condition: Callable[[], bool]) -> None:
    """Wait for what will happen soon. Fails after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_work_takes_turns() -> None:
    order: list[str] = []

    def work(name: str, steps: int) -> Iterator[int]:
        for step in range(steps):
            order.append(name)
            yield step

    async def drain(engine: Engine, name: str, steps: int) -> list[int]:
        return [step async for step in engine.turns(work(name, steps))]

    async def both(engine: Engine) -> list[list[int]]:
        works = [asyncio.ensure_future(drain(engine, name, steps)) for name, steps in (("long", 50), ("short", 5))]
        await asyncio.sleep(0)  # both are in the queue
        with engine:
            return [*await asyncio.gather(*works)]

    assert asyncio.run(both(Engine({}))) == [[*range(50)], [*range(5)]]
    start = order.index("short")
    assert order[start : start + 9] == ["short", "long"] * 4 + ["short"]


def test_a_short_request_does_not_wait_for_a_long_one(server: Any) -> None:
    with server.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as long:
        lines = long.iter_lines()
        assert next(lines).startswith("data: ")
        short = server.post("/v1/completions", {"prompt": "B", "max_tokens": 3})
        assert short.json()["usage"]["completion_tokens"] == 3
        assert server.engine.active == 1  # the long one is still at work
    until(lambda: server.engine.active == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_work(server: Any, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    steps, closed = list[int](), threading.Event()

    def watched(*args: Any, **more: Any) -> Iterator[Any]:
        try:
            for step in generate(*args, **more):
                steps.append(1)
                yield step
        finally:
            closed.set()

    generate = Texts.generate
    monkeypatch.setattr(Texts, "generate", watched)
    body = json.dumps({**LONG, "stream": stream}).encode()
    host, _, port = server.host.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(lambda: bool(steps))
    assert closed.wait(PATIENCE)
    assert len(steps) < LONG["max_tokens"]  # type: ignore[operator]
    until(lambda: server.engine.active == 0 and server.engine.free == 64)


class Answers:
    """Ask an engine for several texts at the same time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def text(self, name: str, ids: list[int], after: int = 0, leave: int = 10**9, **how: Any) -> list[Any]:
        """Return (row, token) of a request that is sent when `after` pieces of others have come."""
        while len(self.seen) < after:
            await asyncio.sleep(0)
        pieces = []
        async with aclosing(self.engine.stream(name, ids, Sampling(**how), ends=())) as stream:
            async for piece in stream:
                pieces.append((piece.row, piece.id))
                self.seen.append(piece.id)
                if len(pieces) == leave:
                    break
        return sorted(pieces, key=lambda piece: piece[0])

    def together(self, *requests: Any) -> list[Any]:
        async def ask() -> list[Any]:
            return await asyncio.gather(*(self.text(**request) for request in requests))

        self.seen = list[int]()
        return asyncio.run(ask())


REQUESTS: list[dict[str, Any]] = [
    {"ids": [5, 6, 7], "max_new_tokens": 300, "temperature": 0},  # longer than the context of char-transformer
    {"ids": [9], "max_new_tokens": 30, "seed": 1, "top_k": 20, "after": 4},
    {"ids": [1, 2], "max_new_tokens": 20, "seed": 2, "num_samples": 3, "after": 9},
    {"ids": [3] * 20, "max_new_tokens": 25, "seed": 3, "repetition_penalty": 1.4, "temperature": 0.8, "after": 20},
]


def test_a_first_token_does_not_wait_for_a_step_of_all(loaded: Any) -> None:
    lm, shapes = loaded["char-transformer"].lm, list[tuple[int, ...]]()
    texts, how = Texts(lm), Sampling(max_new_tokens=30, temperature=0)
    hook = lm.model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    others = [texts.generate([1, 2], how) for _ in range(3)]
    for _ in range(4):
        assert len([next(other) for other in others]) == 3
    assert shapes == [(1, 2)] * 3 + [(3, 1)] * 2
    first, second = (texts.generate([4, 5, 6, 7], how) for _ in range(2))
    assert next(first) == next(second) == []
    second.close()  # before its first token
    assert [len(next(first)), len(next(first))] == [1, 1]
    hook.remove()
    assert shapes[5:] == [(1, 4), (4, 1)]
    for text in (*others, first):
        text.close()
    assert texts._requests == {}


def test_free_memory_is_returned_when_there_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = threading.Event()
    monkeypatch.setattr(engine_module, "IDLE", 0.01)
    monkeypatch.setattr(engine_module, "return_free", returned.set)
    with Engine({}):
        assert returned.wait(PATIENCE)


@pytest.mark.parametrize("stream", [True, False])
def test_requests_leave_nothing_in_memory(server: Any, stream: bool) -> None:
    """Neither objects of Python nor, where glibc can tell, blocks of C; warm-up: torch keeps kernels for new shapes."""
    body = {"model": "char-transformer", "prompt": "A", "max_tokens": 4, "stream": stream, "logprobs": 2}

    def requests(number: int) -> None:
        for _ in range(number):
            assert server.post("/v1/completions", body).status_code == 200
        until(lambda: server.engine.active == 0)

    requests(45)
    before = [
        min(sizes) for sizes in zip(*(in_use() for _ in range(5)), strict=True)
    ]  # the last request ends meanwhile
    requests(30)

    def nothing_stays() -> bool:
        objects, size = in_use()
        return objects - before[0] < 30 and size - before[1] < 30 * 1024  # for each less than an object, a kilobyte

    until(nothing_stays)


def in_use() -> tuple[int, int]:
    """Return the number of Python's objects, without cancelled timers that asyncio drops later, and malloc's bytes."""
    gc.collect()
    later = asyncio.TimerHandle, contextvars.Context
    return sum(not isinstance(thing, later) for thing in gc.get_objects()), allocated()


def allocated() -> int:
    """Return the bytes that malloc has given out, 0 where it is not glibc's."""
    info = type("Info", (ctypes.Structure,), {"_fields_": [("sizes", ctypes.c_size_t * 10)]})  # struct mallinfo2
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        return 0
    function.restype = info
    found = function()
    return int(found.sizes[7] + found.sizes[4])  # uordblks, hblkhd


@pytest.mark.parametrize("joins", [True, False])
def test_a_text_is_the_same_alone_and_in_company(loaded: Any, monkeypatch: pytest.MonkeyPatch, joins: bool) -> None:
    name, shapes = "char-transformer", list[tuple[int, ...]]()
    model = loaded[name].lm.model
    if not joins:
        monkeypatch.delattr(KVCache, "join")
    leaver = {"name": name, "ids": [4], "max_new_tokens": 100, "seed": 4, "after": 30, "leave": 5}
    with Engine({name: dataclasses.replace(loaded[name])}) as engine:
        answers = Answers(engine)
        hook = model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
        together = answers.together(*({"name": name, **request} for request in REQUESTS), leaver)
        hook.remove()
        for request, text in zip(REQUESTS, together, strict=False):
            assert answers.together({"name": name, **request, "after": 0}) == [text]
        assert engine.models[name].texts._requests == {}
        assert engine.models[name].texts._batch._batch._parts == engine.models[name].texts._batch._batch._unread == []
    widest = max(shape[0] for shape in shapes)
    assert widest > 3 if joins else widest == 3


def test_a_failed_step_ends_its_requests_and_no_later_one(loaded: Any) -> None:
    name = "char-transformer"

    def fails(module: Any, args: Any) -> None:
        if len(args[0]) == 2:
            raise RuntimeError("on purpose")

    async def ask(engine: Engine) -> list[Any]:
        answers = Answers(engine)
        answers.seen = []
        request = {"name": name, "ids": [1], "max_new_tokens": 4000, "temperature": 0}
        hook = loaded[name].lm.model.register_forward_pre_hook(fails)
        both = await asyncio.gather(
            *(answers.text(**request, after=after) for after in (0, 3)), return_exceptions=True
        )
        hook.remove()
        return [*both, await answers.text(**{**request, "max_new_tokens": 20})]

    with Engine({name: dataclasses.replace(loaded[name])}) as engine:
        *failed, text = asyncio.run(ask(engine))
        assert [str(error) for error in failed] == ["on purpose"] * 2 and len(text) == 20
        assert engine.models[name].texts._requests == {}


def test_an_error_of_the_model_reaches_the_caller_alone(loaded: Any) -> None:
    def fails(lm: Any) -> None:
        raise RuntimeError("on purpose")

    async def ask(engine: Engine) -> str:
        with pytest.raises(RuntimeError, match="on purpose"):
            await engine.run("talk", fails)
        async with aclosing(engine.stream("talk", [0], Sampling(max_new_tokens=3, seed=1), ends=())) as pieces:
            return " ".join([piece.finish or "-" async for piece in pieces])

    with Engine(loaded) as engine:
        assert asyncio.run(ask(engine)) == "- - length"


def test_a_failure_is_an_error_in_the_form_of_the_protocol(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> Iterator[Any]:
        raise RuntimeError("secret")
        yield

    monkeypatch.setattr(Texts, "generate", fails)
    for stream in (False, True):
        # uvicorn closes the connection after a defect: the client must not send the next request on it
        answer = server.post("/v1/completions", {"prompt": "a", "stream": stream}, headers={"Connection": "close"})
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
    assert server.engine.active == 0 and server.engine.free == 64


def test_limits(small: Any) -> None:
    with small(Limits(body=1000, max_tokens=50, concurrent=2, choices=4)) as server:
        path = "/v1/completions"
        assert server.error(path, {"prompt": "a" * 2000}) == (
            413,
            "the body of the request is larger than 1,000 bytes",
        )
        assert server.error(path, {"prompt": "a", "max_tokens": 51})[0] == 400
        assert server.error(path, {"prompt": ["a", "b"], "n": 3})[0] == 400
        status, message = server.error(path, {"prompt": "a", "n": 3})
        assert status == 429 and "busy" in message
        assert server.post(path, {"prompt": "a", "n": 2, "max_tokens": 2}).status_code == 200


def test_requests_beyond_the_limit_are_refused_at_once(small: Any) -> None:
    with (
        small(Limits(concurrent=1)) as server,
        server.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as long,
    ):
        lines = long.iter_lines()  # if it is not kept, the connection is closed
        next(lines)
        for path in ("/v1/completions", "/view/write", "/view/encode", "/view/inside"):
            answer = server.post(path, {"prompt": "a"} if path.startswith("/v1") else {"model": "talk", "text": "a"})
            assert answer.status_code == 429 and answer.headers["Retry-After"] == "1"
        assert server.post("/tokenize", {"prompt": "ab"}).json()["count"] == 2  # what takes no time is answered


def test_time_is_limited(small: Any) -> None:
    with small(Limits(seconds=0.2)) as server:
        assert server.error("/v1/completions", LONG)[0] == 504
        events = server.post("/v1/completions", {**LONG, "stream": True}).text.split("\n\n")
        assert "longer than 0.2 seconds" in json.loads(events[-3].removeprefix("data: "))["error"]["message"]
        assert events[-2] == "data: [DONE]"
        until(lambda: server.engine.active == 0)


def test_a_slow_body_is_refused(small: Any) -> None:
    with small(Limits(body_seconds=0.05)) as server:
        connection = http.client.HTTPConnection(server.host, timeout=PATIENCE)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        answer = connection.getresponse()
        assert answer.status == 408 and json.loads(answer.read())["error"]["message"]
        connection.close()


def test_a_key_is_needed_for_all_but_the_page(small: Any) -> None:
    with small(api_key="s3cret") as server:
        for path in ("/v1/models", "/tokenizer_info", "/view/models", "/nothing", "/static/"):
            for key in (None, "Bearer", "Bearer s3cre", "Basic s3cret", "s3cret", "Bearer s3cret\xff"):
                headers = {} if key is None else {"Authorization": key.encode("latin-1")}
                answer = server.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
        assert server.error("/v1/completions", {"prompt": "a"})[0] == 401
        right = {"Authorization": "Bearer s3cret"}
        assert server.get("/v1/models", headers=right).status_code == 200
        assert server.post("/v1/completions", {"prompt": "a"}, headers=right).status_code == 200
        for path in ("/", "/index.html", "/health"):
            assert server.get(path).status_code == 200


def test_other_machines_need_a_key(pealm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEALM_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.invalid"):
        done = pealm("serve", "--ckpt", ROOT / "weights/char-bigram", "--host", host)
        assert done.code == 2 and "--api-key" in done.err
    done = pealm("serve", "--ckpt", ROOT / "weights/char-bigram", "--host", "0.0.0.0", "--api-key", "")
    assert done.code == 2 and "--api-key" in done.err


def test_a_taken_port_and_a_wrong_checkpoint_are_named(pealm: Callable[..., Any], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pealm("serve", "--ckpt", ROOT / "weights/char-bigram", "--port", port)
    assert done.code == 2 and f"--port {port}: Address already in use" in done.err
    assert pealm("serve", "--ckpt", tmp_path, "--port", 0).code == 2
    twice = ["--ckpt", ROOT / "weights/char-bigram"] * 2
    assert "named twice" in pealm("serve", *twice, "--port", 0).err


def test_only_names_of_this_machine_are_answered(server: Any) -> None:
    """A page whose name was changed to 127.0.0.1 (DNS rebinding) sends its own name."""
    port = server.host.partition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1@x"):
        answer = server.get("/v1/models", headers={"Host": host})
        assert answer.status_code in (400, 403) and "data" not in answer.text
    for host in (f"localhost:{port}", "LOCALHOST", "[::1]:1"):
        assert server.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(server: Any) -> None:
    for origin in ("http://evil.example", "null", "", "http://127.0.0.1:1", f"http://{server.host}.evil.example"):
        answer = server.post("/v1/completions", {"prompt": "a"}, headers={"Origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    own = server.post("/v1/completions", {"prompt": "a"}, headers={"Origin": server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    assert server.client.options("/v1/completions").status_code == 405


def test_no_file_outside_the_page_is_served(server: Any) -> None:
    paths = (
        "/../guard.py",
        "/%2e%2e/guard.py",
        "/..%2fguard.py",
        "/static/../../app.py",
        "//etc/passwd",
        "/%2fetc/passwd",
    )
    for path in (*paths, "/....//guard.py", "/index.html%00.py", "/./../server.py", "/..\\guard.py", "/__init__.py"):
        connection = http.client.HTTPConnection(server.host, timeout=PATIENCE)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 404 and b"import" not in answer.read(), path
        connection.close()


def test_all_answers_have_the_security_headers(server: Any) -> None:
    for path in ("/", "/v1/models", "/nothing", "/health"):
        for headers in ({}, {"Host": "evil.example"}):
            answer = server.get(path, headers=headers)
            assert answer.headers["content-security-policy"] == CSP and "server" not in answer.headers
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CSP and "http" not in CSP and "default-src 'none'" in CSP


def test_malformed_requests_are_answered_with_errors(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    storm = runpy.run_path(str(ROOT / "scripts" / "proof" / "serve_storm.py"))["storm"]
    statuses, failures = storm(server.host, 300, 7)
    assert failures == 0, capsys.readouterr().out
    assert statuses[400] > 50 and statuses[200] > 10
    assert server.engine.free == 64
    until(lambda: server.engine.active == 0)


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as users start it, and its address."""
    environment = {**os.environ, "PEALM_API_KEY": "k"}
    command = [sys.executable, "-m", "pealm_core._pealm", "serve", "--port", "0", "--device", "cpu"]
    command += ["--ckpt", str(ROOT / "weights" / "char-transformer")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        assert started.stderr is not None
        line = started.stderr.readline()
        address = re.search(r"serving char-transformer at (http://127\.0\.0\.1:\d+) ", line)
        assert address, line + started.stderr.read()
        yield started, address[1]
        started.kill()


def test_sigterm_finishes_what_streams(process: tuple[subprocess.Popen[str], str]) -> None:
    """And nothing is in the log, in which a client that leaves while it sends is not an error."""
    server, url = process
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\n"
        )
        connection.sendall(head.encode() + b"{")
        until(lambda: httpx.get(f"{url}/health").status_code == 200)
    body = {"prompt": "A", "max_tokens": 200, "stream": True}
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=body, headers={"Authorization": "Bearer k"}, timeout=60
    ) as answer:
        lines = filter(None, answer.iter_lines())
        events = [next(lines)]
        server.send_signal(signal.SIGTERM)
        events += lines
    assert events[-1] == "data: [DONE]" and len(events) == 201
    assert server.wait(PATIENCE) == -signal.SIGTERM
    assert server.stderr is not None and server.stderr.read() == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
