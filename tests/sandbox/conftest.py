"""One box per test on ports of the system's choosing; what is near the socket runs on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from sandbox.run import Sandbox

NEAR_THE_SOCKET = ("test_faults.py", "test_serving.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return both if item.path.name in NEAR_THE_SOCKET else {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0) as made:
        yield made
