"""The load of streams: N at a time, begun one after the other, for so many seconds. Prints one line of JSON when the
last one has begun, and one with what came when the time is over."""

import asyncio
import json
import sys
from typing import cast

import uvloop

from bench.process import chat

SPREAD_S = 0.002
"""Between two beginnings, so that the streams do not tick together."""
BEGIN_S = 20.0


class Load:
    """What all clients counted."""

    def __init__(self, streams: int) -> None:
        self.waiting = streams
        self.begun = asyncio.Event()
        self.events = self.whole = self.failed = 0

    def first_content(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.begun.set()


class Client(asyncio.Protocol):
    """One connection that asks for one stream after the other."""

    def __init__(self, load: Load, request: bytes) -> None:
        self._load, self._request = load, request
        self._heard = False
        self._tail = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        load = self._load
        if not self._heard:
            self._heard = True
            load.first_content()
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            load.failed += 1
        load.events += data.count(b"data: ")
        tail = self._tail = self._tail[-32:] + data[-32:]
        if tail.endswith(b"0\r\n\r\n"):
            load.whole += b"[DONE]" in tail
            load.failed += b"[DONE]" not in tail
            self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.failed += 1


async def run(port: int, key: str, model: str, streams: int, seconds: float) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True})
    request = chat(body.encode(), key)
    loop, load = asyncio.get_running_loop(), Load(streams)
    for _ in range(streams):
        await loop.create_connection(lambda: Client(load, request), "127.0.0.1", port)
        await asyncio.sleep(SPREAD_S)
    async with asyncio.timeout(BEGIN_S):
        await load.begun.wait()
    print(json.dumps({"begun": streams}), flush=True)
    before = load.events
    await asyncio.sleep(seconds)
    events = load.events - before
    print(json.dumps({"events": events, "whole": load.whole, "failed": load.failed}), flush=True)


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
