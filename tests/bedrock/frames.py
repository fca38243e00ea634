"""An encoder of Amazon's event stream for tests, with every header type; shares nothing with parser or sandbox."""

import struct
import zlib
from collections.abc import Mapping

Header = tuple[int, object]
_NUMBERS = {2: ">b", 3: ">h", 4: ">i", 5: ">q", 8: ">q"}


def encode(headers: Mapping[str, Header], payload: bytes) -> bytes:
    """One message; a header is its type's number and a value."""
    return sealed(b"".join(_header(name, *value) for name, value in headers.items()), payload)


def sealed(headers: bytes, payload: bytes, total: int | None = None, headers_length: int | None = None) -> bytes:
    """Raw header bytes in a frame with good checksums; the lengths may lie."""
    length = len(headers) + len(payload) + 16 if total is None else total
    prelude = struct.pack(">II", length, len(headers) if headers_length is None else headers_length)
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


def _header(name: str, kind: int, value: object) -> bytes:
    head = bytes([len(name.encode())]) + name.encode() + bytes([kind])
    if kind in (0, 1):
        return head
    if kind in _NUMBERS:
        return head + struct.pack(_NUMBERS[kind], value)
    raw = value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
    return head + (raw if kind == 9 else struct.pack(">H", len(raw)) + raw)


def event(kind: str, payload: bytes) -> bytes:
    """An event as Bedrock sends them."""
    return encode(
        {":event-type": (7, kind), ":content-type": (7, "application/json"), ":message-type": (7, "event")}, payload
    )


def exception(kind: str, payload: bytes) -> bytes:
    return encode({":exception-type": (7, kind), ":message-type": (7, "exception")}, payload)
