"""Calls and deployments for tests of Oracle's adapter: made from a body as the gateway makes them."""

import json
from typing import Any

from hypothesis import HealthCheck, settings

from gateway.peek import peek
from gateway.types import Call, Deployment, Price, Tenant
from providers._emulation import fields_of
from providers._oci_request import Place, Translated, translate
from sandbox import _oci_demo as demo

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For Hypothesis on a busy machine."""
COMPARTMENT = "ocid1.compartment.oc1..c"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "".join(demo.PRIVATE_KEY[at : at + 64] + "\n" for at in range(0, len(demo.PRIVATE_KEY), 64))
    + "-----END PRIVATE KEY-----\n"
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "r", "messages": HELLO, **fields}, separators=(",", ":")).encode()


def call(raw: bytes | None = None, **fields: Any) -> Call:
    """A call as the endpoint makes it."""
    raw = body(**fields) if raw is None else raw
    found = peek(raw, "chat/completions")
    return Call(
        id="req_1",
        tenant=Tenant("t"),
        route="r",
        model="r",
        endpoint="chat/completions",
        stream=found.stream,
        features=found.features,
        choices=found.choices,
        prompt_tokens=found.prompt_tokens,
        max_output_tokens=found.max_output_tokens,
        include_usage=found.include_usage,
        body=raw,
        fields=found.fields,
    )


def deployment(**fields: Any) -> Deployment:
    known: dict[str, Any] = {
        "name": "d",
        "account": "oci",
        "cloud": "oci",
        "model": "meta.llama-3.3-70b-instruct",
        "max_output_tokens": 4000,
        "context_tokens": 128_000,
        "price": Price(720_000_000, 720_000_000),
    }
    return Deployment(**(known | fields))


def translated(
    raw: bytes | None = None, endpoint: str | None = None, model: str | None = None, **fields: Any
) -> Translated:
    at = deployment(**({"model": model} if model else {}))
    asked_ = call(raw, **fields)
    return translate(fields_of(asked_), asked_, at, Place(COMPARTMENT, endpoint))


def asked(**fields: Any) -> dict[str, Any]:
    """The chatRequest that a body becomes."""
    found: dict[str, Any] = json.loads(translated(**fields).body)["chatRequest"]
    return found
