"""Calls, deployments and requests as the tests of Bedrock need them."""

import json
from typing import Any

from gateway.peek import peek
from gateway.types import Call, Deployment, Missing, Tenant
from providers._bedrock_request import converse, encoded
from providers._emulation import Fields, Word, fields_of
from providers.bedrock import EMULATES, USUAL_FEATURES

USER = {"role": "user", "content": "Hello"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def call(body: bytes | None = None, **fields: Any) -> Call:
    """A chat call as the gateway makes it of a body."""
    if body is None:
        body = json.dumps({"model": "r", "messages": [USER], **fields}).encode()
    found = peek(body, "chat/completions")
    return Call(
        id="req_1",
        tenant=Tenant("t"),
        route="r",
        model=found.model,
        endpoint="chat/completions",
        stream=found.stream,
        features=found.features,
        stop_count=found.stop_count,
        choices=found.choices,
        include_usage=found.include_usage,
        body=body,
        fields=found.fields,
    )


def deployment(*features: str, missing: Missing = "emulate", **fields: Any) -> Deployment:
    """A Llama at Bedrock, with more features where they are named."""
    said = {
        "features": USUAL_FEATURES | set(features),
        "emulates": EMULATES,
        "missing": missing,
        "model": "m",
        **fields,
    }
    return Deployment(name="d", account="a", cloud="bedrock", **said)


def mapped(missing: Missing = "emulate", body: bytes | None = None, **fields: Any) -> tuple[Any, dict[str, Word]]:
    """The Converse request of a chat request, and what it could not do as asked."""
    return mapped_at(deployment(missing=missing), body, **fields)


def mapped_at(at: Deployment, body: bytes | None = None, **fields: Any) -> tuple[Any, dict[str, Word]]:
    """The same at a deployment."""
    degraded: dict[str, Word] = {}
    found: Fields = fields_of(call(body, **fields))
    return json.loads(encoded(converse(found, at, degraded))), degraded
