"""JSON Schema as Oracle takes it: references written out in place, optional arguments made plain. Pure.

Rule 1. What a schema allows is not changed, but for `null` as one of two kinds of a tool's argument, which is told.
Rule 2. What cannot be written out (a schema within itself, a reference to elsewhere) is refused, never sent half.

Source: Oracle refuses `$ref`, `$defs` and `anyOf` in tools (litellm 1.109.1, llms/oci/common_utils.py, comment)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

MAX_NODES = 20_000
"""A few references to references can grow without end; no honest schema is as large as this."""

_UNTOUCHED = frozenset({"const", "default", "enum", "example", "examples", "required"})
"""Keywords whose values are data, not schemas."""
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""Keywords whose values are schemas by name."""
_DEFINITIONS = frozenset({"$defs", "definitions"})

_decode = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode())).decode  # 0.10 stays 0.10
_encode = msgspec.json.Encoder().encode


class SchemaError(ValueError):
    """A schema that cannot be written out; the message says why."""


class Plain(NamedTuple):
    """A schema without references; `nullable` says that a `null` was left out somewhere."""

    schema: bytes
    nullable: bool = False


def plain(raw: bytes, *, unions: bool) -> Plain:
    """The schema with its references in place; unless `unions`, a kind "or null" is that kind. Raises SchemaError."""
    if b"$ref" not in raw and (unions or (b'"anyOf"' not in raw and b'"oneOf"' not in raw)):
        return Plain(raw)
    writer = _Writer(_decode(raw), unions)
    return Plain(_encode(writer.schema(writer.root, ())), writer.nullable)


class _Writer:
    """Writes one schema out. Owns how much it wrote."""

    def __init__(self, root: Any, unions: bool) -> None:
        self.root, self.unions = root, unions
        self.nodes, self.nullable = 0, False

    def schema(self, node: Any, within: tuple[str, ...]) -> Any:
        """A schema, `within` the references that led to it."""
        if not isinstance(node, dict):
            return node  # true or false
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise SchemaError(f"it has more than {MAX_NODES} parts when its references are written out")
        reference = node.get("$ref")
        if isinstance(reference, str):
            return self._referred(node, reference, within)
        node = node if self.unions else self._without_null(node)
        if isinstance(node.get("$ref"), str):
            return self.schema(node, within)
        return {key: self._value(key, value, within) for key, value in node.items() if key not in _DEFINITIONS}

    def _value(self, key: str, value: Any, within: tuple[str, ...]) -> Any:
        if key in _UNTOUCHED:
            return value
        if key in _NAMED and isinstance(value, dict):
            return {name: self.schema(inner, within) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.schema(inner, within) for inner in value]
        return self.schema(value, within)

    def _referred(self, node: Mapping[str, Any], reference: str, within: tuple[str, ...]) -> Any:
        """What a reference stands for, with what stands beside it on top."""
        if reference in within:
            raise SchemaError(f"'{reference[:64]}' refers to itself, which cannot be written out")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        target = self._target(reference)
        merged = {**target, **beside} if isinstance(target, dict) else target
        return self.schema(merged, (*within, reference))

    def _target(self, reference: str) -> Any:
        """What stands at a JSON pointer (RFC 6901) of the same document."""
        if not reference.startswith("#"):
            raise SchemaError(f"'{reference[:64]}' refers to another document")
        found = self.root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise SchemaError(f"'{reference[:64]}' refers to nothing")
        return found

    def _without_null(self, node: dict[str, Any]) -> dict[str, Any]:
        """`anyOf` or `oneOf` of one kind and null as that kind; other unions stay as they are."""
        for word in ("anyOf", "oneOf"):
            kinds = node.get(word)
            if not isinstance(kinds, list):
                continue
            left = [kind for kind in kinds if kind != {"type": "null"}]
            if len(left) == 1 and len(kinds) == 2 and isinstance(left[0], dict):
                self.nullable = True
                beside = {key: value for key, value in node.items() if key != word}
                if beside.get("default", ...) is None:
                    del beside["default"]
                return {**left[0], **beside}
        return node
