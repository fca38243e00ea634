"""Clouds whose speed, faults and output a test sets, and a client of many calls; they turn the clock themselves."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from tests.harness import STREAM_HEAD, Clock, Connection, Served, chunk, delta, json_answer, serving, upstream

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
PATIENT = {"connect_s": 30.0}
"""A machine that is busy for a second is no fault of a cloud's."""


class Cloud:
    """One upstream. `ttft_s` and `tpot_s` pass on the test's clock, not on the wall's. Counts every attempt it gets.

    `heard` is set once the client has the head of its answer: the further tokens of a stream come after that."""

    def __init__(self, clock: Clock, ttft_s: float = 0.1, tpot_s: float = 0.001, output_tokens: int = 10) -> None:
        self.clock, self.ttft_s, self.tpot_s, self.output_tokens = clock, ttft_s, tpot_s, output_tokens
        self.prompt_tokens = 100
        self.attempts = 0
        self.served = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fault_share = 0.0
        self.dice = random.Random(7)
        self.heard = asyncio.Event()
        self.url = ""

    async def script(self, connection: Connection) -> None:
        while request := await connection.request():
            self.attempts += 1
            body = json.loads(request.partition(b"\r\n\r\n")[2])
            if self.status != 200:
                self.clock.advance(0.001)
                await connection.send(json_answer({"error": {"message": "no"}}, self.status, self.headers))
            elif self.dice.random() < self.fault_share:
                if self.dice.random() < 0.5:
                    connection.reset()
                    return
                await connection.send(json_answer({"error": {"message": "broken"}}, 500))
            else:
                self.served += 1
                await (self._stream(connection) if body.get("stream") else self._plain(connection))

    def _usage(self) -> Mapping[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        }

    async def _plain(self, connection: Connection) -> None:
        self.clock.advance(self.ttft_s + self.tpot_s * self.output_tokens)
        message = {"role": "assistant", "content": "hello"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
        await connection.send(json_answer({**body, "usage": self._usage()}, headers=self.headers))

    async def _stream(self, connection: Connection) -> None:
        self.clock.advance(self.ttft_s)
        await connection.send(STREAM_HEAD + chunk(delta("a")))
        await self.heard.wait()
        self.clock.advance(self.tpot_s * (self.output_tokens - 1))
        last = delta(None, "stop") + b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(self._usage()).encode()
        await connection.send(chunk(last + b"data: [DONE]\n\n") + chunk(b""))


@contextlib.asynccontextmanager
async def clouds(count: Mapping[str, Cloud]) -> AsyncIterator[None]:
    """Opens the clouds and fills in their URLs."""
    async with contextlib.AsyncExitStack() as stack:
        for cloud in count.values():
            cloud.url = (await stack.enter_async_context(upstream(cloud.script))).url
        yield


class Bench:
    """Clouds, a gateway with one route over them, and a client on one kept connection."""

    def __init__(self, served: Served, found: Mapping[str, Cloud], clock: Clock) -> None:
        self.served, self.clouds, self.clock = served, found, clock
        self.heard = asyncio.Event()
        for cloud in found.values():
            cloud.heard = self.heard
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.served.port)

    async def call(
        self,
        *,
        model: str = "llama",
        stream: bool = False,
        prompt: str = "hi",
        headers: Mapping[str, str] | None = None,
        path: str = "chat/completions",
        **fields: Any,
    ) -> tuple[int, dict[str, str]]:
        """One call, read to its end: status and headers."""
        body = json.dumps(
            {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream, **fields}
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body.encode())}\r\n\r\n"
        self.heard.clear()
        self._writer.write(head.encode() + body.encode())
        raw = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.heard.set()
        status = int(raw.split(" ", 2)[1])
        found = dict(line.lower().split(": ", 1) for line in raw.split("\r\n")[1:] if ": " in line)
        if "content-length" in found:
            await self._reader.readexactly(int(found["content-length"]))
        else:
            while (size := int(await self._reader.readuntil(b"\r\n"), 16)) > 0:
                await self._reader.readexactly(size + 2)
            await self._reader.readexactly(2)
        if found.get("connection") == "close":
            self._writer.close()
            await self.connect()
        return status, found

    async def calls(self, count: int, **fields: Any) -> Counter[str]:
        """So many calls, one after the other: which deployment answered how many."""
        found: Counter[str] = Counter()
        for _ in range(count):
            status, headers = await self.call(**fields)
            found[headers["x-arriero-deployment"] if status == 200 else str(status)] += 1
        return found

    def attempts(self) -> dict[str, int]:
        return {name: cloud.attempts for name, cloud in self.clouds.items()}

    def forget(self) -> None:
        """Counts from zero again."""
        for cloud in self.clouds.values():
            cloud.attempts = cloud.served = 0

    async def decision(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """What the admin port tells of the decision that an answer names."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.served.admin_port)
        path = f"/admin/decisions/{headers['x-arriero-decision']}"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        raw = await reader.read()
        writer.close()
        found: dict[str, Any] = json.loads(raw.partition(b"\r\n\r\n")[2])
        return found


@contextlib.asynccontextmanager
async def bench(
    found: Mapping[str, Cloud],
    policies: Sequence[Any],
    clock: Clock,
    deployments: Mapping[str, Mapping[str, Any]] | None = None,
    accounts: Mapping[str, Mapping[str, Any]] | None = None,
    wall: Any = None,
) -> AsyncIterator[Bench]:
    """A gateway whose route `llama` is over these clouds, each with what `deployments` says of it."""
    async with clouds(found):
        providers = {
            name: {
                "type": "openai",
                "url": cloud.url,
                "api_key": f"key-{name}",
                "timeouts": PATIENT,
                **(accounts or {}).get(name, {}),
            }
            for name, cloud in found.items()
        }
        lines = [{"account": name, "model": "m", **(deployments or {}).get(name, {})} for name in found]
        config = {"providers": providers, "routes": {"llama": {"deployments": lines, "policies": list(policies)}}}
        async with serving(config, clock, wall) as served:
            made = Bench(served, found, clock)
            await made.connect()
            yield made
