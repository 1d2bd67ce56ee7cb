"""The ASGI application: the API, the JSON endpoints of the page's views, and the page."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pealm_serve import protocol
from pealm_serve.engine import Engine
from pealm_serve.errors import JSON, ApiError, answer_error
from pealm_serve.guard import Guard, Limits

STATIC = Path(__file__).parent / "static"


def make_app(
    engine: Engine,
    limits: Limits | None = None,
    *,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
) -> Starlette:
    """Return the application. api_key, hosts: as for Guard. `/health` and the page's files need no key."""
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with engine:
            yield

    async def health(request: Request) -> Response:
        return JSON({"status": "ok", "models": len(engine.models), "active": engine.active})

    more: list[BaseRoute] = []
    if find_spec("pealm_serve.views"):
        more = import_module("pealm_serve.views").routes(engine, limits)
    page = Mount("/", StaticFiles(directory=STATIC, html=True))
    files = [f"/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*") if path.is_file()]
    guard = Middleware(Guard, limits=limits, api_key=api_key, hosts=hosts, public={"/", "/health", *files})
    return Starlette(
        routes=[Route("/health", health), *protocol.routes(engine, limits), *more, page],
        middleware=[guard],
        lifespan=lifespan,
        exception_handlers={ApiError: answer_error, HTTPException: answer_error, Exception: answer_error},
    )
