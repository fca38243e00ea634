"""Load on a gateway from a client's side: short calls at a steady rate and streams held open; who failed, who was cut.

As OpenAI's own SDKs do, a call whose connection was refused is made again, twice; nothing else is."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

AGAIN_AFTER_S = (0.5, 1.0)
"""openai-python's max_retries and INITIAL_RETRY_DELAY, without its jitter."""
PATIENCE_S = 120.0
NO_CONNECTION = "no connection"


@dataclass
class Seen:
    """What clients saw. `failed` and `cut` say how each of them went."""

    calls: int = 0
    streams: int = 0
    again: int = 0
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"{self.calls} calls, {self.streams} streams, {self.again} connected again; "
            f"{len(self.failed)} failed {dict(Counter(self.failed))}, {len(self.cut)} cut {dict(Counter(self.cut))}"
        )


class Load:
    """Runs while its block does; then live calls and streams are waited for."""

    def __init__(self, host: str, key: str, rate_per_s: float, streams: int, stream_tokens: int = 100) -> None:
        self.host, self.key, self.rate_per_s, self.wanted = host, key, rate_per_s, streams
        self.stream_tokens = stream_tokens
        self.seen = Seen()
        self._live: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._end = asyncio.Event()

    async def __aenter__(self) -> "Load":
        self._workers = [asyncio.create_task(self._calls())]
        self._workers += [asyncio.create_task(self._streams()) for _ in range(self.wanted)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await asyncio.gather(*self._workers)
        while self._live:
            await asyncio.wait(self._live)

    async def _calls(self) -> None:
        began, made = time.monotonic(), 0
        while not self._end.is_set():
            while made < (time.monotonic() - began) * self.rate_per_s:
                made += 1
                task = asyncio.create_task(self._call())
                self._live.add(task)
                task.add_done_callback(self._live.discard)
            await asyncio.sleep(0.005)

    async def _streams(self) -> None:
        while not self._end.is_set():
            await self._stream()

    async def _call(self) -> None:
        self.seen.calls += 1
        answer = await self._exchange({"model": "quick", "max_tokens": 2})
        if not (answer.startswith(b"HTTP/1.1 200") and b'"choices"' in answer):
            self.seen.failed.append(_first_line(answer))

    async def _stream(self) -> None:
        self.seen.streams += 1
        answer = await self._exchange({"model": "slow", "max_tokens": self.stream_tokens, "stream": True})
        if not answer.startswith(b"HTTP/1.1 200"):
            self.seen.failed.append(_first_line(answer))
            await asyncio.sleep(0.2)
        elif b"data: [DONE]" not in answer:
            self.seen.cut.append(answer[-80:].decode(errors="replace"))

    async def _exchange(self, fields: dict[str, object]) -> bytes:
        body = json.dumps({"messages": [{"role": "user", "content": "Count."}], **fields}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self.host}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        for pause_s in (*AGAIN_AFTER_S, None):
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, 8080, limit=2**22), 10)
            except (OSError, TimeoutError):
                if pause_s is None:
                    break
                self.seen.again += 1
                await asyncio.sleep(pause_s)
                continue
            try:
                writer.write(head.encode() + body)
                return await asyncio.wait_for(reader.read(-1), PATIENCE_S)
            except (OSError, TimeoutError) as error:
                return f"{type(error).__name__} after the connection stood".encode()
            finally:
                writer.close()
        return NO_CONNECTION.encode()


def _first_line(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0][:80].decode(errors="replace") or "nothing was answered"
