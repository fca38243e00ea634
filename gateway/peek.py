"""Bytes to the few fields that routing needs, and the one rewrite of top-level fields; messages are never parsed.

Rule 1. One validating scan of the body; what the gateway does not need stays bytes.
Rule 2. A field is found by its place: what is not rewritten arrives as it was sent, white space and order included.
Rule 3. A top-level key that stands twice is refused: two parsers could read two different requests.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec

from gateway.errors import ClientError
from gateway.types import Endpoint, Span

_as_str = msgspec.json.Decoder(str).decode
_as_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_blank = re.compile(rb"[ \t\n\r]*").match
_colon = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*").match
_separator = re.compile(rb"[ \t\n\r]*[,}][ \t\n\r]*").match
_content_parts = re.compile(rb'"content"\s*:\s*\[').search
_image_part = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image)"').search
_audio_part = re.compile(rb'"type"\s*:\s*"input_audio"').search
_inline_data = re.compile(rb'"data:[\w.+/;=-]*;base64,[^"]*"|"data"\s*:\s*"[^"]*"').finditer
_tokens = re.compile(rb"\[[ \t\n\r]*[0-9]").match

Raws = Mapping[str, msgspec.Raw]

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1600
"""About one tile-set of Llama 3.2 vision, used where a picture's size is not known."""

FORBIDDEN = frozenset({"base_url", "api_base", "api_key", "api_version", "extra_headers", "organization"})
"""Words that would choose where a call or whose credential goes: the operator's to say, never a request's."""


class Peeked(NamedTuple):
    """What a body says. Token counts are estimates from bytes; `max_output_tokens` is per choice, and `choices` counts
    those of every prompt."""

    model: str
    stream: bool
    include_usage: bool
    features: frozenset[str]
    stop_count: int
    choices: int
    prompt_tokens: int
    longest_prompt_tokens: int
    max_output_tokens: int | None
    fields: Mapping[str, Span]


def spans(body: bytes) -> dict[str, Span]:
    """The top-level fields of a JSON object by place. Raises ClientError 400 with the reason."""
    return _places(body, _decoded(body))


def _places(body: bytes, raw: Raws) -> dict[str, Span]:
    """Where the fields stand, by counting: in a body without white space, doubled or escaped names, which is how the
    official SDKs write, lengths and punctuation add up to the body's length; in any other they fall short of it."""
    found: dict[str, Span] = {}
    at = 1
    for key, value in raw.items():
        start = at + len(key.encode()) + 3
        end = start + len(memoryview(value))
        found[key] = Span(at, start, end)
        at = end + 1
    return found if at == len(body) else _walked(body, raw)


def _walked(body: bytes, raw: Raws) -> dict[str, Span]:
    """The same for a body with white space, by going from field to field."""
    found: dict[str, Span] = {}
    at = body.index(b"{") + 1
    for key, value in raw.items():
        at = _skip(body, at)
        quoted, expected = b'"%b"' % key.encode(), bytes(value)
        colon = _colon(body, at + len(quoted))
        if colon is None or not body.startswith(quoted, at) or not body.startswith(expected, colon.end()):
            return _slow_spans(body)
        end = colon.end() + len(expected)
        found[key] = Span(at, colon.end(), end)
        separator = _separator(body, end)
        if separator is None:
            return _slow_spans(body)
        at = separator.end()
    return found if at == len(body) else _slow_spans(body)


def _skip(body: bytes, at: int) -> int:
    """The first byte that is not white space; almost always `at` itself."""
    if body[at : at + 1] > b" ":
        return at
    match = _blank(body, at)
    return match.end() if match else at


def _decoded(body: bytes) -> Raws:
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
    if len(changes) == 1 and (name := next(iter(changes))) in fields and (new := changes[name]) is not None:
        return b"".join((body[: fields[name].start], new, body[fields[name].end :]))  # nearly always: the model
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


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


Decode = Callable[[msgspec.Raw], Any]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_CountOrNone = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
_as_count: tuple[Decode, str] = (msgspec.json.Decoder(_Count | None).decode, "a whole number of at least 1")

_TYPED: Mapping[str, tuple[Decode, str]] = {
    "model": (msgspec.json.Decoder(str | None).decode, "a string"),
    "stream": (msgspec.json.Decoder(bool | None).decode, "true or false"),
    "stream_options": (msgspec.json.Decoder(_StreamOptions | None).decode, "an object with include_usage"),
    "stop": (msgspec.json.Decoder(str | list[str] | None).decode, "a string or a list of strings"),
    "n": _as_count,
    "max_tokens": (msgspec.json.Decoder(_CountOrNone | None).decode, _as_count[1]),
    "max_completion_tokens": _as_count,
    "response_format": (msgspec.json.Decoder(_ResponseFormat | None).decode, "an object with a type"),
}
"""How the fields are read that routing reads, and what they must be."""

_PROMPTS: Mapping[Endpoint, str] = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}


def peek(body: bytes, endpoint: Endpoint) -> Peeked:
    """What routing needs of a request body. Raises ClientError 400 that names the field."""
    raw = _decoded(body)
    fields = _places(body, raw)
    if not FORBIDDEN.isdisjoint(raw):
        name = min(FORBIDDEN & raw.keys())
        raise ClientError(
            400, "invalid_request", f"'{name}' may not be sent: clouds and keys are the gateway's.", param=name
        )
    read = _read(raw)
    if not read.get("model"):
        raise ClientError(400, "invalid_request", "'model' is missing: name a model of GET /v1/models.", param="model")
    prompt = _prompt(body, fields, endpoint)
    beyond_text = _beyond_text(body, prompt, endpoint)
    options: _StreamOptions | None = read.get("stream_options")
    stop: str | list[str] | None = read.get("stop")
    sizes = _prompt_sizes(body, prompt, beyond_text, endpoint)
    return Peeked(
        read["model"],
        bool(read.get("stream")),
        options is not None and bool(options.include_usage),
        _features(raw, read, endpoint, beyond_text),
        0 if stop is None else 1 if isinstance(stop, str) else len(stop),
        (read.get("n") or 1) * (len(sizes) if endpoint == "completions" else 1),
        sum(sizes),
        max(sizes),
        _most_tokens(read, endpoint),
        fields,
    )


def _most_tokens(read: Mapping[str, Any], endpoint: Endpoint) -> int | None:
    """The output asked for, per choice; none at all only where `echo` lets a completion be of its prompt alone."""
    most: int | None = read.get("max_completion_tokens") or read.get("max_tokens")
    if most == 0 and endpoint != "completions":
        raise ClientError(400, "invalid_request", f"'max_tokens' must be {_as_count[1]}.", param="max_tokens")
    return most


def _read(raw: Raws) -> dict[str, Any]:
    """The fields of _TYPED that are there, null as None."""
    found: dict[str, Any] = {}
    for name, value in raw.items():
        typed = _TYPED.get(name)
        if typed is not None:
            try:
                found[name] = typed[0](value)
            except msgspec.MsgspecError as error:
                raise ClientError(400, "invalid_request", f"'{name}' must be {typed[1]}.", param=name) from error
    return found


def _prompt(body: bytes, fields: Mapping[str, Span], endpoint: Endpoint) -> Span:
    """Where that stands what the model reads; its type is checked, its content is not."""
    name = _PROMPTS[endpoint]
    span = fields.get(name)
    if span is None or body.startswith(b"null", span.start):
        raise ClientError(400, "invalid_request", f"'{name}' is missing.", param=name)
    if endpoint != "chat/completions":
        if not body.startswith((b'"', b"["), span.start):
            raise ClientError(400, "invalid_request", f"'{name}' must be a string or a list.", param=name)
    elif not body.startswith(b"[", span.start):
        raise ClientError(400, "invalid_request", f"'{name}' must be a list of messages.", param=name)
    elif body.startswith(b"]", _skip(body, span.start + 1)):
        raise ClientError(400, "invalid_request", f"'{name}' must hold at least one message.", param=name)
    return span


def _beyond_text(body: bytes, prompt: Span, endpoint: Endpoint) -> bytes:
    """The prompt if pictures or sounds may stand in it; b"" for messages of bare text, which hardly ever hold a
    bracket: to look for that one byte takes a thirtieth of the time."""
    if endpoint == "chat/completions":
        bracketed = body.find(b"[", prompt.start + 1, prompt.end) > 0
        if not (bracketed and _content_parts(body, prompt.start, prompt.end)):
            return b""
    return body[prompt.start : prompt.end]


def _prompt_sizes(body: bytes, prompt: Span, beyond_text: bytes, endpoint: Endpoint) -> list[int]:
    """The estimated tokens of each prompt of a call: completions and embeddings take lists of texts or of tokens."""
    if endpoint == "chat/completions" or body.startswith(b'"', prompt.start):
        return [prompt_tokens(prompt.end - prompt.start, beyond_text)]
    if _tokens(beyond_text):
        return [beyond_text.count(b",") + 1]
    texts = [bytes(raw) for raw in _as_raws(beyond_text)]
    sizes = [text.count(b",") + 1 if _tokens(text) else prompt_tokens(len(text), text) for text in texts]
    return sizes or [1]


def prompt_tokens(size_bytes: int, beyond_text: bytes) -> int:
    """An estimate: a token for four bytes of JSON, pictures and sounds inside counted apart.

    Source: English text in Llama 3's tokenizer is 4.2 to 4.5 bytes a token; the JSON around each message stands for the
    template's tokens."""
    pictures = 0
    if b'"data' in beyond_text:
        for match in _inline_data(beyond_text):
            size_bytes -= match.end() - match.start()
            pictures += 1
    return size_bytes // BYTES_PER_TOKEN + pictures * IMAGE_TOKENS + 1


def uncounted(body: bytes) -> tuple[int, int]:
    """The bytes of a body without pictures and sounds inside, and at most how many of those it holds."""
    size, pictures = len(body), body.count(b"image_url") + body.count(b"input_image") + body.count(b"input_audio")
    if b'"data' in body:
        size -= sum(match.end() - match.start() for match in _inline_data(body))
    return size, pictures


_NEUTRAL = frozenset({b"null", b"0", b"0.0", b"{}", b"[]", b"false", b"0e0"})
"""Values with which a field asks for nothing."""
_UNSAID = frozenset({b"null"})

_PLAIN_FEATURES: Mapping[str, tuple[str, frozenset[bytes]]] = {
    "seed": ("seed", _UNSAID),
    "stop": ("stop", _NEUTRAL),
    "frequency_penalty": ("penalties", _NEUTRAL),
    "presence_penalty": ("penalties", _NEUTRAL),
    "logit_bias": ("logit_bias", _NEUTRAL),
    "logprobs": ("logprobs", _NEUTRAL),
    "top_logprobs": ("logprobs", _NEUTRAL),
}
"""Fields that need a feature, but for the values with which they ask for nothing."""
_FORMATS = frozenset({"json_object", "json_schema"})
_WORDS: Mapping[Endpoint, str] = {
    "chat/completions": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
}


def _features(raw: Raws, read: Mapping[str, Any], endpoint: Endpoint, beyond_text: bytes) -> frozenset[str]:
    found = {_WORDS[endpoint]}
    if read.get("stream"):
        found.add("stream")
    if (read.get("n") or 1) > 1:
        found.add("n")
    for name, value in raw.items():
        plain = _PLAIN_FEATURES.get(name)
        if plain is not None and bytes(value) not in plain[1]:
            found.add(plain[0])
    if endpoint == "completions" and _said(raw, "logprobs") == b"0":
        found.add("logprobs")
    if "tools" in raw or "functions" in raw:
        found |= _tool_features(raw, stream="stream" in found)
    wanted: _ResponseFormat | None = read.get("response_format")
    if wanted is not None and wanted.type in _FORMATS:
        found.add(wanted.type)
    if endpoint == "chat/completions":
        found |= _message_features(raw, beyond_text)
    return frozenset(found)


def _said(raw: Raws, name: str) -> bytes:
    """A field's value, null for one that is not there."""
    return bytes(raw[name]) if name in raw else b"null"


def _tool_features(raw: Raws, *, stream: bool) -> set[str]:
    if _said(raw, "tools") in _NEUTRAL and _said(raw, "functions") in _NEUTRAL:
        return set()
    found = {"tools"}
    if stream:
        found.add("stream_tools")
    if _said(raw, "tool_choice") not in (b"null", b'"auto"', b'"none"'):
        found.add("tool_choice")
    if _said(raw, "parallel_tool_calls") == b"false":  # true is what clouds do if not told otherwise
        found.add("parallel_tools")
    return found


def _message_features(raw: Raws, beyond_text: bytes) -> set[str]:
    found = set()
    if beyond_text and _image_part(beyond_text):
        found.add("vision")
    if (beyond_text and _audio_part(beyond_text)) or _said(raw, "audio") != b"null":
        found.add("audio")
    if _said(raw, "continue_final_message") == b"true":
        found.add("prefill")
    return found
