"""One box per test, on ports of the system's choosing."""

from collections.abc import AsyncIterator

import pytest

from sandbox.run import Sandbox


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0) as made:
        yield made
