"""A connection to Redis for limits: one server, Sentinel or Cluster; commands in batches, each with an end in time.

Rule 1. A command never runs in its caller's task: who leaves early, or waits no longer, disturbs nobody's reply.
Rule 2. Batches go out one after the other, so that what was said first is done first.
Rule 3. Whatever goes wrong is a StoreError and counted by the circuit; nothing is tried again here but once, after the
        functions were loaded.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, Protocol

from gateway.errors import ArrieroError

LIBRARY = "arriero2"
BATCH = 128
LAST_S = 2.0
"""How long a gateway that ends waits to have said everything."""


class StoreError(ArrieroError):
    """Redis did not do what it was asked, for a reason of a few words."""


class Command(NamedTuple):
    """One call of a function. All keys are in one slot."""

    function: str
    keys: Sequence[str]
    arguments: Sequence[str | int | bytes]

    def parts(self) -> list[str | int | bytes]:
        return ["FCALL", self.function, len(self.keys), *self.keys, *self.arguments]


class Wire(Protocol):
    """What carries commands: results in their order, an Exception in the place of one that failed."""

    split: bool
    """Whether the keys of a command must be in one slot."""

    async def run(self, commands: Sequence[Command]) -> list[Any]: ...

    async def load(self, library: str) -> None: ...

    async def info(self) -> Sequence[Mapping[str, Any]]:
        """What each server that takes writes says of its memory and of what it evicted."""

    async def again(self) -> None:
        """Forgets connections: the next one may be to another server."""

    async def aclose(self) -> None: ...


def library() -> str:
    return files("gateway.limits").joinpath("lua/limits.lua").read_text()


class Store:
    """Puts commands on the wire, batch by batch. Owns the queue."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self.split = wire, wire.split
        self._waiting: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, command: Command) -> "asyncio.Future[Any]":
        """The reply, or a StoreError; cancelling it cancels nothing else."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                batch = [(command, future) for command, future in batch if not future.done()]
                async with self._turn:
                    results = await self._done([command for command, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        _resolve(future, result)
        finally:
            self._pump = None

    async def info(self) -> Sequence[Mapping[str, Any]]:
        """What the servers say of themselves. Raises StoreError."""
        async with self._turn:
            try:
                return await self._wire.info()
            except Exception as error:
                raise StoreError(_why(error)) from error

    async def _done(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        try:
            found = await self._wire.run(commands)
            missing = [i for i, result in enumerate(found) if "Function not found" in str(result)]
            if missing:
                await self._wire.load(library())
                for i, result in zip(missing, await self._wire.run([commands[i] for i in missing]), strict=True):
                    found[i] = result
        except Exception as error:  # noqa: BLE001  (whatever the client library raises is the store's failure)
            found = [error] * len(commands)
        if any(isinstance(result, Exception) for result in found):
            with contextlib.suppress(Exception):  # a connection that is half dead may not close; the next is new
                await self._wire.again()
        return found

    async def aclose(self) -> None:
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=LAST_S)
        await self._wire.aclose()


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if isinstance(result, Exception):
        future.set_exception(result if isinstance(result, StoreError) else StoreError(_why(result)))
        future.exception()  # whoever waited may be gone: that is no news
    else:
        future.set_result(result)


def _why(error: Exception) -> str:
    """The error's class and first words, which hold no value of ours."""
    return f"{type(error).__name__}: {str(error)[:80]}".removesuffix(": ")
