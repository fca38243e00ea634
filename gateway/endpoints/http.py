"""What every endpoint says in HTTP: whole JSON answers and errors, with our headers. Nothing of routing."""

import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.types import Scope

from gateway.errors import Answerable, ClientError
from gateway.front.cycle import Cycle

Headers = list[tuple[bytes, bytes]]
_chance = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _chance.seed(os.urandom(32)))
_request_id = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers, lower-case; of a doubled one the last."""
    return dict(scope["headers"])


def fresh() -> str:
    """The part of an id that no other call of any gateway has: milliseconds since 1970 and 64 bits by chance.

    The time comes first, so that a ledger's indexes grow at their end (as RFC 9562, 5.7 has it for UUIDs)."""
    return f"{int(time.time() * 1000):012x}{_chance.getrandbits(64):016x}"


def request_id(headers: Mapping[bytes, bytes], new: str = "") -> str:
    """The caller's x-request-id if it is printable ASCII of at most 128 characters, else a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given and _request_id(given) else f"req_{new or fresh()}"


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]


def send_json(cycle: Cycle, status: int, body: bytes, headers: Headers) -> None:
    """One whole JSON answer."""
    length = (b"content-length", b"%d" % len(body))
    cycle.answer(status, [(b"content-type", b"application/json"), length, *headers], body)


def send_error(cycle: Cycle, error: Answerable, headers: Headers) -> None:
    send_json(cycle, error.status, error.body(), [*headers, *encoded(error.headers().items())])


def check_length(headers: Mapping[bytes, bytes], limit_bytes: int) -> None:
    """Raises ClientError 413 for a body that says it is too large, before it is buffered, 415 for an encoded one."""
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding not in (b"identity", b""):
        raise ClientError(
            415, "unsupported_encoding", "The request body must not be compressed: leave content-encoding out."
        )
    if length(headers, 0) > limit_bytes:
        raise _too_large(limit_bytes)


def length(headers: Mapping[bytes, bytes], otherwise: int) -> int:
    """How large a body says that it is."""
    said = headers.get(b"content-length", b"")
    return int(said) if said.isdigit() else otherwise


async def read_body(more: Callable[[], Awaitable[bytes]], limit_bytes: int) -> bytes:
    """The whole of a body as it comes, until `more` gives b"". Raises ClientError 413."""
    pieces: list[bytes] = []
    size = 0
    while piece := await more():
        pieces.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
    return b"".join(pieces)


def within(body: bytes, limit_bytes: int) -> bytes:
    """The body. Raises ClientError 413 for a larger one."""
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


def _too_large(limit_bytes: int) -> ClientError:
    return ClientError(
        413, "request_too_large", f"The request body is larger than {limit_bytes} bytes, the limit here."
    )
