"""Every test of the transport that needs an event loop runs on asyncio's own and on uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import trustme
import uvloop

from gateway.transport.client import Client, Origin
from tests.transport.upstreams import ClientOf


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes clients; at the end of the test none of them may have a lease or a waiter left, nor keep a connection."""
    clients: list[Client] = []

    def make(origin: Origin, clock: Callable[[], float] | None = None) -> Client:
        client = Client(origin) if clock is None else Client(origin, clock)
        clients.append(client)
        return client

    yield make
    for client in clients:
        assert (client.leased, client.waiting) == (0, 0)
        await client.aclose()
        assert client.open_connections == 0
