"""Rows I6 and I7: calls that end in every way leave no memory, no file and no thread behind."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.harness import PATIENCE_S
from tests.redis_server import RedisServer
from tests.soak import clouds, fleet
from tests.soak.load import Client, request

CALLS = int(os.environ.get("ARRIERO_SOAK_CALLS", "20000"))
AT_ONCE = 16
WARM = min(CALLS // 2, 60_000)
"""Calls after which little is new: code, caches, the ring of decisions and the allocator's arenas have grown."""
GROWTH_BYTES = 12_000_000 if CALLS < 200_000 else 4_000_000
"""What the allocator may still do; a million calls may leave a megabyte besides."""


class Process:
    """What the kernel says of one."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    def rss_bytes(self) -> int:
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))


async def calls(port: int, numbers: range, chance: random.Random) -> None:
    """Answered, retried, streamed, refused for their key or their limit, and left in the middle."""
    left = iter(numbers)

    async def caller() -> None:
        client: Client | None = None
        for number in left:
            if client is None or client.lost:
                _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
            key = chance.choice(("soft", "soft", "soft", "hard", "tight", "nobody"))
            asked = asyncio.create_task(client.ask(request(number, key)))
            if chance.random() < 0.05:
                await asyncio.sleep(chance.random() / 200)
                client.close()
            assert await asked in (0, 200, 401, 429, 503)
        if client is not None:
            client.close()

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))


async def until(true: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(PATIENCE_S * 3):
        while not true():  # noqa: ASYNC110  (it is another process)
            await asyncio.sleep(0.05)
    assert true(), what


async def grown(folder: Path) -> tuple[int, int, int]:
    """Bytes, files and threads more after the calls than after the first third of them."""
    redis, gateway, chance = RedisServer(folder / "redis"), fleet.gateways(folder)[0], random.Random(5)
    async with clouds.running(folder) as (_, facts):
        said = {"ledger": "sqlite:///arriero.db", "redis": redis.url, "ample": fleet.AMPLE, "tight_usd": "0.0001"}
        (folder / "arriero.yaml").write_text(fleet.CONFIG.format(**facts, **said))
        await redis.start()
        await gateway.start()
        try:
            process = Process(gateway.pid)
            await calls(gateway.port, range(WARM), chance)
            before = process.rss_bytes(), process.files(), process.threads()
            await calls(gateway.port, range(WARM, CALLS), chance)
            await until(lambda: process.files() <= before[1] + AT_ONCE, "files are left open")
            return process.rss_bytes() - before[0], process.files() - before[1], process.threads() - before[2]
        finally:
            await gateway.stop()
            redis.kill()


@pytest.mark.soak
@pytest.mark.timeout(300 + CALLS // 50)
def test_calls_that_end_in_every_way_leave_nothing_behind(tmp_path: Path):
    size, files, threads = uvloop.run(grown(tmp_path))
    print(f"{CALLS - WARM} calls: {size / 1e6:+.1f} MB, {files:+} files, {threads:+} threads")
    assert size <= GROWTH_BYTES + (CALLS - WARM)
    assert files <= AT_ONCE, "connections to clouds may be kept, nothing else"
    assert threads <= 0
