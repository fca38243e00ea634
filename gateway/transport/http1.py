"""HTTP/1.1 as bytes: the head of a request out, the answer in. Pure; the socket is connection.py's matter.

Rule 1. What is not plainly RFC 9112 is refused: the parser runs without any leniency, so a length beside a
        transfer coding, two lengths, bare line feeds and folded headers never reach a caller.
Rule 2. Whatever is not body (heads, 1xx, chunk extensions, trailers) is bounded by MAX_FRAMING_BYTES.
Rule 3. `reusable` is said only of an answer that ended by its own framing, with nothing after it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import httptools

MAX_FRAMING_BYTES = 65_536
HEADER_OVERHEAD_BYTES = 32  # what a header counts for beside its text, as in RFC 9113, 6.5.2
MAX_INTERIM_ANSWERS = 8  # 1xx before the answer; more is a loop

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_TARGET = re.compile(r"[!-~]+")  # visible ASCII: no spaces, no controls
_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110, 5.5: no CR, LF, NUL or other controls
_KEEP_ALIVE_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.ASCII | re.IGNORECASE)


class Malformed(ValueError):
    """The peer does not speak HTTP/1.1 as we allow it; the text says what it did, never the bytes."""


def request_head(method: str, target: str, host: str, headers: Sequence[tuple[str, str]], content_length: int) -> bytes:
    """A request head up to and with its empty line. Raises ValueError for a part that cannot stand there.

    `host` and `content_length` become headers here and may not be among `headers`; neither may transfer-encoding.
    """
    return ended_head(begun_head(method, target, host, headers), (), content_length)


def begun_head(method: str, target: str, host: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The part of a request head that is the same for many requests, to be kept and given to `ended_head`."""
    if not _TOKEN.fullmatch(method):
        raise ValueError("the method is not a token")
    if not _TARGET.fullmatch(target):
        raise ValueError("the target holds a space or a control character")
    if not _TARGET.fullmatch(host):
        raise ValueError("the host holds a space or a control character")
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n".encode("latin-1") + _header_lines(headers)


def ended_head(begun: bytes, headers: Sequence[tuple[str, str]], content_length: int) -> bytes:
    """A whole request head out of a kept part and what belongs to one request."""
    if content_length < 0:
        raise ValueError("the content length is negative")
    return b"%b%bcontent-length: %d\r\n\r\n" % (begun, _header_lines(headers), content_length)


def _header_lines(headers: Sequence[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if not _sendable(name):
            raise ValueError(f"header {name!r} cannot be sent")
        if not (value.isascii() and value.isprintable()) and not _VALUE.fullmatch(value):
            raise ValueError(f"the value of header {name} holds a control character or is not latin-1")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


_OURS = frozenset({"host", "content-length", "transfer-encoding"})


@lru_cache(maxsize=512)
def _sendable(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None and name.lower() not in _OURS


@lru_cache(maxsize=512)
def _header_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


class Incoming:
    """One answer as far as it has come. `feed` takes bytes, `end` the end of the connection.

    `pieces` is body not yet taken and `buffered_bytes` its size; `received_bytes` is all body so far.
    """

    __slots__ = (
        "_bodiless",
        "_bodiless_bytes",
        "_chunked",
        "_header_bytes",
        "_interim",
        "_parser",
        "_skipping",
        "buffered_bytes",
        "complete",
        "headed",
        "headers",
        "length",
        "pieces",
        "received_bytes",
        "reusable",
        "started",
        "status",
    )

    def __init__(self, bodiless: bool = False) -> None:
        """`bodiless` is said of an answer to HEAD."""
        self._bodiless = bodiless
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._chunked = self._skipping = False
        self._header_bytes = self._bodiless_bytes = self._interim = 0
        self.started = self.headed = self.complete = self.reusable = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self.pieces: list[bytes] = []
        self.buffered_bytes = self.received_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what came. Raises Malformed; what came before the fault stays readable."""
        self.started = True
        parser = self._parser
        if parser is None:  # after the end
            self.reusable = False
            return
        body_before, pieces_before = self.received_bytes, len(self.pieces)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise _malformed(error) from None
            self.reusable = False  # bytes after the end: the answer stands, the connection does not
        if len(self.pieces) > pieces_before + 1:  # a flood of one-byte chunks must not cost forty bytes for each
            self.pieces[pieces_before:] = [b"".join(self.pieces[pieces_before:])]
        if self.complete:
            self.release()
        elif self.received_bytes == body_before:
            self._bodiless_bytes += len(data)
            if self._bodiless_bytes > MAX_FRAMING_BYTES:
                raise _too_much_framing()

    def release(self) -> None:
        """No more will be fed. The parser and this object hold each other; apart, neither waits for the collector."""
        self._parser = None

    def end(self) -> bool:
        """The peer closed: whether that is a clean end, which it is only where the close is the framing."""
        if self.headed and not self.complete and self.length is None and not self._chunked:
            self.complete = True
        return self.complete

    def take(self) -> bytes:
        """All body that is here."""
        pieces = self.pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.buffered_bytes = 0
        return data

    def keep_alive_s(self) -> float | None:
        """How long the peer says it keeps an idle connection (`keep-alive: timeout=5`), None if it does not say."""
        said = self.headers.get("keep-alive")
        found = _KEEP_ALIVE_TIMEOUT.search(said) if said else None
        return float(found[1]) if found else None

    # What follows is called by the parser, in the order of the bytes.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + HEADER_OVERHEAD_BYTES
        if self._header_bytes > MAX_FRAMING_BYTES:
            raise _too_much_framing()
        if self.headed:  # a trailer, or a second answer nobody asked for: of no use to anyone
            return
        key, headers = _header_name(name), self.headers
        text = value.decode("latin-1").rstrip(" \t")  # the parser took what stood before
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self.headed or parser is None:
            return
        if parser.get_http_version() not in _VERSIONS:
            raise Malformed("does not speak HTTP/1.1")
        status = parser.get_status_code()
        if status < 200:
            self._skip_interim(status)
            return
        self._set_framing()
        self.status = status
        self.headed = True
        if self._bodiless:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        self.pieces.append(data)
        size = len(data)
        self.buffered_bytes += size
        self.received_bytes += size

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
            self.headers.clear()
        elif not self.complete:
            self.complete = True
            self.reusable = self._parser is not None and self._parser.should_keep_alive()

    def _set_framing(self) -> None:
        coding = self.headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise Malformed("used a transfer coding other than chunked")
            self._chunked = True
        elif "content-length" in self.headers:
            self.length = int(self.headers["content-length"])  # digits only: the parser saw to that

    def _skip_interim(self, status: int) -> None:
        self._interim += 1
        if status < 100 or status == 101 or self._interim > MAX_INTERIM_ANSWERS:
            raise Malformed("sent an interim answer that cannot be skipped")
        self._skipping = True


_VERSIONS = frozenset({"1.1", "1.0"})


def _too_much_framing() -> Malformed:
    return Malformed(f"sent more than {MAX_FRAMING_BYTES} bytes that are not body")


def _malformed(error: Exception) -> Malformed:
    if isinstance(error.__context__, Malformed):  # from one of our own callbacks
        return error.__context__
    if isinstance(error, httptools.HttpParserUpgrade):
        return Malformed("switched protocols unasked")
    return Malformed(f"broke HTTP/1.1: {str(error).lower()}")
