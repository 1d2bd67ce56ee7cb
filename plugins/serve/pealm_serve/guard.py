"""What every request must pass: host, origin, key and size; and the headers of every answer."""

import asyncio
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pealm_serve.errors import ApiError, answer_error

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Limits:
    """Of a request: bytes of the body, tokens of a text, texts, seconds; of all: texts generated at the same time.

    body_seconds: the longest wait for the next part of a body.
    """

    body: int = 4 * 2**20
    max_tokens: int = 4096
    choices: int = 128
    seconds: float = 600.0
    concurrent: int = 64
    body_seconds: float = 30.0


class Guard:
    """Middleware that refuses requests with an ApiError, and adds HEADERS to every answer.

    hosts: accepted names in the header Host, as it spells them, without port; None: all. api_key: what clients send
    as `Authorization: Bearer KEY`, but for the paths in `public`; None: nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        api_key: str | None,
        hosts: Collection[str] | None,
        public: Collection[str],
    ) -> None:
        self.app, self.limits, self.api_key, self.hosts, self.public = app, limits, api_key, hosts, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            await answer_error(Request(scope), error)(scope, receive, send_with_headers)
            return
        await self.app(scope, self._limited(receive), send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        if "\0" in path:  # no path of a file; older releases of Starlette answer it with 500
            raise ApiError("there is no such page", 404)
        hosts = headers.getlist("host")
        if self.hosts is not None:  # a web page whose name was changed to our address (DNS rebinding) has another one
            names = [re.sub(r":\d*$", "", host.lower()) for host in hosts]
            if len(names) != 1 or names[0] not in self.hosts:
                raise ApiError(
                    f"this server is for {', '.join(sorted(self.hosts))}, not for {', '.join(names)!r}", 403
                )
        origins = headers.getlist("origin")
        if any(origin.partition("://")[2] not in hosts for origin in origins):  # a page of another site
            raise ApiError("requests from other sites' pages are not accepted", 403)
        if self.api_key is None or path in self.public:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.api_key.encode()):
            raise ApiError(
                "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that raises ApiError for a body that is too large or too slow."""
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()  # waits until the client leaves
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    message = await receive()
            except TimeoutError:
                raise ApiError("the body of the request did not arrive in time", 408) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self.limits.body:
                raise ApiError(f"the body of the request is larger than {self.limits.body:,} bytes", 413)
            return message

        return limited
