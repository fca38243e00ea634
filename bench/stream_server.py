"""A cloud that only streams: every call gets EVENTS content events, one each INTERVAL_S, each written alone.

As OpenAI's wire has it: the role first, then content, finish_reason, usage, [DONE]; HTTP/1.1 chunks, kept connections.
A body that says `once` gets a stream of one event at once, to ask whether the server is up."""

import asyncio
import json
import sys
from typing import cast

import uvloop

EVENTS = 200
INTERVAL_S = 0.02
"""50 tokens a second a stream, a usual pace."""

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
)


def event(choices: list[dict[str, object]], **fields: object) -> bytes:
    """One event as an HTTP chunk."""
    body = {
        "id": "chatcmpl-9f2c41d07be84b6f",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "choices": choices,
        **fields,
    }
    return chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]


OPENING = event(choice({"role": "assistant", "content": ""}))
CONTENT = event(choice({"content": " corn"}))
USAGE = {"prompt_tokens": 231, "completion_tokens": EVENTS, "total_tokens": 231 + EVENTS}
ENDING = event(choice({}, "stop")) + event([], usage=USAGE) + chunk(b"data: [DONE]\n\n") + chunk(b"")


class Cloud(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if not end or len(body) < length:
            return
        self._buffer = b""
        self._transport.write(HEAD + OPENING)
        if b'"once"' in body:
            self._transport.write(CONTENT + ENDING)
            self._transport.close()
            return
        self._left = EVENTS
        self._tick()

    def _tick(self) -> None:
        if not self._left:
            self._transport.write(ENDING)
            return
        self._left -= 1
        self._transport.write(CONTENT)
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Cloud, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
