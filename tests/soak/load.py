"""Clients that ask once each, as fast as they are answered: raw sockets, call after call on one connection."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import cast

AT_ONCE = 32
BROKEN = 0
"""In the place of a status: the connection ended before the answer did."""
KEYS = ("tight", "hard", "hard", "hard", "hard", *("soft",) * 15)
"""Whose call is which, by its number."""


def key_of(number: int) -> str:
    return KEYS[number // 2 % len(KEYS)]


def request(number: int, key: str) -> bytes:
    """Every second call is a stream."""
    stream = ',"stream":true' if number % 2 else ""
    said = f'{{"model":"llama","max_tokens":4,"messages":[{{"role":"user","content":"call {number} ."}}]{stream}}}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.test\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer key-{key}\r\nx-request-id: n{number}\r\nx-arriero-timeout-s: 30\r\n"
        f"content-length: {len(said)}\r\n\r\n"
    )
    return (head + said).encode()


class Client(asyncio.Protocol):
    """One connection. An answer is whole by its own framing; a stream must have said [DONE] besides."""

    def __init__(self) -> None:
        self._came = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._tell(BROKEN)

    def data_received(self, data: bytes) -> None:
        self._came += data
        head = self._came.find(b"\r\n\r\n") + 4
        if head > 3 and self._whole(head):
            status = int(self._came[9:12])
            if b"text/event-stream" in self._came[:head] and b"data: [DONE]" not in self._came:
                status = BROKEN
            self._came.clear()
            self._tell(status)

    def _whole(self, head: int) -> bool:
        at = self._came.find(b"content-length: ", 0, head)
        if at < 0:
            return self._came.endswith(b"\r\n0\r\n\r\n")
        end = self._came.index(b"\r\n", at)
        return len(self._came) >= head + int(self._came[at + 16 : end])

    def _tell(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    async def ask(self, data: bytes) -> int:
        """The status of the answer; BROKEN when it did not come, or not whole."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        if self.lost:
            return BROKEN
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Load:
    """So many calls at the gateways in turn. `answered` are those whose whole answer of 200 came."""

    def __init__(self, ports: list[int], calls: int) -> None:
        self._ports, self.calls = ports, calls
        self.sent = 0
        self.answered = bytearray(calls)
        self.statuses: dict[str, Counter[int]] = {key: Counter() for key in dict.fromkeys(KEYS)}

    async def run(self) -> None:
        numbers = iter(range(self.calls))
        await asyncio.gather(*(self._client(self._ports[i % len(self._ports)], numbers) for i in range(AT_ONCE)))

    async def _client(self, port: int, numbers: Iterator[int]) -> None:
        client = await self._connected(port)
        for number in numbers:
            if client.lost:
                client = await self._connected(port)
            self.sent += 1
            key = key_of(number)
            status = await client.ask(request(number, key))
            self.statuses[key][status] += 1
            self.answered[number] = status == 200
        client.close()

    async def _connected(self, port: int) -> Client:
        while True:
            try:
                _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
                return client
            except OSError:
                await asyncio.sleep(0.02)  # it is being started again

    async def until(self, goal: int) -> None:
        """Waits until so many calls were sent."""
        while self.sent < goal:  # noqa: ASYNC110  (it may take an hour)
            await asyncio.sleep(0.005)
