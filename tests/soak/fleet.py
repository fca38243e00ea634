"""Two gateways as processes, the Redis and the PostgreSQL that they share, and who kills all of them."""

import asyncio
import contextlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from bench.process import free_ports
from tests import postgres, process
from tests.redis_server import RedisServer
from tests.soak.load import Load

CONFIG = """
providers:
  own: {{type: vllm, url: '{vllm_url}', api_key: {vllm_key}, metrics_every_s: 0}}
  spare: {{type: groq, url: '{groq_url}', api_key: {groq_key}}}
keys:
  - {{name: soft, key: key-soft, limits: {ample}, budget: {{usd: 1000, per: total}}}}
  - {{name: hard, key: key-hard, limits: {ample}, budget: {{usd: 1000, per: total, hard: true}}}}
  - {{name: tight, key: key-tight, budget: {{usd: '{tight_usd}', per: total, hard: true}}}}
routes:
  llama:
    deployments:
      - {{account: own, model: meta-llama/Llama-3.1-8B-Instruct, price: {{in: '0.123457', out: '0.456789'}}}}
      - {{account: spare, model: llama-3.1-8b-instant, price: {{in: '0.098765', out: '0.432101'}}}}
    policies: []
    limits: {ample}
attempts: {{retry_budget: 1}}
store: {{ledger: '{ledger}', redis: '{redis}'}}
"""
AMPLE = "{rpm: 100000000, tpm: 1000000000, concurrent: 100000}"


class Victim(Protocol):
    """What is killed and started again."""

    name: str

    async def start(self) -> None: ...

    async def kill(self) -> None: ...


class Gateway:
    """`arriero serve` on a port of its own, always the same. What it says of calls is not kept."""

    def __init__(self, folder: Path, port: int, name: str) -> None:
        self.folder, self.port, self.name = folder, port, name
        self.logs: list[Path] = []
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.logs.append(self.folder / f"{self.name}-{len(self.logs)}.log")
        with self.logs[-1].open("wb") as log:
            self._child = self._launch(log)
        async with asyncio.timeout(process.PATIENCE_S):
            while self._child.poll() is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)
        raise AssertionError(f"{self.name} ended with {self._child.returncode}: {self.logs[-1].read_text()}")

    def _launch(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        argv = [process.ARRIERO, "serve", "--port", str(self.port), "--admin-port", str(self.port + 1)]
        child = subprocess.Popen(argv, cwd=self.folder, env=process.environment(), stderr=subprocess.PIPE)
        quiet = ["grep", "--line-buffered", "-v", '"event":"call"']
        assert child.stderr is not None
        subprocess.Popen(quiet, stdin=child.stderr, stdout=log)
        child.stderr.close()
        return child

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    async def kill(self) -> None:
        """As the kernel does when memory is out: nothing is said to anybody."""
        assert self._child is not None
        self._child.kill()
        await asyncio.to_thread(self._child.wait)

    async def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            await asyncio.to_thread(self._child.wait, process.PATIENCE_S)

    def changes(self) -> list[list[str]]:
        """What it said of Redis, life by life."""
        return [[word for word in map(_event, log.read_text().splitlines()) if word in WORDS] for log in self.logs]


WORDS = ("redis_away", "redis_back")


def _event(line: str) -> str:
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(line)
        return str(found.get("event"))
    return ""


class Redis:
    """Nothing of it is kept when it is killed."""

    def __init__(self, server: RedisServer) -> None:
        self.server, self.name = server, "redis"

    async def start(self) -> None:
        await self.server.start()

    async def kill(self) -> None:
        self.server.kill()


class Database:
    """PostgreSQL: what it confirmed is there when it is back."""

    def __init__(self, server: postgres.Postgres) -> None:
        self.server, self.name = server, "postgresql"

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)


def gateways(folder: Path) -> list[Gateway]:
    port = free_ports(4)
    return [Gateway(folder, port, "a"), Gateway(folder, port + 2, "b")]


async def reap(victims: Sequence[Victim], load: Load, each: int, chance: random.Random) -> Counter[str]:
    """Kills each so many times, at any moment of the load and for any time, also several at once: how often."""
    kills: Counter[str] = Counter()

    async def again_and_again(victim: Victim) -> None:
        for goal in sorted(chance.randrange(load.calls // 20, load.calls * 19 // 20) for _ in range(each)):
            await load.until(goal)
            await victim.kill()
            kills[victim.name] += 1
            await asyncio.sleep(chance.random() ** 3 * 3)
            await victim.start()

    await asyncio.gather(*(again_and_again(victim) for victim in victims))
    return kills
