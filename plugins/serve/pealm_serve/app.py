"""The ASGI application: the API, the JSON endpoints of the page's views, and the page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pealm_serve.engine import Engine
from pealm_serve.guard import Guard, Limits

STATIC = Path(__file__).parent / "static"


def make_app(
    engine: Engine, limits: Limits | None = None, *, api_key: str | None = None, hosts: tuple[str, ...] = ()
) -> Starlette:
    """Return the application. api_key: what clients must send, or None. hosts: the accepted names of this machine in
    the header Host, without port; (): all."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with engine:
            yield

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "active": engine.active})

    routes: list[BaseRoute] = [Route("/health", health)]
    if find_spec("pealm_serve.views"):
        routes += import_module("pealm_serve.views").routes(engine)
    routes.append(Mount("/", StaticFiles(directory=STATIC, html=True)))
    guard = Middleware(Guard, limits=limits or Limits(), api_key=api_key, hosts=hosts)
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)
