"""The official SDK against a gateway on the clouds in a box; what it sent and what arrived, side by side."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from sandbox.run import Sandbox
from tests.background import background
from tests.harness import Served

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
PLACES = {
    "vllm": {"model": LLAMA},
    "groq": {"model": "llama-3.1-8b-instant"},
    "azure": {"model": "Meta-Llama-3.1-8B-Instruct"},
    "vertex": {"model": "meta/llama-3.1-8b-instruct-maas"},
    "databricks": {"model": "databricks-meta-llama-3-1-8b-instruct"},
    "nim": {"model": "meta/llama-3.1-8b-instruct"},
    "openai": {"model": "gpt-4o", "features": ["+vision"]},
}
"""A model of each cloud; the route `on-groq` leads to groq alone, whatever it can or cannot do."""


def routes() -> dict[str, Any]:
    alone = {
        f"on-{cloud}": {"deployments": [{"account": cloud, "price": {"in": 1, "out": 2}, **fields}], "policies": []}
        for cloud, fields in PLACES.items()
    }
    return {
        **alone,
        "vectors": {
            "deployments": [{"account": "openai", "model": "text-embedding-3-small", "features": ["embeddings"]}]
        },
        "llama-3.1-8b": {"aliases": ["gpt-4o", "my-org/llama:latest"], "deployments": ["vllm", "groq"]},
        "pair": {"deployments": [{"account": name, **PLACES[name]} for name in ("nim", "vertex")], "policies": []},
        "tools-nowhere": {"deployments": [{"account": "vllm", "model": LLAMA, "features": ["chat"]}]},
    }


KEYS = [
    {"name": "team", "key": "sk-team"},
    {"name": "narrow", "key": "sk-narrow", "routes": ["on-vllm"], "labels": {"region": "eu"}},
]


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(port=0, clouds=list(PLACES)) as found:
        yield found


@pytest.fixture(scope="session")
def gateway(box: Sandbox) -> Iterator[Served]:
    accounts = {name: server.cloud.account(server.origin()) for name, server in box.servers.items()}
    with background({"providers": accounts, "routes": routes(), "keys": KEYS}) as served:
        yield served


class Wire:
    """The SDK's client, and both ends of what went through the gateway."""

    def __init__(self, gateway: Served, box: Sandbox) -> None:
        self.gateway, self.box = gateway, box
        self.requests: list[bytes] = []
        hooks = {"request": [lambda request: self.requests.append(request.read())]}
        self.client = openai.OpenAI(
            base_url=gateway.base_url,
            api_key="sk-team",
            max_retries=0,
            timeout=30,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    @property
    def sent(self) -> str:
        """The body that the SDK sent last."""
        return self.requests[-1].decode()

    @property
    def arrived(self) -> str:
        """The body that the cloud got last, as it stands in the cloud's own record."""
        return str(self.box.calls()[-1]["body"])

    @property
    def call(self) -> dict[str, Any]:
        """The cloud's own record of the last attempt."""
        return self.box.calls()[-1]


@pytest.fixture
def wire(gateway: Served, box: Sandbox) -> Iterator[Wire]:
    box.reset()
    found = Wire(gateway, box)
    with found.client:
        yield found
    box.reset()
