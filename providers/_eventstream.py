"""Amazon's binary event stream, `application/vnd.amazon.eventstream`: bytes in, as they were cut, messages out. Pure.

Rule 1. Every length is checked before anything is kept for it, every checksum before anything is believed.
Rule 2. The first fault ends the stream; the messages before it are still good.

Source: Smithy 2.0, Amazon Event Stream specification; botocore.eventstream 1.44.5."""

import functools
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from gateway.errors import UpstreamError

Value = bool | int | bytes | str

PRELUDE_BYTES = 12
FRAME_BYTES = PRELUDE_BYTES + 4
MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_HEADERS_BYTES = 128 * 1024

_prelude = struct.Struct(">III").unpack_from
_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_NUMBERS = {2: (1, struct.Struct(">b")), 3: (2, struct.Struct(">h")), 4: (4, struct.Struct(">i"))}
_NUMBERS |= {5: (8, struct.Struct(">q")), 8: (8, struct.Struct(">q"))}
_BYTES, _STRING, _UUID = 6, 7, 9


class Message(NamedTuple):
    """One frame. Timestamps are milliseconds since the epoch, UUIDs their 16 bytes."""

    headers: Mapping[str, Value]
    payload: bytes


class Decoder:
    """Incremental. After `fault` is set it gives nothing any more."""

    __slots__ = ("_held", "_needed", "_size", "fault")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0
        self._needed = PRELUDE_BYTES
        self.fault: UpstreamError | None = None

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now."""
        if self.fault is not None:
            return []
        self._held.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        buffer = data if len(self._held) == 1 else b"".join(self._held)
        found: list[Message] = []
        at = 0
        try:
            while (end := _end(buffer, at)) <= len(buffer):
                found.append(_message(buffer, at, end))
                at = end
            self._needed = end - at
        except UpstreamError as error:
            self.fault = error
        self._held = [buffer[at:]] if at < len(buffer) else []
        self._size = len(buffer) - at
        return found

    def end(self) -> None:
        """The bytes ended. In the middle of a frame that is a fault."""
        if self._size and self.fault is None:
            self.fault = UpstreamError("closed", "ended its event stream within a frame")


def _end(buffer: bytes, at: int) -> int:
    """Where the frame that begins at `at` ends, or only its prelude while that is not all here. Checks the prelude."""
    if len(buffer) - at < PRELUDE_BYTES:
        return at + PRELUDE_BYTES
    total, headers, checksum = _prelude(buffer, at)
    if zlib.crc32(buffer[at : at + 8]) != checksum:
        raise _wrong("a frame whose lengths do not match their checksum")
    if total > MAX_FRAME_BYTES:
        raise UpstreamError("too_large", f"sent a frame of more than {MAX_FRAME_BYTES} bytes")
    if headers > MAX_HEADERS_BYTES or total < FRAME_BYTES + headers:
        raise _wrong("a frame with impossible lengths")
    return at + int(total)


def _message(buffer: bytes, at: int, end: int) -> Message:
    if zlib.crc32(buffer[at : end - 4]) != _u32(buffer, end - 4)[0]:
        raise _wrong("a frame that does not match its checksum")
    payload_at = at + PRELUDE_BYTES + _u32(buffer, at + 4)[0]
    return Message(_headers(buffer[at + PRELUDE_BYTES : payload_at]), buffer[payload_at : end - 4])


@functools.lru_cache(maxsize=64)
def _headers(raw: bytes) -> Mapping[str, Value]:
    """The headers of a frame. A stream has a handful of different ones, so they are remembered."""
    found: dict[str, Value] = {}
    at = 0
    try:
        while at < len(raw):
            name_end = at + 1 + raw[at]
            name, kind = raw[at + 1 : name_end].decode(), raw[name_end]
            if not name or name in found:
                raise _wrong("a header without a name, or twice")
            found[name], at = _value(raw, kind, name_end + 1)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise _wrong("headers that cannot be read") from error
    return found


def _value(raw: bytes, kind: int, at: int) -> tuple[Value, int]:
    """A header's value and where it ends."""
    if kind in (0, 1):
        return kind == 0, at
    if kind in _NUMBERS:
        size, number = _NUMBERS[kind]
        return int(number.unpack_from(raw, at)[0]), at + size
    if kind in (_BYTES, _STRING):
        start = at + 2
        end = start + int(_u16(raw, at)[0])
    elif kind == _UUID:
        start, end = at, at + 16
    else:
        raise _wrong("a header of an unknown type")
    if end > len(raw):
        raise _wrong("a header that is longer than the headers")
    return raw[start:end].decode() if kind == _STRING else raw[start:end], end


def _wrong(what: str) -> UpstreamError:
    return UpstreamError("protocol", f"sent {what}")
