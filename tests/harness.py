"""What tests stand on: a gateway in this process on real sockets, a scripted raw upstream, a clock that is turned by hand."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gateway import loading
from gateway.app import Gateway
from gateway.log import Log
from gateway.serve import Listen, Running, running


class Clock:
    """Seconds that pass only when told to. Starts at 1,000 so that nothing is mistaken for zero."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Served:
    """A gateway that listens: its URLs, its parts, and the lines of its log."""

    def __init__(self, gateway: Gateway, found: Running, log: io.BytesIO) -> None:
        self.gateway, self.running, self._log = gateway, found, log
        self.port, self.admin_port = found.port, found.admin_port
        self.url = f"http://127.0.0.1:{found.port}"
        self.base_url = f"{self.url}/v1"
        self.admin_url = f"http://127.0.0.1:{found.admin_port}"

    def log(self) -> list[dict[str, Any]]:
        """The records written so far."""
        self.gateway.log.flush()
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def calls(self) -> list[dict[str, Any]]:
        """The access lines written so far."""
        return [record for record in self.log() if record["event"] == "call"]


@contextlib.asynccontextmanager
async def serving(
    config: str | dict[str, Any], clock: Callable[[], float] | None = None, wall: Callable[[], float] | None = None
) -> AsyncIterator[Served]:
    """A gateway for a config in YAML or plain objects, on ports of the system's choosing."""
    out = io.BytesIO()
    times: dict[str, Any] = {name: value for name, value in (("clock", clock), ("wall", wall)) if value is not None}
    built = loading.parse(config) if isinstance(config, str) else loading.build(config)
    gateway = Gateway(built, log=Log(out, human=False), **times)
    async with running(gateway, Listen(port=0, admin_port=0)) as found:
        yield Served(gateway, found, out)


Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection of a raw upstream: reads whole requests, writes any bytes, ends in any way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """The next whole request, head and body; b"" when the peer closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        return head + await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST: what is on its way is lost."""
        import socket
        import struct

        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def closed(self) -> None:
        """Returns when the peer has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class Upstream:
    """A raw upstream whose script runs once a connection. Keeps every request it read."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()  # a peer closed while its script was waiting for that
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(reader, writer)
        original = connection.request

        async def request() -> bytes:
            data = await original()
            if data:
                self.requests.append(data)
            return data

        connection.request = request  # type: ignore[method-assign]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.script(connection)
        writer.close()


@contextlib.asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """A raw upstream on a port of the system's choosing."""
    found = Upstream(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(found.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()


def route(*accounts: str | dict[str, Any], policies: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A route over accounts, by default in the order given."""
    deployments = [{"account": a, "model": "m"} if isinstance(a, str) else a for a in accounts]
    return {"deployments": deployments, "policies": policies if policies is not None else [], **fields}


def config(routes: dict[str, Any], **accounts: Any) -> dict[str, Any]:
    """A config of OpenAI-compatible accounts, each a URL or its own fields."""
    providers = {
        name: {"type": "openai", "api_key": f"key-of-{name}", **({"url": a} if isinstance(a, str) else a)}
        for name, a in accounts.items()
    }
    return {"providers": providers, "routes": routes}


def answer_bytes(content: str = "hello", model: str = "m", usage: bool = True) -> bytes:
    """A whole HTTP answer with a chat completion."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return json_answer(body)


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP answer with JSON, or with the bytes given."""
    raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    lines = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + raw


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; b"" is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(content: str | None, finish: str | None = None, **fields: Any) -> bytes:
    """One event of a streamed chat completion."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": content} if content is not None else {}, "finish_reason": finish}],
        **fields,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
