"""A real redis-server on a port of its own: started, killed, stopped and told what to do by tests."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.process import free_port
from tests.needs import need

PATIENCE_S = 30.0


async def command(port: int, *words: object) -> bytes:
    """What a server answers to one command, as it stands on the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        parts = [str(word).encode() for word in words]
        writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        await writer.drain()
        line = await reader.readuntil(b"\r\n")
        if line[:1] == b"$" and line != b"$-1\r\n":
            return (await reader.readexactly(int(line[1:]) + 2))[:-2]
        if line[:1] == b"*":
            found = [line]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    while piece := await reader.read(65536):
                        found.append(piece)
            return b"".join(found)
        return line.rstrip(b"\r\n")
    finally:
        writer.close()


class RedisServer:
    """One process. What it is told with `started` it is told again when it is started again."""

    def __init__(self, folder: Path, *more: str, port: int = 0) -> None:
        need("redis-server", shutil.which("redis-server") is not None)
        self.port, self.folder, self.more = port or free_port(), folder, more
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.command = ["redis-server", *own, *more]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self.launch()
        await self.ready()

    def launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, cwd=self.folder)

    async def ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if await self.say("PING") == b"+PONG":
                    return
            except (OSError, asyncio.IncompleteReadError):
                pass
            assert time.monotonic() < deadline, "redis-server never answered"
            await asyncio.sleep(0.02)

    async def say(self, *words: object) -> bytes:
        return await command(self.port, *words)

    async def until(self, says: bytes, *words: object) -> None:
        """Waits until its answer holds those bytes. A server that changes its role closes connections meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        found = b""
        while says not in found:
            assert time.monotonic() < deadline, f"never said {says!r}: {found!r}"
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                found = await self.say(*words)
                if says in found:
                    return
            await asyncio.sleep(0.02)

    def signal(self, which: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(which)

    def kill(self) -> None:
        """kill -9: nothing is saved."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *more: str) -> AsyncIterator[RedisServer]:
    found = RedisServer(folder, *more)
    await found.start()
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            if found.process is not None:
                found.signal(signal.SIGCONT)
        found.kill()


class Proxy:
    """Bytes between a gateway and Redis: passed on, kept back, or the whole way cut."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, 0
        self.replies, self.open = True, True
        self.kept_back = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.close()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, server_writer}
        await asyncio.gather(self._pass(reader, server_writer, True), self._pass(server_reader, writer, False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if forth or self.replies:
                    writer.write(data)
                else:
                    self.kept_back += 1
        writer.close()

    def cut(self) -> None:
        """Nobody gets through any more."""
        self.open = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@contextlib.asynccontextmanager
async def proxy(to: int) -> AsyncIterator[Proxy]:
    found = Proxy(to)
    server = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        found.cut()
        server.close()
