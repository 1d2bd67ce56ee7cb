"""What the page asks for, as JSON and server-sent events, and the page itself."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pealm_core import LM, PealmError, UserError, load
from pealm_serve import inside
from pealm_serve.engine import Engine
from pealm_serve.generation import Piece, generate
from pealm_serve.models import Loaded
from pealm_serve.runs import follow, run_of, steps_of

Json = dict[str, Any]

MOST_TOKENS, MOST_TEXT = 1000, 20_000  # that one request writes and reads


def routes(engine: Engine) -> list[Route]:
    """Return the routes of the page's views."""
    return Views(engine).routes()


class Views:
    """The routes of the page for the models and the runs of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = {name: run for name, model in engine.models.items() if (run := run_of(model.path))}
        self.open = lru_cache(maxsize=2)(partial(_open, self.runs))  # checkpoints of a run: two are in memory

    def routes(self) -> list[Route]:
        """Return the routes."""
        posts = {"encode": self.encode, "next": self.following, "inside": self.inside, "neighbours": self.neighbours}
        return [
            Route("/view/models", self.models),
            Route("/view/runs/{name:path}", self.follow),
            *[Route(f"/view/{name}", partial(_answer, handler), methods=["POST"]) for name, handler in posts.items()],
            Route("/view/write", partial(_answer, self.write), methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        """Return the facts of all models, and the names of the runs."""
        found = []
        for name, model in self.engine.models.items():
            steps = [path.name for path in steps_of(self.runs[name])] if name in self.runs else []
            facts = await self.engine.run(name, inside.about)
            found.append({"id": name, "chat": model.chat, "steps": steps, **facts})
        return JSONResponse({"models": found, "runs": list(self.runs)})

    async def encode(self, body: Json) -> Response:
        """Return the tokens of a text."""
        return JSONResponse(await self._gathered(inside.encoded(self._model(body).lm, _text(body))))

    async def following(self, body: Json) -> Response:
        """Return the likeliest next tokens after ids."""
        model = self._model(body)
        ids, token = inside.checked_ids(model.lm, body.get("ids")), body.get("token")
        if token is not None:
            inside.checked_ids(model.lm, [token])
        chosen = inside.sampling(body.get("sampling", {}))
        return JSONResponse(await self.engine.run(model.name, inside.following, ids, chosen, token))

    async def inside(self, body: Json) -> Response:
        """Return what a model does with a text, layer by layer, so that others have their turns."""
        return JSONResponse(await self._gathered(inside.inside(self._model(body).lm, _text(body))))

    async def neighbours(self, body: Json) -> Response:
        """Return the tokens whose embeddings are nearest to one's."""
        model = self._model(body)
        (token,) = inside.checked_ids(model.lm, [body.get("token")])
        return JSONResponse(await self.engine.run(model.name, inside.neighbours, token))

    async def write(self, body: Json) -> Response:
        """Stream a continuation of ids, or of a text whose tokens come first, marked as given."""
        model, step = self._model(body), body.get("step")
        if not isinstance(step, str | None):
            raise UserError("step: the name of a checkpoint is needed")
        lm = model.lm if step is None else await asyncio.to_thread(self.open, model.name, step)
        if "text" in body:
            given = await self._gathered(inside.encoded(lm, _text(body)))
            ids = [token["id"] for token in given["tokens"]]
            first = [{**token, "given": True} for token in given["tokens"]]
        else:
            ids, first = inside.checked_ids(lm, body.get("ids")), []
        n = body.get("n", 100)
        if type(n) is not int or not 1 <= n <= MOST_TOKENS:
            raise UserError(f"n: a number from 1 to {MOST_TOKENS:,} is needed")
        work = generate(lm, ids or lm.encode(""), inside.sampling(body.get("sampling", {}), max_new_tokens=n))
        return _events(self._written(first, self.engine.turns(work)))

    async def _gathered(self, parts: Iterator[Json]) -> Json:
        """Return one object of the parts that an iterator yields, each in its turn."""
        found: Json = {}
        async with aclosing(self.engine.turns(parts)) as turns:
            async for part in turns:
                found |= part
        return found

    async def _written(self, first: list[Json], steps: AsyncIterator[list[Piece]]) -> AsyncIterator[Json]:
        for token in first:
            yield token
        async with aclosing(steps):  # type: ignore[type-var]
            async for (piece,) in steps:
                if piece.finish == "stop":
                    yield {"ended": True}
                else:
                    yield {"id": piece.id, "text": piece.text, "logprob": piece.logprob}

    async def follow(self, request: Request) -> Response:
        """Stream what a run has written, and what it adds."""
        run = self.runs.get(request.path_params["name"])
        if run is None:
            return _failure(404, f"no run {request.path_params['name']!r}")
        return _events(follow(run, self.engine.stopping))

    def _name(self, body: Json) -> str:
        name = body.get("model")
        if not isinstance(name, str) or name not in self.engine.models:
            raise UserError(f"model: {', '.join(self.engine.models)} are served")
        return name

    def _model(self, body: Json) -> Loaded:
        return self.engine.models[self._name(body)]


def _open(runs: dict[str, Path], name: str, step: str) -> LM:
    """Load a step of a run. Raises UserError for another name than its checkpoints have."""
    path = next((path for path in steps_of(runs[name]) if path.name == step), None) if name in runs else None
    if path is None:
        raise UserError(f"step: {name} has no checkpoint {step!r:.40}")
    return load(path)


def _text(body: Json) -> str:
    text = body.get("text")
    if not isinstance(text, str):
        raise UserError("text: a string is needed")
    if len(text) > MOST_TEXT:
        raise UserError(f"text: {len(text):,} characters are too many; at most {MOST_TEXT:,} are read")
    text.encode()  # a half of a surrogate pair is a ValueError
    return text


async def _answer(handler: Callable[[Json], Awaitable[Response]], request: Request) -> Response:
    try:
        body = json.loads(await request.body())
        if not isinstance(body, dict):
            raise UserError("the body: an object is needed")
        return await handler(body)
    except (PealmError, ValueError, RecursionError) as error:
        return _failure(400, str(error) or type(error).__name__)


def _failure(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status_code=status)


def _events(items: AsyncIterator[Json]) -> Response:
    async def lines() -> AsyncIterator[str]:
        try:
            async for item in items:
                yield f"data: {json.dumps(item)}\n\n"
        except PealmError as error:
            yield f"data: {json.dumps({'error': {'message': str(error)}})}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
