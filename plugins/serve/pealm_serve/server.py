"""Load the models, listen, and run until a signal."""

import asyncio
import ipaddress
import logging
import re
import socket
import threading
import webbrowser
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click
import uvicorn

from pealm_core import UserError
from pealm_serve.app import make_app
from pealm_serve.engine import Engine
from pealm_serve.guard import Limits
from pealm_serve.memory import return_large_blocks
from pealm_serve.models import load_models

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # as the header Host spells them


class Server(uvicorn.Server):
    """A server that says where it listens, and tells the engine when it is asked to end."""

    def __init__(self, config: uvicorn.Config, engine: Engine, url: str, browse: bool) -> None:
        super().__init__(config)
        self.engine, self.url, self.browse = engine, url, browse

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address."""
        await super().startup(sockets)
        if self.started:
            self.loop = asyncio.get_running_loop()
            click.echo(f"serving {', '.join(self.engine.models)} at {self.url} (Ctrl-C ends)", err=True)
            if self.browse:
                threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Accept no more requests, and end when those that run are answered; at once at a second Ctrl-C."""
        super().handle_exit(sig, frame)
        self.loop.call_soon_threadsafe(self.engine.stopping.set)


def run(paths: Sequence[str], *, host: str, port: int, api_key: str | None, browse: bool, **how: Any) -> None:
    """Serve until a signal. Raises PealmError."""
    if not is_loopback(host) and api_key is None:
        raise UserError(
            f"--host {host}: other machines could use the models; give --api-key KEY or set PEALM_API_KEY"
        )
    if api_key is not None and not re.fullmatch("[!-~]+", api_key):
        raise UserError("--api-key: use at least one character, only ASCII, and no spaces")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that leave while much is sent
    listener = listen(host, port)
    return_large_blocks()
    with listener:
        limits = Limits()
        engine = Engine(load_models(paths, **how), limits.concurrent)
        app = make_app(engine, limits, api_key=api_key, hosts={*LOOPBACK, host} if is_loopback(host) else None)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=int(limits.seconds),
        )
        port = listener.getsockname()[1]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        Server(config, engine, url, browse).run([listener])


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address. Raises UserError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: {error.strerror}; choose another port or end what uses it") from error
    return listener
