"""Makes a value that is valid for a JSON Schema; nothing here checks one."""

from collections.abc import Mapping
from typing import Any

from sandbox.types import Json

_DEEP = 12  # beyond it only what is required is made
_TOO_DEEP = 60
_FORMATS = {
    "date-time": "2026-11-22T12:00:00Z",
    "date": "2026-11-22",
    "time": "12:00:00Z",
    "email": "llama@example.com",
    "uri": "https://example.com/llama",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
    "duration": "PT1H",
}


def value_for(schema: Json, key: int) -> Json:
    """A value valid for that schema, the same for the same key. Patterns and `not` are beyond it (see `_text`)."""
    return _Maker(schema, key).make(schema, 0)


class _Maker:
    def __init__(self, root: Json, key: int) -> None:
        self.root, self.key, self.count = root, key, 0

    def _number(self) -> int:
        self.count += 1
        return (self.key >> (self.count % 48)) + self.count

    def make(self, schema: Json, depth: int) -> Json:
        if schema is True or not isinstance(schema, Mapping) or depth > _TOO_DEEP:
            return {"answer": "sandbox"} if depth == 0 else "sandbox"
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self._number() % len(schema["enum"])]
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Json:
        match _kind(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._text(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._real(schema)
            case "boolean":
                return self._number() % 2 == 0
            case _:
                return None

    def _flat(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema with its references, unions and conjunctions resolved into one."""
        for _ in range(_TOO_DEEP):
            if "$ref" in schema:
                rest = {k: v for k, v in schema.items() if k != "$ref"}
                schema = _merged(self._target(schema["$ref"]), rest)
            elif "allOf" in schema:
                rest = {k: v for k, v in schema.items() if k != "allOf"}
                for part in schema["allOf"]:
                    rest = _merged(self._flat(part, depth), rest) if isinstance(part, Mapping) else rest
                schema = rest
            elif union := next((word for word in ("anyOf", "oneOf") if schema.get(word)), ""):
                rest = {k: v for k, v in schema.items() if k != union}
                part = self._branch(schema[union], depth)
                schema = _merged(part, rest) if isinstance(part, Mapping) else rest
            else:
                break
        return schema

    def _branch(self, branches: list[Json], depth: int) -> Json:
        """The first branch; deep down the simplest, so that a recursive schema comes to an end."""
        if depth < _DEEP:
            return branches[0]
        plain = [
            b for b in branches if isinstance(b, Mapping) and "$ref" not in b and _kind(b) not in ("object", "array")
        ]
        return (plain or branches)[0]

    def _target(self, reference: str) -> Mapping[str, Any]:
        node = self.root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            node = node[part.replace("~1", "/").replace("~0", "~")] if isinstance(node, Mapping) else {}
        return node if isinstance(node, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> Json:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        names = [n for n in properties if n in required or depth < _DEEP // 4]
        names = names[: schema.get("maxProperties", len(names))] if not required else names
        out = {name: self.make(properties[name], depth + 1) for name in names if properties[name] is not False}
        extra = schema.get("additionalProperties", True)
        for name in required:
            if name not in out:
                out[name] = self.make(extra if isinstance(extra, Mapping) else {"type": "string"}, depth + 1)
        while len(out) < schema.get("minProperties", 0):
            out[f"extra{len(out)}"] = self.make(extra if isinstance(extra, Mapping) else {"type": "string"}, depth + 1)
        return out

    def _array(self, schema: Mapping[str, Any], depth: int) -> Json:
        first = [self.make(item, depth + 1) for item in schema.get("prefixItems") or ()]
        items = schema.get("items", {})
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        wanted = max(least, 0 if depth >= _DEEP // 2 else 1) if items is not False else len(first)
        wanted = min(wanted, most) if most is not None else wanted
        for _ in range(4 * wanted + 4):
            if len(first) >= wanted:
                break
            made = self.make(items or {"type": "string"}, depth + 1)
            if not (schema.get("uniqueItems") and made in first):
                first.append(made)
        return first[:most] if most is not None else first

    def _text(self, schema: Mapping[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = f"value {self._number() % 10_000} 🦙"
        least, most = schema.get("minLength", 0), schema.get("maxLength", 1 << 30)
        return text.ljust(least, "x")[:most]

    def _integer(self, schema: Mapping[str, Any]) -> int:
        low, high = _bounds(schema)
        step = int(schema.get("multipleOf", 1)) or 1
        smallest = -(-_up(low) // step) * step
        room = (int(high // 1) - smallest) // step if high is not None else 100
        return smallest + step * (self._number() % (min(room, 100) + 1) if room > 0 else 0)

    def _real(self, schema: Mapping[str, Any]) -> float | int:
        low, high = _bounds(schema)
        if schema.get("multipleOf") or high is None:
            step = float(schema.get("multipleOf", 0.5))
            return -(-low // step) * step + step
        if "exclusiveMinimum" in schema or "exclusiveMaximum" in schema:
            return (low + high) / 2
        return low


def _kind(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = next((t for t in declared if t != "null"), "null")
    if declared:
        return str(declared)
    if "items" in schema or "prefixItems" in schema or "minItems" in schema:
        return "array"
    if any(word in schema for word in ("minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum")):
        return "number"
    if any(word in schema for word in ("minLength", "maxLength", "format", "pattern")):
        return "string"
    return "object"


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float | None]:
    """The lowest and the highest allowed; for a lone upper bound the lowest is a hundred below it."""
    whole = schema.get("type") == "integer"
    step = 1 if whole else 0
    high = schema.get("maximum")
    if (limit := schema.get("exclusiveMaximum")) is not None:
        high = limit - step if high is None else min(high, limit - step)
    low = schema.get("minimum")
    if (limit := schema.get("exclusiveMinimum")) is not None:
        low = limit + step if low is None else max(low, limit + step)
    if low is None:
        low = 0 if high is None or high > 0 else high - 100
    return low, high


def _up(number: float) -> int:
    return -int(-number // 1)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas in one; properties and required add up."""
    out = {**first, **second}
    if "properties" in first and "properties" in second:
        out["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        out["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return out
