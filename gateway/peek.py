"""Bytes to the few fields that routing needs, and the one rewrite of top-level fields; messages are never parsed.

Rule 1. One validating scan of the body; what the gateway does not need stays bytes.
Rule 2. A field is found by its place: what is not rewritten arrives as it was sent, white space and order included.
Rule 3. A top-level key that stands twice is refused: two parsers could read two different requests.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

import msgspec

from gateway.errors import ClientError
from gateway.types import Endpoint, Span

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_blank = re.compile(rb"[ \t\n\r]*").match
_image_part = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image)"').search
_audio_part = re.compile(rb'"type"\s*:\s*"input_audio"').search
_inline_data = re.compile(rb'"data:[^"]*"|"data"\s*:\s*"[^"]*"').finditer

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1600
"""About one tile-set of Llama 3.2 vision, used where a picture's size is not known."""

FORBIDDEN = frozenset({"base_url", "api_base", "api_key", "api_version", "extra_headers", "organization"})
"""Words that would choose where a call or whose credential goes: the operator's to say, never a request's."""


class Peeked(NamedTuple):
    """What a body says. Token counts are estimates from bytes; `max_output_tokens` is per choice."""

    model: str
    stream: bool
    include_usage: bool
    features: frozenset[str]
    stop_count: int
    choices: int
    prompt_tokens: int
    max_output_tokens: int | None
    fields: Mapping[str, Span]


def spans(body: bytes) -> dict[str, Span]:
    """The top-level fields of a JSON object by place. Raises ClientError 400 with the reason."""
    raw = _decoded(body)
    found: dict[str, Span] = {}
    at = _skip(body, 0) + 1
    for key, value in raw.items():
        key_at = _skip(body, at)
        quoted = b'"%b"' % key.encode()
        at = _skip(body, key_at + len(quoted))
        if not body.startswith(quoted, key_at) or body[at : at + 1] != b":":
            return _slow_spans(body)
        at = _skip(body, at + 1)
        end = at + len(bytes(value))
        if not body.startswith(bytes(value), at):
            return _slow_spans(body)
        found[key] = Span(key_at, at, end)
        at = _skip(body, end)
        if body[at : at + 1] == b",":
            at += 1
    if body[at : at + 1] != b"}":
        return _slow_spans(body)
    return found


def _skip(body: bytes, at: int) -> int:
    """The first byte that is not white space; almost always `at` itself."""
    if body[at : at + 1] > b" ":
        return at
    match = _blank(body, at)
    return match.end() if match else at


def _decoded(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        if not body.isascii():
            body.decode()
        return _decode_fields(body)
    except UnicodeDecodeError as error:
        _bad_json(f"not UTF-8 at byte {error.start}", error)
    except RecursionError as error:
        _bad_json("nested too deeply", error)
    except msgspec.ValidationError as error:
        _bad_json("the top level must be an object", error)
    except msgspec.DecodeError as error:
        _bad_json(str(error).removeprefix("JSON is malformed: "), error)


def _bad_json(reason: str, cause: Exception) -> NoReturn:
    raise ClientError(400, "invalid_json", f"The request body is not valid JSON: {reason}.") from cause


def _slow_spans(body: bytes) -> dict[str, Span]:
    """For the rare body whose keys are escaped or doubled, token by token. The body is known to be good JSON."""
    found: dict[str, Span] = {}
    at = _skip(body, _skip(body, 0) + 1)
    while body[at : at + 1] != b"}":
        key_end = _value_end(body, at)
        key = _as_str(body[at:key_end])
        if key in found:
            raise ClientError(400, "invalid_json", f"The field '{key[:64]}' stands twice in the request body.")
        start = _skip(body, _skip(body, key_end) + 1)
        end = _value_end(body, start)
        found[key] = Span(at, start, end)
        at = _skip(body, end)
        if body[at : at + 1] == b",":
            at = _skip(body, at + 1)
    return found


_token = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]|[^\s,:"\[\]{}]+', re.DOTALL).search


def _value_end(body: bytes, at: int) -> int:
    """Where the value that begins at a place of good JSON ends; without recursion, and numbers are not read."""
    depth = 0
    while match := _token(body, at):
        at = match.end()
        first = match[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        if depth == 0:
            break
    return at


def rewrite(body: bytes, fields: Mapping[str, Span], changes: Mapping[str, bytes | None]) -> bytes:
    """The body with top-level fields replaced, added (at the front) or, for None, taken out; all else byte for byte."""
    added = b"".join(
        _encode(key) + b":" + value + b"," for key, value in changes.items() if value and key not in fields
    )
    cuts = sorted(_cut(body, fields[key], value) for key, value in changes.items() if key in fields)
    pieces: list[bytes] = []
    at = 0
    if added:
        at = body.index(b"{") + 1
        pieces += (body[:at], added if fields else added[:-1])
    for start, end, value in cuts:
        if start < at:  # two neighbours were taken out and share the comma between them
            start = at
        pieces += (body[at:start], value)
        at = max(end, at)
    pieces.append(body[at:])
    return _without_dangling_comma(b"".join(pieces)) if None in changes.values() else b"".join(pieces)


def _cut(body: bytes, span: Span, value: bytes | None) -> tuple[int, int, bytes]:
    if value is not None:
        return span.start, span.end, value
    after = _skip(body, span.end)
    return span.key, after + 1 if body[after : after + 1] == b"," else after, b""


_dangling = re.compile(rb",[ \t\n\r]*\}[ \t\n\r]*$").search


def _without_dangling_comma(body: bytes) -> bytes:
    match = _dangling(body)
    return body[: match.start()] + b"}" if match else body


class _Reader:
    """Reads typed fields out of a body by their spans and refuses wrong types by name."""

    def __init__(self, body: bytes, fields: Mapping[str, Span]) -> None:
        self.body, self.fields = body, fields

    def raw(self, name: str) -> bytes:
        span = self.fields.get(name)
        if span is None:
            return b""
        value = self.body[span.start : span.end]
        return b"" if value == b"null" else value

    def get(self, name: str, decode: Callable[[bytes], object], wanted: str) -> object:
        value = self.raw(name)
        if not value:
            return None
        try:
            return decode(value)
        except msgspec.MsgspecError as error:
            raise ClientError(400, "invalid_request", f"'{name}' must be {wanted}.", param=name) from error


_as_str = msgspec.json.Decoder(str).decode
_as_bool = msgspec.json.Decoder(bool).decode
_as_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_as_stop = msgspec.json.Decoder(str | list[str]).decode


def _as_count(raw: bytes) -> int:
    value = msgspec.json.decode(raw, type=int)
    if not 1 <= value <= 1_000_000_000:
        raise msgspec.ValidationError("out of range")
    return value


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


_as_stream_options = msgspec.json.Decoder(_StreamOptions).decode
_as_response_format = msgspec.json.Decoder(_ResponseFormat).decode


def peek(body: bytes, endpoint: Endpoint) -> Peeked:
    """What routing needs of a request body. Raises ClientError 400 that names the field."""
    fields = spans(body)
    if not FORBIDDEN.isdisjoint(fields):
        name = min(FORBIDDEN & fields.keys())
        raise ClientError(
            400, "invalid_request", f"'{name}' may not be sent: clouds and keys are the gateway's.", param=name
        )
    read = _Reader(body, fields)
    model = read.get("model", _as_str, "a string")
    if not model:
        raise ClientError(400, "invalid_request", "'model' is missing: name a model of GET /v1/models.", param="model")
    prompt = _prompt(read, endpoint)
    stream = bool(read.get("stream", _as_bool, "true or false"))
    options = read.get("stream_options", _as_stream_options, "an object with include_usage")
    choices = _count(read, "n") or 1
    stop = read.get("stop", _as_stop, "a string or a list of strings")
    return Peeked(
        str(model),
        stream,
        bool(getattr(options, "include_usage", False)),
        _features(read, endpoint, stream, choices, prompt),
        0 if stop is None else 1 if isinstance(stop, str) else len(stop) if isinstance(stop, list) else 0,
        choices,
        prompt_tokens(prompt),
        _count(read, "max_completion_tokens") or _count(read, "max_tokens"),
        fields,
    )


def _count(read: _Reader, name: str) -> int | None:
    value = read.get(name, _as_count, "a whole number of at least 1")
    return value if isinstance(value, int) else None


def _prompt(read: _Reader, endpoint: Endpoint) -> bytes:
    """The raw bytes of what the model reads; its type is checked, its content is not."""
    name = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}[endpoint]
    raw = read.raw(name)
    if not raw:
        raise ClientError(400, "invalid_request", f"'{name}' is missing.", param=name)
    if name == "messages":
        messages = read.get(name, _as_list, "a list of messages")
        if not messages:
            raise ClientError(400, "invalid_request", "'messages' must hold at least one message.", param=name)
    elif raw[:1] not in b'"[':
        raise ClientError(400, "invalid_request", f"'{name}' must be a string or a list.", param=name)
    return raw


def prompt_tokens(prompt: bytes) -> int:
    """An estimate: a token for four bytes of JSON, pictures and sounds inside counted apart.

    Source: English text in Llama 3's tokenizer is 4.2 to 4.5 bytes a token; the JSON around each message stands for the
    template's tokens."""
    size, pictures = len(prompt), 0
    if b'"data' in prompt:
        for match in _inline_data(prompt):
            size -= match.end() - match.start()
            pictures += 1
    return size // BYTES_PER_TOKEN + pictures * IMAGE_TOKENS + 1


_PLAIN_FEATURES = {
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "penalties",
    "presence_penalty": "penalties",
    "logit_bias": "logit_bias",
    "top_logprobs": "logprobs",
}
_NEUTRAL = frozenset({b"", b"0", b"0.0", b"{}", b"[]", b"false", b"0e0"})
"""Values with which a field asks for nothing."""


def _features(read: _Reader, endpoint: Endpoint, stream: bool, choices: int, prompt: bytes) -> frozenset[str]:
    found = {endpoint.removeprefix("chat/") if endpoint != "chat/completions" else "chat"}
    if stream:
        found.add("stream")
    if choices > 1:
        found.add("n")
    for name, feature in _PLAIN_FEATURES.items():
        if name in read.fields and (read.raw(name) not in _NEUTRAL or (feature == "seed" and read.raw(name))):
            found.add(feature)
    if read.raw("logprobs") not in _NEUTRAL or (endpoint == "completions" and read.raw("logprobs") == b"0"):
        found.add("logprobs")
    if "tools" in read.fields or "functions" in read.fields:
        found |= _tool_features(read, stream)
    found |= _format_features(read)
    if endpoint == "chat/completions":
        found |= _message_features(read, prompt)
    return frozenset(found)


def _tool_features(read: _Reader, stream: bool) -> set[str]:
    if read.raw("tools") in _NEUTRAL and read.raw("functions") in _NEUTRAL:
        return set()
    found = {"tools"}
    if stream:
        found.add("stream_tools")
    if read.raw("tool_choice") not in (b"", b'"auto"', b'"none"'):
        found.add("tool_choice")
    if "parallel_tool_calls" in read.fields:
        found.add("parallel_tools")
    return found


def _format_features(read: _Reader) -> set[str]:
    wanted = read.get("response_format", _as_response_format, "an object with a type")
    kind = wanted.type if isinstance(wanted, _ResponseFormat) else "text"
    return {kind} if kind in ("json_object", "json_schema") else set()


def _message_features(read: _Reader, prompt: bytes) -> set[str]:
    found = set()
    if _image_part(prompt):
        found.add("vision")
    if _audio_part(prompt) or read.raw("audio"):
        found.add("audio")
    if b'"continue_final_message"' in read.body and read.raw("continue_final_message") == b"true":
        found.add("prefill")
    return found
