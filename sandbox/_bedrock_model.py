"""Checks a request against the shapes of Bedrock's own service model, with all their limits, and words what is wrong.

The shapes are bedrock_shapes.json, made from botocore by tests/bedrock/shapes.py. The words are those of AWS's services
in general; that an unknown field is refused is stricter than they are, so that a misspelt one is seen.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sandbox._bedrock_auth import exception
from sandbox.types import Json, Refusal

_SAID = msgspec.json.decode(Path(__file__).with_name("bedrock_shapes.json").read_bytes())
_SHAPES: Mapping[str, Mapping[str, Any]] = _SAID["shapes"]
ERRORS: Mapping[str, int] = _SAID["errors"]
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "blob": (str,),
    "timestamp": (str, int, float),
}


class Wrong(NamedTuple):
    """What is wrong where; `serial` says that it could not even be read as its type."""

    at: str
    value: Json
    must: str
    serial: bool = False


def check(operation: str, body: Json) -> None:
    """Raises the refusal of a body that is no input of that operation."""
    found = list(_wrong(f"{operation}Request", body, ""))
    if not found:
        return
    unreadable = next((wrong for wrong in found if wrong.serial), None)
    if unreadable is not None:
        raise serialization(f"{unreadable.must} at '{unreadable.at}'")
    count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected"
    raise validation(f"{count}: " + "; ".join(map(_sentence, found)))


def serialization(message: str) -> Refusal:
    return exception("SerializationException", 400, message)


def validation(message: str) -> Refusal:
    return exception("ValidationException", 400, message)


def _sentence(wrong: Wrong) -> str:
    shown = "null" if wrong.value is None else f"'{str(wrong.value)[:80]}'"
    return f"Value {shown} at '{wrong.at}' failed to satisfy constraint: Member must {wrong.must}"


def _wrong(name: str, value: Json, at: str) -> Iterator[Wrong]:
    shape = _SHAPES[name]
    kind = shape["type"]
    if kind == "document":
        return
    readable = isinstance(value, _PLAIN[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not readable:
        yield Wrong(at, value, f"Expected {kind}, got {type(value).__name__}", serial=True)
        return
    if kind == "structure":
        yield from _wrong_members(shape, value, at)
    elif kind == "list":
        yield from (wrong for i, item in enumerate(value) for wrong in _wrong(shape["member"], item, f"{at}.{i}"))
    elif kind == "map":
        for key, item in value.items():
            yield from _wrong(shape["key"], key, f"{at}.{key[:80]}")
            yield from _wrong(shape["value"], item, f"{at}.{key[:80]}")
    yield from _beyond(shape, value, at)


def _wrong_members(shape: Mapping[str, Any], value: Mapping[str, Json], at: str) -> Iterator[Wrong]:
    members = shape["members"]
    said = {name: item for name, item in value.items() if item is not None}
    for name in shape["required"]:
        if name not in said:
            yield Wrong(_join(at, name), None, "not be null")
    if shape.get("union") and len(said) != 1:
        must = f"have exactly one member set, not {', '.join(said) or 'none'}"
        yield Wrong(at, "union", must)
    for name, item in said.items():
        if name not in members:
            yield Wrong(_join(at, name), name, "be known: this field is not in the service model")
        else:
            yield from _wrong(members[name], item, _join(at, name))


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _beyond(shape: Mapping[str, Any], value: Json, at: str) -> Iterator[Wrong]:
    """Limits: of numbers by value, of everything else by length."""
    low, high = shape.get("min"), shape.get("max")
    number = shape["type"] in ("integer", "long", "float", "double")
    size = value if number else _length(shape, value)
    what = "value" if number else "length"
    if size is None or (number and not math.isfinite(size)):
        yield Wrong(at, value, "be readable", serial=True)
        return
    if low is not None and size < low:
        yield Wrong(at, value, f"have {what} greater than or equal to {low}")
    if high is not None and size > high:
        yield Wrong(at, value, f"have {what} less than or equal to {high}")
    if "enum" in shape and value not in shape["enum"]:
        yield Wrong(at, value, f"satisfy enum value set: [{', '.join(shape['enum'])}]")
    if "pattern" in shape and not re.fullmatch(shape["pattern"], value):
        yield Wrong(at, value, f"satisfy regular expression pattern: {shape['pattern']}")


def _length(shape: Mapping[str, Any], value: Json) -> int | None:
    """The length of a text, list, map or blob; None for a blob that is not base64."""
    if shape["type"] == "blob":
        try:
            return len(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            return None
    return len(value) if isinstance(value, str | list | dict) else 0
