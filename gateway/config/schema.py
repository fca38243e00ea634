"""`arriero schema`: JSON Schema of the config, made from the same classes that decode it."""

import inspect
from typing import Any

import msgspec

from gateway.account import URL_PATTERN
from gateway.config import plugins
from gateway.config.document import (
    NAME_PATTERN,
    NAME_RULE,
    Config,
    DeploymentConfig,
    KeyConfig,
    RouteConfig,
    TeamConfig,
)
from gateway.config.loading import SECTIONS
from gateway.secret import Secret

TITLE = "Arriero's config"
AMOUNT = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?([eE][+-]?\d+)?$"}]}
"""An exact amount: text keeps every digit where an editor would round a number."""


def schema() -> dict[str, Any]:
    """Draft 2020-12."""
    providers = {name: plugins.load("providers", name) for name in plugins.names("providers")}
    policies = {name: plugins.load("policies", name) for name in plugins.names("policies")}
    types = [
        *SECTIONS.values(),
        KeyConfig,
        TeamConfig,
        RouteConfig,
        DeploymentConfig,
        *providers.values(),
        *policies.values(),
    ]
    _, found = msgspec.json.schema_components(types, schema_hook=_special, ref_template="#/$defs/{name}")
    definitions = _plain(found)
    for name, kind in providers.items():
        definition = definitions[kind.__name__]
        definition["properties"] = {"type": {"const": name}, **definition["properties"]}
        definition["properties"]["url"]["pattern"] = URL_PATTERN
        definition["required"] = ["type", *definition.get("required", ())]
    route = definitions["RouteConfig"]["properties"]
    route["deployments"] |= {"items": {"anyOf": [{"type": "string"}, _ref(DeploymentConfig)]}, "minItems": 1}
    one_of = [_policy(name, kind) for name, kind in policies.items()]
    route["policies"] = {"anyOf": [{"type": "array", "items": {"anyOf": one_of}}, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "description": inspect.cleandoc(Config.__doc__ or ""),
        "type": "object",
        "additionalProperties": False,
        "required": ["providers", "routes"],
        "properties": {
            "providers": _named({"anyOf": [_ref(kind) for kind in providers.values()]}),
            "routes": _named(_ref(RouteConfig)),
            "keys": {"type": ["array", "null"], "items": _ref(KeyConfig)},
            "teams": {"type": ["array", "null"], "items": _ref(TeamConfig)},
            **{name: {"anyOf": [_ref(kind), {"type": "null"}]} for name, kind in SECTIONS.items()},
        },
        "$defs": definitions,
    }


def _plain(value: Any) -> Any:
    """Descriptions without the indentation of the source, decimals as people write them."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.get("format") == "decimal":
        return {**AMOUNT, **{word: value[word] for word in ("default", "description") if word in value}}
    return {
        word: inspect.cleandoc(part) if word == "description" and isinstance(part, str) else _plain(part)
        for word, part in value.items()
    }


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _named(value: dict[str, Any]) -> dict[str, Any]:
    names = {"pattern": NAME_PATTERN, "description": NAME_RULE}
    return {"type": "object", "minProperties": 1, "propertyNames": names, "additionalProperties": value}


def _policy(name: str, kind: type) -> dict[str, Any]:
    """A word, or the word with its options."""
    options = {"type": "object"} if hasattr(kind, "from_options") else _ref(kind)
    with_options = {
        "type": "object",
        "properties": {name: {"anyOf": [options, {"type": "null"}]}},
        "required": [name],
        "additionalProperties": False,
    }
    return {"anyOf": [{"const": name}, with_options]}


def _special(kind: type) -> dict[str, Any]:
    if issubclass(kind, Secret):
        return {"type": "string", "description": "env:NAME, file:/path, or the text itself"}
    raise NotImplementedError(kind)
