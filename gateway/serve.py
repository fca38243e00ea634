"""`arriero serve`: sockets, the two servers in one loop, signals, and taking leave.

Rule 1. SIGTERM: not ready at once, new calls still taken for drain_s, live ones to their end within grace_s.
Rule 2. A second signal, or the end of the grace period, cuts what is left; every cut stream is told so.
Rule 3. Clients may have half of the files that this process may open: each of their calls may need one more upstream,
        and probes, the ledger and Redis need some whatever clients do.
"""

import asyncio
import contextlib
import gc
import ipaddress
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gateway.app import Gateway
from gateway.errors import ConfigError
from gateway.front.listener import Server, server
from gateway.parts import Parts
from gateway.reload import ConfigFile, Reloader
from gateway.types import Frozen

CUT_S = 2.0
"""How long cut streams may take to say so."""
SWITCH_S = 0.001
"""Python's own 5 ms is what one call in a hundred would wait for a thread."""
DOORS = 16
FILES_OF_OUR_OWN = 64 + 2 * DOORS + 3 * DOORS
"""What else is open: the two ports by all their doors, the loop, the ledger, Redis, libraries while they are read; and
who came in by the doors in the three rounds of the loop until they are turned away."""


class Listen(Frozen, frozen=True):
    """Where to listen; a port of 0 lets the system choose. `shared`: with other processes on the same public port."""

    host: str = "127.0.0.1"
    port: int = 8080
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    shared: bool = False


def bind(host: str, port: int, flag: str, *, shared: bool = False) -> socket.socket:
    """A listening socket. Raises ConfigError that says what stands in the way."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--{flag}host", f"'{host}' is not an address of this machine") from error
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"--{flag}port", f"cannot listen on {host}:{port}: {error.strerror}; choose another"
        ) from error
    sock.setblocking(False)
    return sock


def doors(sock: socket.socket) -> list[socket.socket]:
    """The listening socket many times over, for libuv takes one connection from each a round of the loop: under load,
    when a round takes long, a crowd that comes at once, probes among it, would wait for seconds."""
    return [sock, *(sock.dup() for _ in range(DOORS - 1))]


def most_connections() -> int:
    """How many clients may be connected at once, by the limit of open files, raised first as far as we may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "unlimited", where the system does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if files == resource.RLIM_INFINITY else max(1, (files - FILES_OF_OUR_OWN) // 2)


def loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost may stand for any address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(parts: Parts, listen: Listen) -> None:
    """Raises ConfigError for a gateway beyond loopback that asks nobody for a key."""
    server_ = parts.fleet.config.server
    if not loopback(listen.host) and not parts.keyring.may_have_keys and not server_.allow_anonymous:
        remedy = "add some, or say `server: {allow_anonymous: true}`; without a config file, set ARRIERO_KEY"
        raise ConfigError("--host", f"{listen.host} is not loopback and the config has no 'keys': {remedy}")


class Running:
    """A gateway that listens. `port` and `admin_port` are the real ones."""

    def __init__(self, gateway: Gateway, sockets: Sequence[socket.socket], servers: Sequence[Server]) -> None:
        self.gateway, self._servers = gateway, servers
        self.port, self.admin_port = (sock.getsockname()[1] for sock in sockets)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.interrupted = False

    def stop(self, *, interrupted: bool = False) -> None:
        """The first time takes leave, the second time at once."""
        if self._stop.is_set():
            self._hurry.set()
        self.interrupted = self.interrupted or interrupted
        self._stop.set()

    async def until_stopped(self, say: Callable[[str], None]) -> None:
        """Waits for `stop`, then lets live calls end."""
        await self._stop.wait()
        gateway = self.gateway
        live, config = gateway.live, gateway.config.server
        live.drain()
        gateway.log.write("draining", live=len(live), grace_s=config.grace_s)
        if not self.interrupted:
            await self._unless_hurried(asyncio.sleep(config.drain_s))
        live.close()
        if len(live):
            calls = "call" if len(live) == 1 else "calls"
            say(f"{len(live)} live {calls} may end within {config.grace_s:g} s; once more to cut them")
            await self._unless_hurried(live.ended(config.grace_s))
        if len(live):
            gateway.log.write("cutting", live=len(live))
            live.cut()
            await live.ended(CUT_S)

    async def _unless_hurried(self, work: Coroutine[Any, Any, object]) -> None:
        tasks = [asyncio.create_task(work), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        for server_ in self._servers:
            server_.leave()


@asynccontextmanager
async def running(gateway: Gateway, listen: Listen) -> AsyncIterator[Running]:
    """Listens until the block ends. Raises ConfigError when it cannot."""
    check_exposure(gateway.current.parts, listen)
    gateway.admin.state.exposed = not loopback(listen.admin_host)
    gateway.issued.exposed = not loopback(listen.host)
    sockets = [bind(listen.host, listen.port, "", shared=listen.shared)]
    with contextlib.ExitStack() as opened:
        opened.callback(sockets[0].close)
        sockets.append(bind(listen.admin_host, listen.admin_port, "admin-"))
        opened.callback(sockets[1].close)
        await gateway.start()
        servers = [server(gateway.public, connections=most_connections()), server(gateway.admin)]
        tasks = [asyncio.create_task(s.serve(doors(sock))) for s, sock in zip(servers, sockets, strict=True)]
        found = Running(gateway, sockets, servers)
        try:
            while not all(s.started for s in servers):  # noqa: ASYNC110  (uvicorn has no event for it)
                await asyncio.sleep(0.005)
            yield found
        finally:
            found.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            await gateway.aclose()


async def serve(
    gateway: Gateway,
    listen: Listen,
    say: Callable[[str], None],
    screen: Callable[[Running], str],
    file: ConfigFile | None,
) -> int:
    """Serves until SIGTERM or Ctrl-C, on what the config file says by then; the exit code."""
    async with running(gateway, listen) as found:
        reloader = Reloader(gateway, file, lambda parts: check_exposure(parts, listen))
        reloading = asyncio.create_task(reloader.run())
        settle()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, found.stop)
        loop.add_signal_handler(signal.SIGINT, lambda: found.stop(interrupted=True))
        on_terminal = sys.stderr.isatty()

        def hang_up() -> None:
            """Asks for a reload, but when it was the terminal that went."""
            if on_terminal and not sys.stderr.isatty():
                found.stop(interrupted=True)
            else:
                reloader.ask()

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        say(screen(found))
        await found.until_stopped(say)
        reloading.cancel()
    _ignore_signals(loop)
    return 130 if found.interrupted else 0


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """All is closed: one signal more may not spoil the exit code. Blocked, for the loop puts the default back first."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for which in signals:
        loop.remove_signal_handler(which)
        signal.signal(which, signal.SIG_IGN)


def settle() -> None:
    """What is loaded by now stays: left to itself the collector would look through all of it again and again, and hold
    up every call for some 40 ms. Calls leave hardly any cycles, so that it need not come often either. The threads
    behind the ledger let go of the interpreter when the loop has waited for SWITCH_S."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    sys.setswitchinterval(SWITCH_S)


def say(text: str) -> None:
    """Words for people go to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
