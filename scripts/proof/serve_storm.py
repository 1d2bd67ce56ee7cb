"""Send malformed requests to a server: none is answered with 500 or anything above, none takes the server down.

    python scripts/proof/serve_storm.py                 ten thousand requests to a server of weights/, some minutes
    python scripts/proof/serve_storm.py -n 500 --seed 1 --crowd 32

A crowd of clients sends them at the same time. Every request is a good one that was spoiled: a parameter with another
type, size or name, JSON that is cut or nested deeply, bytes that are not UTF-8, another method, path or header. Each
must be answered in time: with an error in the protocol's form, or, where the change was harmless, with 200. Some
clients leave before they get it. Meanwhile another client streams a text again and again, which must always be the
same. Prints the counts of statuses, and each request that fails; ends with 1 if any fails. `serve_schema.py` does the
same with schemathesis.
"""

import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parents[2] / "weights"
SECONDS = 30.0  # for an answer
CHAT = {"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 2}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2, "n": 1, "echo": True, "logprobs": 1, "stop": ["x"]},
    "/v1/chat/completions": {**CHAT, "stream": False, "temperature": 0.5, "stream_options": {"include_usage": True}},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1, 2]},
    "/view/encode": {"model": "", "text": "Hi"},
    "/view/next": {"model": "", "ids": [1], "sampling": {"temperature": 0.5}},
    "/view/inside": {"model": "", "text": "Hi"},
    "/view/neighbours": {"model": "", "token": 1},
    "/view/write": {"model": "", "ids": [1], "n": 2, "sampling": {"seed": 1}},
}
NAMES = ["model", "prompt", "messages", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"]
NAMES += [
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "echo",
    "best_of",
    "suffix",
    "user",
    "tools",
    "\ud800",
]
NAMES += ["presence_penalty", "logit_bias", "response_format", "repetition_penalty", "", "__class__", "ids", "text"]
RAW = [
    "NaN",
    "Infinity",
    "1e999",
    "-0",
    "1" * 5000,
    '"\\ud800"',
    '"\\u0000"',
    "[" * 50_000,
    '{"a":' * 5000,
    "0.1e",
    "''",
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    2**31,
    2**63,
    -(2**70),
    10**30,
    0.5,
    -0.5,
    1e300,
    5e-324,
    "",
    "x",
]
VALUES += [
    "\U0001f600",
    "a" * 100_000,
    [],
    [[]],
    [None],
    [1, "a"],
    ["", "b"],
    [["a"]],
    [[1], [99999999]],
    [-1],
    [1.5],
]
VALUES += [
    [True],
    [[]] * 5,
    ["x"] * 500,
    [1] * 5000,
    {},
    {"a": 1},
    {"type": "text"},
    {"include_usage": 1},
    [{}],
    [[[1]]],
]
VALUES += [[{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": "user", "content": [{"type": "text"}]}]]
VALUES += [
    [{"role": "assistant", "content": "x"}],
    [{"role": "user", "content": "long " * 500}],
    [{"content": 1}] * 9,
]


@dataclass
class Request:
    """What is sent."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def spoiled(chance: random.Random, models: list[str]) -> Request:
    """Return a good request with one to three faults."""
    path = chance.choice(list(GOOD))
    data = {**GOOD[path], "model": chance.choice(models)}
    text = None
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*data, *NAMES])
        kind = chance.random()
        if kind < 0.75:
            data[name] = chance.choice(VALUES)
        elif kind < 0.85:
            data.pop(name, None)
        else:
            text = json.dumps({**data, name: "@"}).replace('"@"', chance.choice(RAW))
    request = Request("POST", path, (text or json.dumps(data)).encode(), {"Content-Type": "application/json"})
    if chance.random() < 0.3:
        chance.choice(FAULTS)(request, chance)
    return request


def _cut(request: Request, chance: random.Random) -> None:
    request.body = request.body[: chance.randrange(len(request.body) + 1)]


def _flip(request: Request, chance: random.Random) -> None:
    body = bytearray(request.body)
    for _ in range(chance.randint(1, 5)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    request.body = bytes(body)


def _noise(request: Request, chance: random.Random) -> None:
    request.body = chance.randbytes(chance.choice([0, 1, 100, 10_000, 5 * 2**20]))


def _method(request: Request, chance: random.Random) -> None:
    request.method = chance.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"])


def _path(request: Request, chance: random.Random) -> None:
    ends = [
        "/",
        "/..",
        "/../../guard.py",
        "%2e%2e/",
        "%00",
        "?x=%ff",
        "//",
        "/%ff%fe",
        "#",
        ";a",
        "%",
        "/" + "a" * 5000,
    ]
    request.path = chance.choice([request.path, "/v1/models", "/", "", "/view/runs", "/static"]) + chance.choice(ends)
    request.path = "/" + request.path.lstrip("/")
    request.method = chance.choice(["GET", "POST"])


def _header(request: Request, chance: random.Random) -> None:
    name = chance.choice(
        ["Host", "Origin", "Content-Type", "Authorization", "Accept-Encoding", "Range", "X-" + "a" * 99]
    )
    values = [
        "evil.example",
        "",
        "null",
        "localhost:1:2",
        "[::1",
        "bytes=0-",
        "\xff\xfe",
        "Bearer " + "x" * 5000,
        "@",
    ]
    request.headers[name] = chance.choice(values)


FAULTS: list[Callable[[Request, random.Random], None]] = [_cut, _flip, _noise, _method, _path, _header]


def send(host: str, request: Request) -> tuple[int, bytes, str]:
    """Send a request on a connection of its own; return the status, the body and its type."""
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    try:
        connection.putrequest(request.method, request.path, skip_host="Host" in request.headers)
        for name, value in {**request.headers, "Content-Length": str(len(request.body))}.items():
            connection.putheader(name, value.encode("latin-1"))
        with suppress(ConnectionError):  # refused while it was sent; the answer is there
            connection.endheaders(request.body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type", "")
    finally:
        connection.close()


def fault_of(request: Request, status: int, body: bytes, kind: str) -> str | None:
    """Return what is wrong with an answer, or None."""
    if status >= 500 and status != 503:
        return f"status {status}"
    if kind.startswith("text/event-stream") and b'"server_error"' in body:
        return "a server error in a stream"
    if status >= 400 and request.method != "HEAD" and kind == "application/json":
        error = json.loads(body)["error"]
        if not error["message"]:
            return "an error without a message"
    elif status >= 400 and request.method != "HEAD" and b"Invalid HTTP request" not in body:
        return f"status {status} in another form"
    return None


def storm(
    host: str, number: int, seed: int, show: Callable[[str], None] = print, crowd: int = 1
) -> tuple[Counter[int], int]:
    """Send spoiled requests from several clients at once; return the counts of statuses, and of those that fail.

    host: "127.0.0.1:8000". Status 0: an answer that did not come, or not in time; -1: the client did not wait.
    """
    listed = send(host, Request("GET", "/v1/models", b""))[1]
    models = [model["id"] for model in json.loads(listed)["data"]]

    def client(place: int) -> tuple[Counter[int], int]:
        chance, statuses, failures = random.Random(seed * 1000 + place), Counter[int](), 0
        for count in range(place, number, crowd):
            request = spoiled(chance, models)
            if crowd > 1 and chance.random() < 0.05:
                leave(host, request, chance)
                statuses[-1] += 1
                continue
            try:
                status, body, kind = send(host, request)
                wrong = fault_of(request, status, body, kind)
            except (ValueError, OSError, http.client.HTTPException, KeyError) as error:
                status, wrong = 0, f"{type(error).__name__}: {error}"
            statuses[status] += 1
            if wrong:
                failures += 1
                sent = f"{request.method} {request.path:.80} {request.headers} {request.body[:300]!r}"
                show(f"{count}: {wrong}: {sent}")
        return statuses, failures

    with ThreadPoolExecutor(crowd) as clients:
        done = [*clients.map(client, range(crowd))]
    return sum((statuses for statuses, _ in done), Counter[int]()), sum(failures for _, failures in done)


def leave(host: str, request: Request, chance: random.Random) -> None:
    """Send a request, or a part of it, and close the connection without reading the answer."""
    with suppress(OSError):
        connection = http.client.HTTPConnection(host, timeout=SECONDS)
        connection.putrequest("POST", request.path)
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body[: chance.choice([None, len(request.body) // 2])])
        connection.close()


def same_text(host: str, stop: threading.Event) -> tuple[int, set[bytes]]:
    """Stream a text until `stop` is set; return how often, and the different texts."""
    body = json.dumps({"prompt": "Hi", "max_tokens": 30, "temperature": 0, "stream": True}).encode()
    count, texts = 0, set[bytes]()
    while not stop.is_set():
        status, answer, _ = send(host, Request("POST", "/v1/completions", body))
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
        text = "".join(event["choices"][0]["text"] for event in events if "choices" in event)
        if status != 429:  # with too large a crowd
            texts.add(text.encode() if status == 200 else answer)
            count += 1
    return count, texts


@dataclass
class Served:
    """A server in a process of its own. log: what it wrote to stderr, once it has ended."""

    process: subprocess.Popen[str]
    host: str
    log: str = ""

    @property
    def models(self) -> list[str]:
        """The names of its models."""
        return [model["id"] for model in json.loads(send(self.host, Request("GET", "/v1/models", b""))[1])["data"]]

    def alive(self) -> bool:
        """Return whether it answers, and nothing is still at work."""
        for _ in range(100):
            status, body, _ = send(self.host, Request("GET", "/health", b""))
            if self.process.poll() is not None or status != 200:
                return False
            if json.loads(body)["active"] == 0:
                return True
            time.sleep(0.1)
        return False


@contextmanager
def serving(paths: Sequence[str]) -> Iterator[Served]:
    """Run a server of checkpoints."""
    command = [sys.executable, "-m", "pealm_core._pealm", "serve", "--port", "0", "--device", "cpu"]
    for path in paths:
        command += ["--ckpt", path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = re.search(r"http://(\S+)", line)
        if address is None:
            sys.exit(line + process.stderr.read())
        server, lines = Served(process, address[1]), list[str]()
        reader = threading.Thread(target=lines.extend, args=[process.stderr])  # a full pipe would stop the server
        reader.start()
        try:
            yield server
        finally:
            process.terminate()
            reader.join()
            server.log = "".join(lines)


def main() -> int:
    """Start a server, send the requests, and end it. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crowd", type=int, default=8, help="clients at the same time")
    parser.add_argument("--ckpt", action="append", help="checkpoints, by default char-bigram and sprout-stories")
    args = parser.parse_args()
    stop = threading.Event()
    with (
        serving(args.ckpt or [str(WEIGHTS / "char-bigram"), str(WEIGHTS / "sprout-stories")]) as server,
        ThreadPoolExecutor(1) as other,
    ):
        steady = other.submit(same_text, server.host, stop)
        try:
            statuses, failures = storm(server.host, args.n, args.seed, crowd=args.crowd)
        finally:
            stop.set()
        count, texts = steady.result()
        alive = server.alive()
    for status, number in sorted(statuses.items()):
        print(f"{ {0: 'none', -1: 'left'}.get(status, status):>5} {number:>8,}")
    print(f"{args.n:,} requests, {failures} fail; the server is {'still there' if alive else 'GONE'}")
    print(f"beside them {count:,} good requests with {len(texts)} different text(s)")
    print(server.log[-5000:], end="")
    return 1 if failures or not alive or len(texts) != 1 or "Traceback" in server.log else 0


if __name__ == "__main__":
    sys.exit(main())
