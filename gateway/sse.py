"""Server-sent events as OpenAI sends them: splitting bytes into events, and what one event says. Pure; no I/O.

Rule 1. An event ends with an empty line; lines end with LF, CRLF or CR (WHATWG HTML, 9.2.6).
Rule 2. Bytes of an event are never changed here, but that every event leaves with LF and one empty line.
Rule 3. An unfinished event is kept, never guessed; it is bounded by MAX_EVENT_BYTES.
"""

import re
from typing import Literal, NamedTuple

import msgspec

from gateway.errors import Detail, UpstreamError
from gateway.types import Usage

MAX_EVENT_BYTES = 16 * 1024 * 1024
DONE = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Splitter:
    """Incremental: feed bytes however they were cut, get whole events, each ending in a single empty line."""

    __slots__ = ("_began", "_pending", "_plain")

    def __init__(self) -> None:
        self._pending = b""
        self._plain = True  # no CR seen yet
        self._began = False

    def feed(self, data: bytes) -> bytes:
        """Whole events as one piece of bytes, b"" while none is whole. Raises UpstreamError when one is too large."""
        if not self._began:
            data = self._first(data)
        if self._pending:
            data = self._pending + data
        if not self._plain or b"\r" in data:
            data = self._unix(data)
        if data.endswith(b"\n\n"):
            self._pending = b""
            return data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            if len(data) > MAX_EVENT_BYTES:
                raise UpstreamError("too_large", f"sent an event of more than {MAX_EVENT_BYTES} bytes")
            self._pending = data
            return b""
        self._pending = data[end:]
        return data[:end]

    def _first(self, data: bytes) -> bytes:
        """Drops a byte order mark, which may itself be cut."""
        data = self._pending + data
        self._pending = b""
        if len(data) < 3 and _BOM.startswith(data):
            self._pending = data
            return b""
        self._began = True
        return data.removeprefix(_BOM)

    def _unix(self, data: bytes) -> bytes:
        """CRLF and CR to LF. A CR at the very end may be half of a CRLF and stays."""
        self._plain = False
        tail = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail

    @property
    def unfinished(self) -> bytes:
        """What came of the event that is not whole yet."""
        return self._pending

    def rest(self) -> bytes:
        """What is left at the end: the last event if only its empty line is missing, otherwise nothing to keep."""
        rest = self._pending.removesuffix(b"\r")
        self._pending = b""
        return rest.rstrip(b"\n") + b"\n\n" if rest.strip(b"\n") else b""


def events(data: bytes) -> list[bytes]:
    """The single events of a piece that a Splitter gave."""
    if data.find(b"\n\n") + 2 == len(data):
        return [data] if data.strip(b"\n") else []
    return [piece.strip(b"\n") + b"\n\n" for piece in data.split(b"\n\n") if piece.strip(b"\n")]


def payload(event: bytes) -> bytes:
    """The data of an event: its `data` lines joined with LF, without the one space after the colon."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2:
        return event[6:-2]
    lines = []
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)


def with_payload(event_: bytes, data: bytes) -> bytes:
    """The event with other data; its other lines stay."""
    others = [line for line in event_.split(b"\n") if line and not line.startswith(b"data:") and line != b"data"]
    return b"".join(line + b"\n" for line in others) + event(data)


Kind = Literal["comment", "done", "content", "opening", "usage", "error", "other"]


class Said(NamedTuple):
    """What one event says. `finished` counts the choices that ended in it."""

    kind: Kind
    finished: int = 0
    usage: Usage | None = None
    error: UpstreamError | None = None


MOST_COUNTED = 10**12
"""More tokens or characters than any answer holds: what a cloud says beyond is a mistake, as is less than none."""


def _counted(said: float | None) -> int:
    if said is None:
        return 0
    return int(said) if 0 <= said <= MOST_COUNTED else 0 if said < 0 else MOST_COUNTED


class _Details(msgspec.Struct):
    cached_tokens: int | float | None = 0


class UsageShape(msgspec.Struct):
    """OpenAI's usage object, the parts that are billed."""

    prompt_tokens: int | float | None = 0
    completion_tokens: int | float | None = 0
    prompt_tokens_details: _Details | None = None
    prompt_characters: int | float | None = None
    completion_characters: int | float | None = None

    def usage(self) -> Usage:
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0
        prompt, output = self.prompt_characters, self.completion_characters
        return Usage(
            _counted(self.prompt_tokens),
            _counted(self.completion_tokens),
            _counted(cached),
            prompt_characters=None if prompt is None else _counted(prompt),
            output_characters=None if output is None else _counted(output),
        )


ABSENT = msgspec.Raw(b"")
NOTHING = (b"", b"null", b'""', b"[]")
"""Raw values that say nothing."""


class _Delta(msgspec.Struct):
    content: msgspec.Raw = ABSENT
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT
    reasoning: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT

    def any(self) -> bool:
        return any(
            bytes(value) not in NOTHING
            for value in (
                self.content,
                self.tool_calls,
                self.function_call,
                self.refusal,
                self.reasoning,
                self.reasoning_content,
                self.audio,
            )
        )


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: UsageShape | None = None
    error: msgspec.Raw = ABSENT
    object: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT


class _Groq(msgspec.Struct):
    usage: msgspec.Raw = ABSENT


def _groqs_usage(x_groq: msgspec.Raw) -> msgspec.Raw:
    """Usage in Groq's own place, where it stands in its last chunk beside the usual one or instead of it."""
    try:
        return msgspec.json.decode(x_groq, type=_Groq).usage if bytes(x_groq) not in NOTHING else ABSENT
    except (msgspec.MsgspecError, RecursionError):
        return ABSENT


_decode_usage = msgspec.json.Decoder(UsageShape).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def said(event: bytes) -> Said:
    """What an event of a chat or text completion says. Raises UpstreamError `shape` when it is not such an event."""
    data = payload(event)
    if not data.strip():
        return Said("comment")
    if data.strip() == b"[DONE]":
        return Said("done")
    if _named_error(event):
        return Said("error", error=error_of(data))
    try:
        if not data.isascii():
            data.decode()
        chunk = _decode_chunk(data)
        if chunk.usage is None and bytes(elsewhere := _groqs_usage(chunk.x_groq)) not in NOTHING:
            chunk.usage = _decode_usage(elsewhere)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        if (listed := _in_a_list(data)) is not None:
            return Said("error", error=error_of(listed))
        raise UpstreamError("shape", "sent an event that is not a chunk of a completion") from error
    if bytes(chunk.error) not in NOTHING:
        return Said("error", error=error_of(bytes(chunk.error)))
    if bytes(chunk.object) == b'"error"' or _is_bare_error(chunk, data):  # vLLM before 0.10, and who copied it
        return Said("error", error=error_of(data))
    finished = sum(1 for choice in chunk.choices or () if choice.finish_reason)
    usage = chunk.usage.usage() if chunk.usage else None
    if any((choice.delta and choice.delta.any()) or choice.text for choice in chunk.choices or ()) or finished:
        return Said("content", finished, usage)
    if usage and not chunk.choices:
        return Said("usage", usage=usage)
    return Said("opening" if chunk.choices else "other", usage=usage)


_as_listed = msgspec.json.Decoder(list[_Chunk]).decode


def _in_a_list(data: bytes) -> bytes | None:
    """The error object of `[{"error": {…}}]`, as Google says it."""
    try:
        listed = _as_listed(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return next((bytes(item.error) for item in listed if bytes(item.error) not in NOTHING), None)


class _BareShape(msgspec.Struct):
    message: str | None = None
    detail: str | None = None
    error_code: str | None = None
    title: str | None = None
    code: str | int | None = None


def _is_bare_error(chunk: _Chunk, data: bytes) -> bool:
    """Whether this is an error object that stands by itself: Databricks' has `error_code`, NVIDIA's is RFC 9457's."""
    if chunk.choices is not None or chunk.usage is not None or bytes(chunk.object) not in NOTHING:
        return False
    try:
        bare = msgspec.json.decode(data, type=_BareShape)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return bool((bare.message or bare.detail) and (bare.error_code or bare.title or bare.code))


def _named_error(event: bytes) -> bool:
    """Whether the data is an error by the name of its event alone."""
    return b"event:" in event and b'"error":' not in event and b"error" in re.findall(rb"^event: ?(.*)$", event, re.M)


class _ErrorShape(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    status: str | int | None = None
    error_code: str | None = None
    detail: str | None = None


def error_of(raw: bytes) -> UpstreamError:
    """The error object inside an event or a 200, with the status it stands for where it says one."""
    try:
        shape = msgspec.json.decode(raw, type=_ErrorShape)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        shape = _ErrorShape()
    numbers = (_status(value) for value in (shape.code, shape.status))
    said = (shape.code, shape.type, shape.status, shape.error_code)
    words = (_STATUS_WORDS.get(str(value or "").lower(), 0) for value in said)
    status = next((found for found in (*numbers, *words) if found), 0)
    detail = Detail(shape.message or shape.detail or "", shape.type, shape.param, shape.code or shape.error_code)
    return UpstreamError("error_event", "sent an error instead of an answer", status=status, detail=detail)


_STATUS_WORDS = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "request_limit_exceeded": 429,
    "tokens": 429,
    "requests": 429,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "overloaded_error": 529,
    "service unavailable": 503,
    "server_error": 500,
    "internalservererror": 500,
}


def _status(value: object) -> int:
    """An HTTP status out of 500, "500" or nothing."""
    text = str(value)
    return int(text) if re.fullmatch(r"[45]\d\d", text) else 0


def event(data: bytes) -> bytes:
    """One event with that data."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def only_usage(event_: bytes) -> bytes:
    """OpenAI's usage event, made of a chunk that holds usage beside its choices."""
    fields = _decode_fields(payload(event_))
    if bytes(fields.get("usage", ABSENT)) in NOTHING and "x_groq" in fields:
        fields["usage"] = _groqs_usage(fields["x_groq"])
    fields["choices"] = msgspec.Raw(b"[]")
    return with_payload(event_, _encode(fields))


def without_usage(event_: bytes) -> bytes:
    """The event with `usage` null: OpenAI sends usage in a chunk of its own, and only to who asked for it."""
    return _with_field(event_, "usage", b"null")


def _with_field(event_: bytes, name: str, value: bytes) -> bytes:
    fields = _decode_fields(payload(event_))
    fields[name] = msgspec.Raw(value)
    return with_payload(event_, _encode(fields))
