"""Errors in the form of OpenAI's protocol: `{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}`."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that gets an error instead of an answer. param: the parameter to change. code: for programs."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """Return the error as the JSON of an answer, or of an event in a stream."""
        kind = "server_error" if self.status >= 500 else KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class JSON(Response):
    """A JSON answer in ASCII, so that any text is valid in it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of JSON. Raises ValueError for NaN."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def answer_error(request: Request, error: Exception) -> Response:
    """Return the answer for an exception: an ApiError, one of Starlette's, or a defect."""
    if isinstance(error, HTTPException):
        error = ApiError(str(error.detail), error.status_code, headers=dict(error.headers or {}))
    if not isinstance(error, ApiError):
        error = ApiError("the server failed; its log has the reason", 500)
    return JSON(error.body(), error.status, headers=error.headers)
