"""A client that sees bytes: sends requests over a plain socket and keeps what came, how it ended, and nothing else."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from sandbox.run import Sandbox

PATIENCE_S = 20.0
OPENAI_SHAPED = ("vllm", "groq", "azure", "vertex", "databricks", "nim", "openai")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me of llamas."}], "max_tokens": 12}


class Seen:
    """What came back. `end` is fin, reset, or open (the client stopped reading first)."""

    def __init__(self, raw: bytes, end: str) -> None:
        self.raw, self.end = raw, end
        head, _, self.rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/1.1 ") else 0
        pairs = [line.split(": ", 1) for line in lines[1:]]
        self.headers = {name.lower(): value for name, value in pairs}

    @property
    def body(self) -> bytes:
        """The body: dechunked as far as the chunks are good."""
        return dechunked(self.rest)[0] if self.headers.get("transfer-encoding") == "chunked" else self.rest

    @property
    def whole(self) -> bool:
        """Whether the framing of HTTP says that the body is complete."""
        if self.headers.get("transfer-encoding") == "chunked":
            return dechunked(self.rest)[1]
        return len(self.rest) == int(self.headers["content-length"])

    def json(self) -> Any:
        return json.loads(self.body)

    def frames(self) -> list[bytes]:
        """Events as they are framed, without their blank lines."""
        return [frame for frame in self.body.split(b"\n\n") if frame]

    def data(self) -> list[Any]:
        """The JSON values of plain `data: ` events, without [DONE]."""
        found = [frame[6:] for frame in self.frames() if frame.startswith(b"data: ")]
        return [json.loads(value) for value in found if value != b"[DONE]"]

    @property
    def done(self) -> bool:
        return b"data: [DONE]" in self.frames()

    def text(self) -> str:
        """The text of the deltas of the first choice."""
        deltas = [
            choice["delta"] for value in self.data() for choice in value.get("choices", ()) if not choice["index"]
        ]
        return "".join(delta.get("content") or "" for delta in deltas)

    def finish(self) -> str | None:
        choices = [choice for value in self.data() for choice in value.get("choices", ())]
        return next((c["finish_reason"] for c in choices if c["finish_reason"]), None)


def dechunked(rest: bytes) -> tuple[bytes, bool]:
    """The data of the good chunks, and whether the last chunk was among them."""
    out = b""
    while True:
        size, mark, rest = rest.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return out, False
        if not mark or len(rest) < length + 2 or rest[length : length + 2] != b"\r\n":
            return out + rest[:length], False
        if length == 0:
            return out, True
        out, rest = out + rest[:length], rest[length + 2 :]


def key_of(cloud: str, box: Sandbox) -> str:
    """The demo key of a cloud, whatever its config calls it."""
    demo = box.demo[cloud]
    return demo.get("api_key") or demo["token"]


def model_of(cloud: str, box: Sandbox) -> str:
    """A model of the cloud that talks."""
    return next(name for name, model in box.servers[cloud].cloud.models.items() if not model.vector)


def caller_of(cloud: str, box: Sandbox) -> str:
    """A model of the cloud that calls tools."""
    return next(name for name, model in box.servers[cloud].cloud.models.items() if model.calls and not model.vector)


def request_bytes(box: Sandbox, cloud: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """A chat call, as bytes."""
    path = urlsplit(box.openai_urls[cloud]).path + "/chat/completions"
    raw = json.dumps({"model": model_of(cloud, box), **CHAT, **body}).encode()
    fields = {
        "host": "sandbox",
        "authorization": f"Bearer {key_of(cloud, box)}",
        "content-type": "application/json",
        "content-length": str(len(raw)),
        **(headers or {}),
    }
    return (
        f"POST {path} HTTP/1.1\r\n".encode()
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items())
        + b"\r\n"
        + raw
    )


async def connect(box: Sandbox, cloud: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(box.origins[cloud])
    return await asyncio.open_connection(parts.hostname, parts.port)


async def exchange(box: Sandbox, cloud: str, raw: bytes) -> Seen:
    """Sends the bytes and reads until the server closes or the answer is whole."""
    reader, writer = await connect(box, cloud)
    try:
        writer.write(raw)
        return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Seen:
    """Reads until the framing says whole, or the connection ends."""
    came = b""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                more = await reader.read(65536)
            except ConnectionResetError:
                return Seen(came, "reset")
            if not more:
                return Seen(came, "fin")
            came += more
            if b"\r\n\r\n" in came and Seen(came, "open").whole:
                return Seen(came, "open")


async def call(box: Sandbox, cloud: str, headers: dict[str, str] | None = None, **body: Any) -> Seen:
    """One chat call on a connection of its own."""
    return await exchange(box, cloud, request_bytes(box, cloud, body, headers))


async def send(
    box: Sandbox, cloud: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Seen:
    """Any request; a body that is not bytes goes as JSON."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "sandbox", "content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    return await exchange(box, cloud, head.encode() + raw)


def bearer(cloud: str, box: Sandbox) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(cloud, box)}"}
