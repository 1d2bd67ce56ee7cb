"""What every request must pass: host, origin, key and size; and the headers of every answer."""

from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """Of a request: bytes of its body, tokens of an answer, seconds; of all: texts generated at the same time."""

    body: int = 4 * 2**20
    max_tokens: int = 4096
    concurrent: int = 64
    seconds: float = 600.0


class Guard:
    """Middleware that adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp, *, limits: Limits, api_key: str | None, hosts: tuple[str, ...]) -> None:
        self.app, self.limits, self.api_key, self.hosts = app, limits, api_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
