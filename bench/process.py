"""A program under measurement: started on one core, asked until it answers, ended."""

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from bench import machine

READY_S = 30.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the kernel gives to whoever asks for any."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            for port in range(first, first + count):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def chat(body: bytes, key: str, *connection: str) -> bytes:
    """A whole chat request; `connection` is what it says of the connection, such as close."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"connection: {word}" for word in connection),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(port: int, body: bytes, key: str) -> bytes:
    """One whole answer on a connection of its own; b"" when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as peer:
            peer.sendall(chat(body, key, "close"))
            return b"".join(iter(lambda: peer.recv(65536), b""))
    except OSError:
        return b""


class Process:
    """A running program on one core. What it says goes to `log`, a file."""

    def __init__(self, argv: Sequence[str], core: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.began = time.monotonic()
        self.log = log
        with log.open("wb") as out:
            self._child = subprocess.Popen(
                ["taskset", "-c", str(core), *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(5.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def until_ready(self, port: int, body: bytes, key: str) -> float:
        """Seconds from the start to the first whole answer of 200. Raises RuntimeError with what the program said."""
        while not ask(port, body, key).startswith(b"HTTP/1.1 200"):
            if self._child.poll() is not None or time.monotonic() > self.began + READY_S:
                said = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._child.args!r} is not ready: {said}")
            time.sleep(0.002)
        return time.monotonic() - self.began

    @property
    def pids(self) -> list[int]:
        return machine.tree_of(self._child.pid)

    def cpu_s(self) -> float:
        return machine.cpu_s(self.pids)

    def rss_mb(self) -> float:
        return machine.rss_mb(self.pids)


def plain_env() -> dict[str, str]:
    """The environment without what would configure a gateway by itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ARRIERO_")}
