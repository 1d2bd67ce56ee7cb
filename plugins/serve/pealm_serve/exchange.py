"""One request and its answer: whole or as server-sent events, with a time limit, ended when the client leaves."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from pealm_serve.errors import JSON, ApiError
from pealm_serve.formats import ChatFormat, CompletionFormat, Part, joined
from pealm_serve.guard import Limits
from pealm_serve.params import Params, parse

LAST_WORD = 5.0  # seconds to send why a stream ends


class Endpoint:
    """An ASGI application: `work(data, answer)` gets the JSON of the request, and sends the answer.

    It is cancelled when the client leaves, which is not an error, and when the time is up.
    """

    def __init__(self, work: Callable[[dict[str, Any], "Answer"], Awaitable[None]], limits: Limits) -> None:
        self.work, self.limits = work, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request, answer = Request(scope, receive), Answer(scope, receive, send)
        try:
            data = parse(await request.body())
        except ClientDisconnect:
            return
        work = asyncio.ensure_future(self.work(data, answer))
        leave = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({work, leave}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif not leave.done():
                raise ApiError(f"the answer took longer than {self.limits.seconds:g} seconds", 504, code="timeout")
        except Exception as error:
            if not answer.started:
                raise
            work.cancel()  # it may wait for a client that reads nothing
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    await answer.end_with(error)
            if not isinstance(error, ApiError):
                raise
        finally:
            for task in (work, leave):
                task.cancel()
            await asyncio.gather(work, leave, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Answer:
    """Sends the parts of texts as one JSON object, or as server-sent events. extra: more fields of that object."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.started, self.extra = False, dict[str, Any]()

    async def send_json(self, content: Any) -> None:
        """Send a JSON object."""
        self.started = True
        await JSON(content)(self.scope, self._receive, self._send)

    async def send(
        self,
        model: str,
        form: CompletionFormat | ChatFormat,
        how: Params,
        parts: AsyncGenerator[Part, None],
        prompt_tokens: int,
    ) -> None:
        """Send what `parts` yields, and close it."""
        head = {"id": f"{form.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        tokens = 0

        def usage() -> dict[str, int]:
            return {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": prompt_tokens + tokens,
            }

        async with aclosing(parts):
            if not how.stream:
                whole = [part async for part in parts]
                tokens = sum(token.made for part in whole for token in part.tokens)
                choices = [form.choice(part) for part in joined(whole)]
                await self.send_json(
                    {**head, "object": form.object, "choices": choices, "usage": usage(), **self.extra}
                )
                return
            head["object"] = form.chunk_object
            async for part in parts:
                tokens += sum(token.made for token in part.tokens)
                if part.text or part.finish or how.top is not None:
                    await self.event({**head, "choices": [form.chunk(part)], **self.extra})
                    self.extra = {}
            if how.usage:
                await self.event({**head, "choices": [], "usage": usage()})
            await self.end()

    async def event(self, content: Any) -> None:
        """Send an event; before the first one, the head of the answer."""
        if not self.started:
            self.started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        text = content if isinstance(content, str) else json.dumps(content, allow_nan=False, separators=(",", ":"))
        await self._send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})

    async def end(self) -> None:
        """Send the last event."""
        await self.event("[DONE]")
        await self._send({"type": "http.response.body", "body": b""})

    async def end_with(self, error: Exception) -> None:
        """Send an error as the last event."""
        if not isinstance(error, ApiError):
            error = ApiError("the server failed; its log has the reason", 500)
        await self.event(error.body())
        await self.end()
