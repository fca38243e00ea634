"""`arriero schema`: JSON Schema of the config, made from the same classes that decode it."""

from typing import Any

import msgspec

from gateway import plugins
from gateway.config import Config, DeploymentConfig, KeyConfig, RouteConfig
from gateway.loading import SECTIONS
from gateway.secret import Secret

TITLE = "Arriero's config"


def schema() -> dict[str, Any]:
    """Draft 2020-12."""
    providers = {name: plugins.load("providers", name) for name in plugins.names("providers")}
    policies = {name: plugins.load("policies", name) for name in plugins.names("policies")}
    types = [*SECTIONS.values(), KeyConfig, RouteConfig, DeploymentConfig, *providers.values(), *policies.values()]
    _, definitions = msgspec.json.schema_components(types, schema_hook=_special, ref_template="#/$defs/{name}")
    for name, kind in providers.items():
        definition = definitions[kind.__name__]
        definition["properties"] = {"type": {"const": name}, **definition["properties"]}
        definition["required"] = ["type", *definition.get("required", ())]
    route = definitions["RouteConfig"]["properties"]
    route["deployments"]["items"] = {"anyOf": [{"type": "string"}, _ref(DeploymentConfig)]}
    route["policies"] = {"type": "array", "items": {"anyOf": [_policy(name, kind) for name, kind in policies.items()]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "description": Config.__doc__,
        "type": "object",
        "additionalProperties": False,
        "required": ["providers", "routes"],
        "properties": {
            "providers": _named({"anyOf": [_ref(kind) for kind in providers.values()]}),
            "routes": _named(_ref(RouteConfig)),
            "keys": {"type": "array", "items": _ref(KeyConfig)},
            **{name: _ref(kind) for name, kind in SECTIONS.items()},
        },
        "$defs": definitions,
    }


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _named(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "additionalProperties": value}


def _policy(name: str, kind: type) -> dict[str, Any]:
    """A word, or the word with its options."""
    options: dict[str, Any] = {"type": "object"} if hasattr(kind, "from_options") else _ref(kind)
    with_options = {"type": "object", "properties": {name: options}, "required": [name], "additionalProperties": False}
    return {"anyOf": [{"const": name}, with_options]}


def _special(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string", "description": "env:NAME, file:/path, or the text itself"}
    raise NotImplementedError(kind)
