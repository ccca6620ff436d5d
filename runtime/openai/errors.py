"""Failures of the endpoint, in the shape and with the codes of OpenAI's API."""

from __future__ import annotations

from typing import Any, Final

RETRY_AFTER_SECONDS: Final = 1
"""When a refused client may try again."""


class ApiError(Exception):
    """A request that is not answered: an HTTP status, and what its body says.

    `param` is the field of the request that is at fault, `code` the machine-readable reason.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """What the response says besides its body: when to try again, and how to authenticate."""
        if self.status == 503:
            return {"retry-after": str(RETRY_AFTER_SECONDS)}
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {}

    def to_json(self) -> dict[str, Any]:
        """The body of the response, or of the last event of a stream."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request that can never be answered: status 400."""
    return ApiError(400, message, code, param)
