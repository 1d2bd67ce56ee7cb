"""What the page asks for, as JSON and server-sent events, and the page itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pealm_core import PealmError, UserError, load
from pealm_serve import inside
from pealm_serve.engine import Engine
from pealm_serve.errors import JSON, ApiError
from pealm_serve.exchange import Answer, Endpoint
from pealm_serve.guard import Limits
from pealm_serve.models import Loaded
from pealm_serve.runs import follow, run_of, steps_of

Json = dict[str, Any]

MOST_TOKENS, MOST_TEXT = 1000, 20_000  # that one request writes and reads


def routes(engine: Engine, limits: Limits) -> list[Route]:
    """Return the routes of the page's views."""
    return Views(engine).routes(limits)


class Views:
    """The routes of the page for the models and the runs of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = {name: run for name, model in engine.models.items() if (run := run_of(model.path))}
        self.open = lru_cache(maxsize=2)(partial(_open, self.runs))  # checkpoints of a run: two are in memory

    def routes(self, limits: Limits) -> list[Route]:
        """Return the routes."""
        posts = {"encode": self.encode, "next": self.following, "inside": self.inside}
        posts |= {"neighbours": self.neighbours, "write": self.write}
        return [
            Route("/view/models", self.models),
            Route("/view/runs/{name:path}", self.follow),
            *[
                Route(f"/view/{name}", Endpoint(partial(_answer, handler), limits), methods=["POST"])
                for name, handler in posts.items()
            ],
        ]

    async def models(self, request: Request) -> Response:
        """Return the facts of all models, and the names of the runs."""
        found = []
        for name, model in self.engine.models.items():
            steps = [path.name for path in steps_of(self.runs[name])] if name in self.runs else []
            facts = await self.engine.run(name, inside.about)
            found.append({"id": name, "chat": model.chat, "steps": steps, **facts})
        return JSON({"models": found, "runs": list(self.runs)})

    async def encode(self, body: Json, answer: Answer) -> None:
        """Send the tokens of a text."""
        with self.engine.seats(1):
            await answer.send_json(await self._gathered(inside.encoded(self._model(body).lm, _text(body))))

    async def following(self, body: Json, answer: Answer) -> None:
        """Send the likeliest next tokens after ids."""
        model = self._model(body)
        ids, token = inside.checked_ids(model.lm, body.get("ids")), body.get("token")
        if token is not None:
            inside.checked_ids(model.lm, [token])
        chosen = inside.sampling(body.get("sampling", {}))
        await answer.send_json(await self.engine.run(model.name, inside.following, ids, chosen, token))

    async def inside(self, body: Json, answer: Answer) -> None:
        """Send what a model does with a text, layer by layer, so that others have their turns."""
        with self.engine.seats(1):
            await answer.send_json(await self._gathered(inside.inside(self._model(body).lm, _text(body))))

    async def neighbours(self, body: Json, answer: Answer) -> None:
        """Send the tokens whose embeddings are nearest to one's."""
        model = self._model(body)
        (token,) = inside.checked_ids(model.lm, [body.get("token")])
        await answer.send_json(await self.engine.run(model.name, inside.neighbours, token))

    async def write(self, body: Json, answer: Answer) -> None:
        """Stream a continuation of ids, or of a text whose tokens come first, marked as given."""
        model, step, n = self._model(body), body.get("step"), body.get("n", 100)
        if not isinstance(step, str | None):
            raise UserError("step: the name of a checkpoint is needed")
        if type(n) is not int or not 1 <= n <= MOST_TOKENS:
            raise UserError(f"n: a number from 1 to {MOST_TOKENS:,} is needed")
        chosen = inside.sampling(body.get("sampling", {}), max_new_tokens=n)
        with self.engine.seats(1):
            if step is not None:
                model = await asyncio.to_thread(self.open, model.name, step)
            if "text" in body:
                given = (await self._gathered(inside.encoded(model.lm, _text(body))))["tokens"]
                ids = [token["id"] for token in given]
            else:
                ids, given = inside.checked_ids(model.lm, body.get("ids")), []
            for token in given:
                await answer.event({**token, "given": True})
            work = model.texts.generate(ids or model.lm.encode(""), chosen)
            async with aclosing(self.engine.turns(work)) as steps:
                async for pieces in steps:
                    for piece in pieces:
                        shown = {"id": piece.id, "text": piece.text, "logprob": piece.logprob}
                        await answer.event({"ended": True} if piece.finish == "stop" else shown)
            await answer.end()

    async def _gathered(self, parts: Iterator[Json]) -> Json:
        """Return one object of the parts that an iterator yields, each in its turn."""
        found: Json = {}
        async with aclosing(self.engine.turns(parts)) as turns:
            async for part in turns:
                found |= part
        return found

    async def follow(self, request: Request) -> Response:
        """Stream what a run has written, and what it adds."""
        run = self.runs.get(request.path_params["name"])
        if run is None:
            raise ApiError(f"no run {request.path_params['name']!r}", 404)
        events = (f"data: {json.dumps(item)}\n\n" async for item in follow(run, self.engine.stopping))
        return StreamingResponse(events, media_type="text/event-stream")

    def _name(self, body: Json) -> str:
        name = body.get("model")
        if not isinstance(name, str) or name not in self.engine.models:
            raise UserError(f"model: {', '.join(self.engine.models)} are served")
        return name

    def _model(self, body: Json) -> Loaded:
        return self.engine.models[self._name(body)]


def _open(runs: dict[str, Path], name: str, step: str) -> Loaded:
    """Load a step of a run. Raises UserError for another name than its checkpoints have."""
    path = next((path for path in steps_of(runs[name]) if path.name == step), None) if name in runs else None
    if path is None:
        raise UserError(f"step: {name} has no checkpoint {step!r:.40}")
    return Loaded(name, path, load(path), 0)


def _text(body: Json) -> str:
    text = body.get("text")
    if not isinstance(text, str):
        raise UserError("text: a string is needed")
    if len(text) > MOST_TEXT:
        raise UserError(f"text: {len(text):,} characters are too many; at most {MOST_TEXT:,} are read")
    return text


async def _answer(handler: Callable[[Json, Answer], Awaitable[None]], body: Json, answer: Answer) -> None:
    try:
        await handler(body, answer)
    except (PealmError, ValueError) as error:
        raise ApiError(str(error)) from error
