"""Side effects of a block of code on the process: prints, connections, seeds, loggers and similar, as phrases."""

import contextlib
import io
import logging
import os
import random
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

_listeners: list[list[str]] = []
_hooked = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    words = ""
    if not _listeners:
        return
    if event == "socket.connect":
        words = f"opens a connection ({args[1]})"
    elif event == "socket.getaddrinfo":
        words = f"looks up an address ({args[0]})"
    elif event in ("os.putenv", "os.unsetenv"):
        words = f"changes the environment ({os.fsdecode(args[0])})"
    for listener in _listeners if words else ():
        listener.append(words)


def _state() -> dict[str, Any]:
    """What must not change: phrase for the change → current value."""
    root = logging.getLogger()
    state: dict[str, Any] = {
        "changes the working directory": str(Path.cwd()),
        "seeds or draws from `random`": random.getstate(),
        "configures logging": (list(root.handlers), root.level, root.manager.disable),
        "changes the filters of warnings": [f[:3] for f in warnings.filters],
    }
    if torch := sys.modules.get("torch"):
        state["seeds or draws from torch's generator"] = bytes(torch.get_rng_state().tolist())
        state["changes torch's default dtype"] = torch.get_default_dtype()
        state["changes torch's number of threads"] = torch.get_num_threads()
    return state


def _randomize() -> tuple[Any, Any]:
    """Put the random generators into states that no seed gives; returns the old states."""
    torch = sys.modules.get("torch")
    states = random.getstate(), torch.get_rng_state() if torch else None
    random.seed(os.urandom(16))
    if torch:
        torch.manual_seed(int.from_bytes(os.urandom(7), "little"))
    return states


def _restore(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    if states[1] is not None:
        sys.modules["torch"].set_rng_state(states[1])


@contextlib.contextmanager
def watched(*, draws: bool = False) -> Iterator[list[str]]:
    """Record side effects; the list is filled at the end: "prints 'hello'", "changes the environment (HOME)", ...

    draws: drawing from torch's generator is allowed, as a model does for its weights.
    """
    global _hooked
    if not _hooked:  # an audit hook can't be removed
        sys.addaudithook(_hook)
        _hooked = True
    effects: list[str] = []
    events: list[str] = []
    states = _randomize()
    before, printed = _state(), io.StringIO()
    _listeners.append(events)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield effects
    finally:
        _listeners.remove(events)
    if text := printed.getvalue().strip():
        effects.append(f"prints {text[:60]!r}")
    effects += dict.fromkeys(events)
    after = _state()
    _restore(states)
    effects += [
        words for words, value in before.items() if value != after[words] and not (draws and "generator" in words)
    ]


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Make every connection fail, also to a proxy or to a server on this machine."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the network is unreachable")

    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    with (
        mock.patch.dict(os.environ, proxies),
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "create_connection", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
    ):
        yield
