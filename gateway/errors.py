"""The error tree by whose matter it is, and its OpenAI JSON. The only file that knows the statuses we answer with.

Rule 1. ConfigError is the operator's, ClientError the caller's, LimitError the key's, UpstreamError the cloud's.
Rule 2. A message names the thing and the remedy; never a key, never a prompt, never an upstream's own internal text.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

FaultKind = Literal[
    "refused",  # connection refused, unreachable
    "dns",  # the name does not resolve
    "tls",  # handshake or certificate
    "proxy",  # a forward proxy on the way said no, or nonsense
    "connect_timeout",
    "pool_timeout",  # every connection of the account is busy
    "no_files",  # this process may open no further file
    "first_byte_timeout",
    "idle_timeout",  # no data within idle_s
    "total_timeout",
    "reset",  # connection broken
    "stale",  # a kept connection was closed by the server before it answered anything
    "closed",  # ended before the answer was whole
    "protocol",  # not HTTP/1.1, bad chunk, wrong length
    "too_large",
    "status",  # the cloud answered with an error status; see `status`
    "error_body",  # an error inside a 200
    "error_event",  # an error event inside a stream
    "empty",  # a 200 without any content
    "not_json",  # a wrong content type or a body that is not JSON
    "shape",  # JSON of a wrong shape
]


class ArrieroError(Exception):
    """Everything that this program raises on purpose."""


class ConfigError(ArrieroError):
    """The config or the command line is wrong; `path` says where, such as `routes.llama.deployments[1].account`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path, self.reason = path, reason


class Detail(msgspec.Struct, frozen=True):
    """A cloud's own error object in OpenAI's words. Its message is only for the caller whose fault it was."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class UpstreamError(ArrieroError):
    """What went wrong at a cloud. `message` is ours and safe to show; `detail` is the cloud's own and is not.

    `headers` are the answer's, with lower-case names. `sent` is False when no byte of the request can have reached the
    cloud.
    """

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        status: int = 0,
        detail: Detail | None = None,
        headers: Mapping[str, str] | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status
        self.detail, self.headers, self.sent = detail or Detail(), headers or {}, sent


class Answerable(ArrieroError):
    """An error that is an answer to the caller: status, OpenAI error object, headers."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        type_: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.type = type_ or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        return error_body(self.message, self.type, self.param, self.code)

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"retry-after": str(max(1, -int(-self.retry_after_s // 1)))}


class ClientError(Answerable):
    """The caller's matter: 400 to 415, 401, 403, 404."""


class LimitError(Answerable):
    """The key's matter: 429, with what is left of its limits in `headers`."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type_: str,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message, type_=type_, retry_after_s=retry_after_s)
        self._room = headers or {}

    def headers(self) -> dict[str, str]:
        return {**self._room, **super().headers()}


class ServiceError(Answerable):
    """Ours or the clouds': 502, 503, 504, and a 429 that every cloud gave."""


TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    429: "rate_limit_error",
    499: "client_closed_request",
}

_encode = msgspec.json.Encoder().encode


def error_body(message: str, type_: str | None, param: str | None, code: str | int | None) -> bytes:
    """OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""
    return _encode({"error": {"message": message, "type": type_, "param": param, "code": code}})
