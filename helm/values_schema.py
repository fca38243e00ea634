"""Writes the chart's values.schema.json: the config as `arriero schema` has it, all else as values.yaml shows it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.config.schema import schema

CHART = Path(__file__).parent / "arriero"
FREE = {"type": "object"}
CHOICES: Mapping[str, Any] = {
    "autoscaling.metric": {"enum": ["cpu", "in_flight", "loop_lag"]},
    "externalSecrets.as": {"enum": ["env", "files"]},
    "externalSecrets.storeRef.kind": {"enum": ["SecretStore", "ClusterSecretStore"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.nodePort": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "replicaCount": {"type": "integer", "minimum": 0},
    "preStopSeconds": {"type": "integer", "minimum": 0},
    "runAsUser": {"type": ["integer", "null"], "minimum": 1},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "resources": FREE,
    "redis.resources": FREE,
    "tests.resources": FREE,
    "vllm.resources": FREE,
    "metrics.dashboards.labels": FREE,
    "metrics.dashboards.annotations": FREE,
}
"""What a default does not tell."""


GO: Mapping[str, str] = {
    "(?!\\n)$": "$",
    "((?![/?#@])[!-~])": '[!"$-.0->A-~]',
    "((?![?#])[!-~])": '[!"$->@-~]',
}
"""Go's regular expressions know no look-ahead; `helm lint` refuses a pattern that this misses."""


def shape(value: object, path: str) -> dict[str, Any]:
    """The schema of a value by its default: words that values.yaml does not have are refused."""
    if path in CHOICES:
        return dict(CHOICES[path])
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
        case dict() if value:
            words = {word: shape(part, f"{path}.{word}" if path else word) for word, part in value.items()}
            return {"type": "object", "additionalProperties": False, "properties": words}
        case _:
            return FREE


def plain(value: Any, word: str = "") -> Any:
    """A schema whose patterns Go can read, and whose lists of words stand in one order always."""
    if isinstance(value, dict):
        return {word: plain(part, word) for word, part in value.items()}
    if isinstance(value, list):
        return sorted(value, key=str) if word in ("enum", "default") else [plain(part) for part in value]
    for python, go in GO.items() if isinstance(value, str) else ():
        value = value.replace(python, go)
    return value


def values_schema() -> dict[str, Any]:
    """The whole of it."""
    config = plain(schema())
    definitions = config.pop("$defs")
    draft = config.pop("$schema")
    found = shape(yaml.safe_load((CHART / "values.yaml").read_text()), "")
    found["properties"]["config"] = {
        "type": "object",
        "if": {"minProperties": 1},
        "then": {"$ref": "#/$defs/TheConfig"},
    }
    return {"$schema": draft, **found, "$defs": {**definitions, "TheConfig": config}}


def text() -> str:
    """As the file has it."""
    return json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(text())
