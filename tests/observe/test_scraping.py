"""Row I11: however many series there are, reading them holds up no call."""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from gateway.serve import settle
from tests.harness import Served, config, route, serving

ROUTES, ACCOUNTS = 40, 8
WINDOWS, TRIES = 5, 3
STALL_S = 0.020


async def longest(during: Callable[[], Awaitable[None]]) -> float:
    """The longest that the event loop was busy with one thing meanwhile, in seconds."""
    gaps = [0.0]

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - began)

    ticking = asyncio.create_task(tick())
    await during()
    ticking.cancel()
    return max(gaps)


async def scraped(served: Served) -> float:
    """Reads all metrics from another process; how long that took."""
    began = time.perf_counter()
    url, quiet = f"{served.admin_url}/metrics", ["-s", "-f", "-o", "/dev/null"]
    child = await asyncio.create_subprocess_exec("curl", *quiet, url)
    assert await child.wait() == 0
    return time.perf_counter() - began


@pytest.fixture
def settled() -> Iterator[None]:
    """The collector and the interpreter as `arriero serve` has them."""
    collected, switched = gc.get_threshold(), sys.getswitchinterval()
    settle()
    yield
    gc.unfreeze()
    gc.set_threshold(*collected)
    sys.setswitchinterval(switched)


@pytest.mark.usefixtures("settled")
async def test_i11_reading_many_metrics_holds_up_no_call() -> None:
    accounts = {f"a{n}": "http://127.0.0.1:9/v1" for n in range(ACCOUNTS)}
    document = config({f"r{n}": route(*accounts) for n in range(ROUTES)}, **accounts)
    async with serving(document) as served:
        assert len(served.metrics()) > 1_000_000
        added = []
        for _ in range(TRIES):  # what else the machine does may spoil some, a busy loop spoils all
            calm, read = [], []
            for _ in range(WINDOWS):
                seconds = [0.0]

                async def scrape(seconds: list[float] = seconds) -> None:
                    seconds[0] = await scraped(served)

                read.append(await longest(scrape))
                calm.append(await longest(lambda seconds=seconds: asyncio.sleep(seconds[0])))
            added.append(statistics.median(read) - statistics.median(calm))
            if added[-1] < STALL_S:
                break
        print(f"{', '.join(f'{one * 1000:.1f} ms' for one in added)} added")
        assert added[-1] < STALL_S
