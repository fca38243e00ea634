"""The box: every cloud and the control port in one loop, as an async context, in a thread, or as a command."""

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from sandbox.calls import CallLog
from sandbox.cloud import Cloud, clouds
from sandbox.config import config_text
from sandbox.control import Control
from sandbox.server import CloudServer, Port
from sandbox.site import Site
from sandbox.types import Json

T = TypeVar("T")
DEFAULT_PORT = 9100


class Sandbox:
    """Clouds in a box.

    `port` is the control port, the clouds take the ones after it by their `order`; 0 lets the system
    choose them all.
    `believable` gives each cloud a pace of its own instead of answering at once.
    """

    def __init__(
        self,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        clouds: Iterable[str] | None = None,
        believable: bool = False,
    ) -> None:
        self._port, self._host, self._wanted, self._believable = port, host, clouds, believable
        self.log = CallLog()
        self.servers: dict[str, CloudServer] = {}
        self._control: Port | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ life
    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        now = time.monotonic
        control = Control(self, now)
        try:
            self._control = Port(self._host, self._port, control.serve, lambda: 60.0)
            await self._control.become("open")
            for cloud in self._chosen():
                server = CloudServer(cloud, Site(cloud.name, now), self.log)
                server.bind(self._host, self._port and self._port + cloud.order)
                self.servers[cloud.name] = server
                await server.settle()
        except BaseException:
            self._release()
            raise
        await self._pace()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        await asyncio.sleep(0)  # lets the transports close

    def _chosen(self) -> Sequence[Cloud]:
        known = clouds()
        if self._wanted is None:
            return list(known.values())
        unknown = [name for name in self._wanted if name not in known]
        if unknown:
            raise ValueError(f"unknown cloud {unknown[0]!r}; clouds are: {', '.join(known)}")
        return [known[name] for name in self._wanted]

    def _release(self) -> None:
        for server in self.servers.values():
            if server.port is not None:
                server.port.release()
        if self._control is not None:
            self._control.release()

    async def _pace(self) -> None:
        if self._believable:
            for name, server in self.servers.items():
                ttft_s, tpot_s = server.cloud.pace
                await self.change(name, {"ttft_s": ttft_s, "tpot_s": tpot_s, "jitter": 0.2})

    # ------------------------------------------------------------------ what it says
    @property
    def control_url(self) -> str:
        assert self._control is not None
        return f"http://{self._host}:{self._control.number}"

    @property
    def urls(self) -> Mapping[str, str]:
        """Base URLs as a config has them."""
        return {name: server.cloud.url(server.origin()) for name, server in self.servers.items()}

    @property
    def openai_urls(self) -> Mapping[str, str]:
        """Base URLs as an OpenAI SDK has them: what /chat/completions is added to."""
        return {name: server.cloud.openai_url(server.origin()) for name, server in self.servers.items()}

    @property
    def origins(self) -> Mapping[str, str]:
        return {name: server.origin() for name, server in self.servers.items()}

    @property
    def demo(self) -> Mapping[str, Mapping[str, str]]:
        """The fixed demo credentials by cloud."""
        return {name: server.cloud.demo for name, server in self.servers.items()}

    def config_text(self) -> str:
        return config_text({name: (server.cloud, server.origin()) for name, server in self.servers.items()})

    # ------------------------------------------------------------------ control, also from other threads
    def set(self, cloud: str, **fields: Json) -> None:
        """Changes the named fields of a cloud's behaviour (None: the default); raises BehaviourError or KeyError."""
        self._run(self.change, cloud, fields)

    def calls(self, cloud: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """The record of attempts with a number above `after`, oldest first; read in our loop, so that no call is seen
        half done."""

        async def listed() -> list[dict[str, Any]]:
            return self.log.listed(cloud, after)

        if self._loop is None or not self._loop.is_running() or self._is_here():
            return self.log.listed(cloud, after)
        return asyncio.run_coroutine_threadsafe(listed(), self._loop).result(30)

    def _is_here(self) -> bool:
        """Whether we are in the box's own loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def until(
        self, true: Callable[[list[dict[str, Any]]], bool], patience_s: float = 30.0
    ) -> list[dict[str, Any]]:
        """Waits, in whatever loop, until the record of attempts says so; raises TimeoutError."""
        assert self._loop is not None
        async with asyncio.timeout(patience_s):
            if self._is_here():
                return await self.log.until(true)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.log.until(true), self._loop))

    def reset(self) -> None:
        """Default behaviour everywhere, an empty record."""
        self._run(self.clear)

    def _run(self, change: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Runs a change to its end: in our loop from another thread, else step by step right here."""
        assert self._loop is not None
        if not self._is_here():
            asyncio.run_coroutine_threadsafe(change(*args), self._loop).result(30)
            return
        steps = change(*args)  # none of its steps waits for anything outside, so they can be taken at once
        with contextlib.suppress(StopIteration):
            while steps.send(None) is None:
                pass
            raise RuntimeError("a change of the box waited")

    async def change(self, cloud: str, fields: Mapping[str, Json]) -> None:
        server = self.servers[cloud]
        server.site.set(fields)
        await server.settle()

    async def clear(self) -> None:
        for server in self.servers.values():
            server.site.reset()
            await server.settle()
        self.log.clear()
        await self._pace()

    # ------------------------------------------------------------------ a thread of its own
    @classmethod
    @contextlib.contextmanager
    def in_thread(
        cls, port: int = 0, host: str = "127.0.0.1", clouds: Iterable[str] | None = None, believable: bool = False
    ) -> Iterator[Self]:
        """A box that runs in its own loop in a background thread."""
        box = cls(port, host, clouds, believable)
        started: threading.Event = threading.Event()
        stop: list[Callable[[], object]] = []
        failed: list[BaseException] = []

        async def live() -> None:
            end = asyncio.Event()
            loop = asyncio.get_running_loop()
            try:
                async with box:
                    stop.append(lambda: loop.call_soon_threadsafe(end.set))
                    started.set()
                    await end.wait()
            except BaseException as error:
                failed.append(error)
                started.set()
                raise

        thread = threading.Thread(target=lambda: _run_fast(live()), name="sandbox", daemon=True)
        thread.start()
        started.wait()
        if failed:
            raise failed[0]
        try:
            yield box
        finally:
            stop[0]()
            thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m sandbox`."""
    parser = argparse.ArgumentParser(
        prog="sandbox", description="Clouds in a box: local servers that speak each cloud's wire."
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="control port; the clouds take the ones after it"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--cloud", action="append", help="only this cloud (may be repeated)")
    parser.add_argument("--fast", action="store_true", help="answer at once instead of at a believable pace")
    parser.add_argument("--print-config", action="store_true", help="write the config that uses these clouds, and end")
    given = parser.parse_args(argv)
    if given.print_config:
        sys.stdout.write(config_text(given.port))
        return 0
    return _run_fast(_live(given))


def _run_fast(work: Coroutine[Any, Any, T]) -> T:
    """Runs to the end, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


async def _live(given: argparse.Namespace) -> int:
    """Serves until a signal; 130 after SIGINT, 0 after SIGTERM."""
    end: asyncio.Queue[int] = asyncio.Queue()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        asyncio.get_running_loop().add_signal_handler(number, end.put_nowait, code)
    async with Sandbox(given.port, given.host, given.cloud, believable=not given.fast) as box:
        sys.stderr.write(f"{'control':12}{box.control_url}/_sandbox\n")
        for name, url in box.urls.items():
            sys.stderr.write(f"{name:12}{url}\n")
        sys.stderr.flush()
        return await end.get()
