"""What tests stand on: a gateway in this process on real sockets, raw clients and upstreams, a clock turned by hand."""

import asyncio
import contextlib
import io
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from gateway.app import Gateway
from gateway.catalog import Catalog
from gateway.config import loading
from gateway.ledger.place import NOTHING_USUAL, Storage
from gateway.ledger.recall import told
from gateway.log import Log
from gateway.prices import usd_to_nano
from gateway.serve import Listen, Running, running
from gateway.transport.client import Client
from tests.listening import listening

CATALOG = Catalog.load()
"""Nothing of it ever changes; reading it takes longer than making the rest of a gateway."""


class Clock:
    """Seconds that pass only when told to. Starts at 1,000 so that nothing is mistaken for zero."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Decided:
    """What `explain` tells of a call, by attributes; money in nano-dollars too."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.__dict__.update(told)
        costs = [usd_to_nano(tried["cost_usd"]) for tried in told["attempts"]]
        self.attempts = [SimpleNamespace(**t, cost_nano=c) for t, c in zip(told["attempts"], costs, strict=True)]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"explain tells nothing of {name}")

    def __repr__(self) -> str:
        return repr(self.__dict__)


class Served:
    """A gateway that listens: its URLs, its parts, and the lines of its log."""

    def __init__(self, gateway: Gateway, found: Running, log: io.BytesIO) -> None:
        self.gateway, self.running, self._log = gateway, found, log
        self.port, self.admin_port = found.port, found.admin_port
        self.url = f"http://127.0.0.1:{found.port}"
        self.base_url = f"{self.url}/v1"
        self.admin_url = f"http://127.0.0.1:{found.admin_port}"

    def settled(self) -> None:
        """All that was left for the loop's next round is done."""
        self.gateway.current.parts.settlement.flush()

    def log(self) -> list[dict[str, Any]]:
        """The records written so far."""
        self.settled()
        self.gateway.log.flush()
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def calls(self) -> list[dict[str, Any]]:
        """The access lines written so far."""
        return [record for record in self.log() if record["event"] == "call"]

    def decisions(self) -> list[Decided]:
        """The decisions kept so far, the latest first."""
        self.settled()
        return [Decided(told(line)) for line in self.gateway.decisions.latest(1_000_000)]

    def metrics(self) -> str:
        """What Prometheus would read."""
        self.settled()
        return self.gateway.metrics.text().decode()

    def leases(self) -> dict[str, int]:
        """What is taken and not given back: calls, attempts at each deployment, connections of each account."""
        gateway = self.gateway
        taken = {"calls": len(gateway.live)}
        for route in gateway.fleet.routes.values():
            for name, lane in route.lanes.items():
                taken[f"attempts at {name}"] = lane.facts.in_flight
        for name, provider in gateway.fleet.providers.items():
            client: Client = provider.client  # type: ignore[attr-defined]
            taken[f"connections of {name}"] = client.leased + client.waiting
        return {name: count for name, count in taken.items() if count}

    async def reload(self, document: dict[str, Any]) -> None:
        """Goes on on another config."""
        await self.gateway.reload(loading.build(document))

    async def at_rest(self) -> None:
        """Waits until every call is over; then nothing may be left taken."""
        await eventually(lambda: not self.leases(), "not given back: {}", self.leases)


@contextlib.asynccontextmanager
async def serving(
    config: str | dict[str, Any],
    clock: Callable[[], float] | None = None,
    wall: Callable[[], float] | None = None,
    storage: Storage = NOTHING_USUAL,
) -> AsyncIterator[Served]:
    """A gateway for a config in YAML or plain objects, on ports of the system's choosing."""
    out = io.BytesIO()
    times: dict[str, Any] = {name: value for name, value in (("clock", clock), ("wall", wall)) if value is not None}
    built = loading.parse(config) if isinstance(config, str) else loading.build(config)
    gateway = Gateway(built, log=Log(out, human=False), catalog=CATALOG, storage=storage, **times)
    async with running(gateway, Listen(port=0, admin_port=0)) as found:
        yield Served(gateway, found, out)


PATIENCE_S = 20.0
"""For what happens at once on an idle machine."""


async def eventually(condition: Callable[[], object], otherwise: str, facts: Callable[[], object] = str) -> None:
    """Waits until a condition of this process holds, looking every 2 ms."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, otherwise.format(facts())
        await asyncio.sleep(0.002)


class Answer(NamedTuple):
    """What a client got. `whole` is whether the answer ended by its own framing; `seconds` how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True
    seconds: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a plain answer."""
        found = self.json()["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return dict(found)

    @property
    def events(self) -> list[bytes]:
        """The data of each event of a stream, by the plainest parser there is."""
        assert self.headers["content-type"].startswith("text/event-stream")
        pieces = self.body.split(b"\n\n")
        assert pieces.pop() == b"", "an event without its empty line"
        return [piece.removeprefix(b"data: ") for piece in pieces if piece.startswith(b"data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events of a stream that are chunks of a completion."""
        return [found for found in map(json.loads, (e for e in self.events if e != b"[DONE]")) if "error" not in found]

    @property
    def deltas(self) -> list[str]:
        """The pieces of text of a streamed chat, empty ones left out."""
        found = [choice["delta"].get("content") for chunk_ in self.chunks for choice in chunk_["choices"]]
        return [text for text in found if text]

    @property
    def finishes(self) -> list[str]:
        found = [choice["finish_reason"] for chunk_ in self.chunks for choice in chunk_["choices"]]
        return [reason for reason in found if reason]

    @property
    def done(self) -> bool:
        """Whether the stream ended with [DONE]."""
        assert b"[DONE]" not in self.events[:-1]
        return self.events[-1:] == [b"[DONE]"]

    @property
    def fault(self) -> dict[str, Any] | None:
        """The error event that a stream ended with."""
        found = [json.loads(event) for event in self.events if b'"error"' in event]
        assert not found or json.loads(self.events[-1]) == found[0]
        return found[0]["error"] if found else None


class Caller:
    """One raw connection of a client: any bytes in; what comes back is taken apart by HTTP's rules alone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.headers: dict[str, str] = {}

    async def send(self, data: bytes) -> None:
        await _send(self.writer, data)

    async def head(self) -> int:
        """Reads the head of an answer: its status; its headers are kept."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.headers = {}
        for field in fields:
            name, _, value = field.partition(": ")
            assert name not in self.headers, f"{name} stands twice"
            self.headers[name] = value
        return int(line.split(" ")[1])

    async def piece(self) -> bytes:
        """The next chunk of a chunked answer, b"" at its end. Raises IncompleteReadError when it breaks off."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self) -> Answer:
        """The next answer, as far as it comes."""
        began = time.monotonic()
        status = await self.head()
        pieces: list[bytes] = []
        whole = True
        try:
            if "content-length" in self.headers:
                pieces.append(await self.reader.readexactly(int(self.headers["content-length"])))
            else:
                assert self.headers["transfer-encoding"] == "chunked"
                while piece := await self.piece():
                    pieces.append(piece)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            pieces.append(getattr(error, "partial", b""))
            whole = False
        return Answer(status, dict(self.headers), b"".join(pieces), whole, time.monotonic() - began)

    async def closed(self) -> bytes:
        """What comes until the gateway closes."""
        try:
            return await self.reader.read(-1)
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """RST."""
        _reset(self.writer)

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def caller(served: Served, limit_bytes: int = 2**26) -> AsyncIterator[Caller]:
    """A client's connection, closed at the end."""
    found = Caller(*await asyncio.open_connection("127.0.0.1", served.port, limit=limit_bytes))
    try:
        yield found
    finally:
        found.close()


def request(body: bytes, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """A whole request; `_` in the name of a header stands for `-`."""
    lines = {"host": "gateway.test", "content-type": "application/json", "content-length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def chat(model: str = "r", **fields: Any) -> bytes:
    """The body of a chat call."""
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": model, "messages": messages, **fields}, separators=(",", ":")).encode()


async def ask(served: Served, body: bytes | None = None, path: str = "/v1/chat/completions", **headers: str) -> Answer:
    """One call on a connection of its own, and its whole answer."""
    async with caller(served) as client:
        await client.send(request(chat() if body is None else body, path, **headers))
        async with asyncio.timeout(PATIENCE_S):
            return await client.answer()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        writer.write(data)
        await writer.drain()
    except RuntimeError as error:  # how uvloop says it
        raise ConnectionResetError from error


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection of a raw upstream: reads whole requests, writes any bytes, ends in any way."""

    def __init__(self, upstream: "Upstream", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream, self.reader, self.writer = upstream, reader, writer

    async def request(self) -> bytes:
        """The next whole request, head and body; b"" when the peer closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
        length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
        data = head + await self.reader.readexactly(length)
        self.upstream.requests.append(data)
        self.upstream.asked.set()
        return data

    async def send(self, data: bytes) -> None:
        await _send(self.writer, data)

    def reset(self) -> None:
        """RST: what is on its way is lost."""
        _reset(self.writer)

    def close(self) -> None:
        self.writer.close()

    async def closed(self) -> None:
        """Returns when the peer has closed, and says so to who waits for `Upstream.gone`."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        self.upstream.gone_at.append(time.monotonic())
        self.upstream.gone.set()


class Upstream:
    """A raw upstream whose script runs once a connection. Keeps every request it read.

    `gone` is set and `gone_at` grows when a peer closed while its script was waiting for that."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone_at: list[float] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def bodies(self) -> list[bytes]:
        """The bodies of the requests."""
        return [data.partition(b"\r\n\r\n")[2] for data in self.requests]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(self, reader, writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.script(connection)
        writer.close()


@contextlib.asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """A raw upstream on a port of the system's choosing."""
    found = Upstream(script)
    async with listening(found.handle) as found.port:
        yield found


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
        "choices": [
            {"index": 0, "delta": {"content": content} if content is not None else {}, "finish_reason": finish}
        ],
        **fields,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
