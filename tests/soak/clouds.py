"""The clouds of the soak as a process of their own; what they themselves say was asked of them and what it costs."""

import array
import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.process import free_ports
from sandbox.cloud import clouds
from tests import process
from tests.harness import Caller

NAMES = ("vllm", "groq")
PRICES: Mapping[str, tuple[int, int]] = {"vllm": (123_457_000, 456_789_000), "groq": (98_765_000, 432_101_000)}
"""Nano-dollars for a million tokens, in and out; of vLLM and Groq as CONFIG of fleet.py has them in US dollars."""
PORTS = 16
FOLLOW_S = 0.25


class Seen(msgspec.Struct):
    """What is read of a record of the sandbox."""

    n: int
    cloud: str
    body: str
    status: int
    ended: str
    prompt_tokens: int
    answer_tokens: int

    @property
    def nano(self) -> int:
        """What the answer costs, rounded half up once."""
        price_in, price_out = PRICES[self.cloud]
        return (self.prompt_tokens * price_in + self.answer_tokens * price_out + 500_000) // 1_000_000


class Calls(msgspec.Struct):
    """What the control port says."""

    calls: list[Seen]
    total: int


class Record:
    """The clouds' own count by the number of each call; it is read while it goes on, for the clouds forget."""

    def __init__(self, port: int, calls: int) -> None:
        self._port, self._seen = port, 0
        self.asked, self.attempts = bytearray(calls), 0
        self.nano = array.array("q", bytes(8 * calls))

    async def follow(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(FOLLOW_S)

    async def read(self) -> None:
        """Takes in what is over, up to the first call that is not."""
        status, body = await said(self._port, "GET", f"/_sandbox/calls?after={self._seen}")
        assert status == 200
        for seen in msgspec.json.decode(body, type=Calls).calls:
            if not seen.ended:
                break
            assert seen.n == self._seen + 1, "the clouds have forgotten a call before it was read"
            self._seen = seen.n
            self._count(seen)

    def _count(self, seen: Seen) -> None:
        found = re.search(r"call (\d+) \.", seen.body)
        assert found is not None
        number = int(found[1])
        self.attempts += 1
        self.asked[number] = 1
        if seen.ended == "done" and seen.status == 200:
            self.nano[number] += seen.nano


async def said(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One answer of a control port."""
    caller = Caller(*await asyncio.open_connection("127.0.0.1", port, limit=2**26))
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        await caller.send(head.encode() + body)
        answer = await caller.answer()
        assert answer.whole
        return answer.status, answer.body
    finally:
        caller.close()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """The clouds until the block ends: their control port, and what a config needs of each."""
    port = free_ports(PORTS)
    child = _launched(port, folder / "clouds.log")
    try:
        async with asyncio.timeout(process.PATIENCE_S):
            while not await _answers(port):
                assert child.poll() is None, (folder / "clouds.log").read_text()
                await asyncio.sleep(0.05)
        fault = {"fault": {"kind": "status", "status": 500, "share": 0.05}}
        assert (await said(port, "PUT", "/_sandbox/vllm", msgspec.json.encode(fault)))[0] == 200
        yield port, _facts(port)
    finally:
        child.terminate()
        child.wait(process.PATIENCE_S)


def _launched(port: int, log: Path) -> "subprocess.Popen[bytes]":
    words = [word for name in NAMES for word in ("--cloud", name)]
    argv = [sys.executable, "-m", "sandbox", "--fast", "--port", str(port), *words]
    with log.open("w") as out:
        return subprocess.Popen(argv, stdout=out, stderr=out, env=process.environment())


async def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return (await said(port, "GET", "/_sandbox"))[0] == 200
    return False


def _facts(port: int) -> dict[str, Any]:
    known, found = clouds(), {}
    for name in NAMES:
        found[f"{name}_url"] = known[name].url(f"http://127.0.0.1:{port + known[name].order}")
        found[f"{name}_key"] = known[name].demo["api_key"]
    return found
