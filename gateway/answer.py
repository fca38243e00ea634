"""A plain answer: what it says, and the one rewrite of its `model`. Pure; streams are sse.py and relay.py.

Rule 1. A 200 without anything in it, with an error in it, or of another shape is a failure of the cloud.
Rule 2. All but the value of `model` comes back byte for byte.
"""

from typing import NamedTuple

import msgspec

from gateway.errors import ArrieroError, UpstreamError
from gateway.peek import rewrite, spans
from gateway.sse import ABSENT, NOTHING, UsageShape, error_of
from gateway.types import Endpoint, Usage


class _Choice(msgspec.Struct):
    """Any object: what is in it is the caller's."""


class _Choices(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: UsageShape | None = None
    error: msgspec.Raw = ABSENT
    model: str | None = None


class _Vectors(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: UsageShape | None = None
    error: msgspec.Raw = ABSENT
    model: str | None = None


_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode
_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """A good plain answer. `usage` is None when the cloud sent none."""

    body: bytes
    model: str | None
    usage: Usage | None


def read(body: bytes, content_type: str, endpoint: Endpoint) -> Answer:
    """Raises UpstreamError not_json, shape, empty or error_body."""
    if not body or body.isspace():
        raise UpstreamError("empty", "answered 200 with nothing in it")
    if "json" not in content_type and body[:1] not in b"{[ \r\n\t":
        raise UpstreamError(
            "not_json", f"answered 200 with {content_type.split(';')[0][:40] or 'no content type'}, not JSON"
        )
    try:
        if not body.isascii():
            body.decode()
        shape = _decode_vectors(body) if endpoint == "embeddings" else _decode_choices(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError("not_json", "answered 200 with a body that is not JSON") from error
    except msgspec.ValidationError as error:
        raise UpstreamError("shape", "answered 200 with JSON of another shape") from error
    except msgspec.DecodeError as error:
        raise UpstreamError("not_json", "answered 200 with a body that is not JSON") from error
    if shape.error is not ABSENT and bytes(shape.error) not in NOTHING:
        found = error_of(bytes(shape.error))
        raise UpstreamError("error_body", "answered 200 with an error in it", status=found.status, detail=found.detail)
    if not (shape.data if isinstance(shape, _Vectors) else shape.choices):
        raise UpstreamError("empty", "answered 200 without any choice in it")
    return Answer(body, shape.model, shape.usage.usage() if shape.usage else None)


def renamed(answer: Answer, model: str) -> bytes:
    """The body with the route's name, as it was asked for, in the place of the cloud's id."""
    if answer.model == model:
        return answer.body
    name = _encode(model)
    if answer.model is not None:
        needle = b'"model":' + _encode(answer.model)
        at = answer.body.find(needle)
        if at > 0 and answer.body.count(b"{", 0, at) == 1:
            return answer.body[: at + 8] + name + answer.body[at + len(needle) :]
    try:
        return rewrite(answer.body, spans(answer.body), {"model": name})
    except ArrieroError:  # a field stands twice: not ours to choose
        return answer.body
