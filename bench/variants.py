"""What parts cost that a config may leave out: limits in memory, limits in Redis, traces; by the same without them."""

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import upstreams
from bench.contender import MODEL
from bench.contenders.arriero import Arriero, Document
from bench.contenders.nginx import Nginx
from bench.process import READY_S, Process, free_port
from bench.rounds import Run

PLAIN = "nothing more"
SAMPLED = 0.1
AMPLE = {
    "limits": {"rpm": 1_000_000_000, "tpm": 1_000_000_000, "concurrent": 1_000_000},
    "budget": {"usd": 1_000_000, "per": "month", "hard": True},
}
"""Never reached. A hard budget is the dearer kind: the most that a call can cost is reckoned and reserved."""
LIMITED = "rpm, tpm, concurrent and a hard budget of key, team and route"


def missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed: apt-get install redis-server"


def measure(binary: str, root: Path, run: Run) -> Run:
    """Plain calls on 32 connections at Arriero with each part, in the rounds of `run`. Raises RuntimeError."""
    others, folder = run.cores.others, run.folder / "variants"
    folder.mkdir()
    nginx = Nginx().binary
    with (
        redis(folder / "redis", others) as redis_port,
        upstreams.plain(nginx, folder / "collector", others) as otlp_port,
    ):

        def in_redis(said: Document) -> None:
            limits(said)
            said["store"]["redis"] = f"redis://127.0.0.1:{redis_port}/0"

        def traces(said: Document) -> None:
            said["telemetry"] = {"otlp": f"http://127.0.0.1:{otlp_port}", "sample": SAMPLED}

        chosen = [
            variant(binary, root, (PLAIN, "as above"), None),
            variant(binary, root, ("limits in memory", LIMITED), limits),
            variant(binary, root, ("limits in Redis", f"{LIMITED}; Redis on the other core"), in_redis),
            variant(binary, root, ("traces", f"OTLP, {SAMPLED:.0%} of the calls sampled"), traces),
        ]
        found = Run(chosen, run.plan, run.cores, folder, run.say)
        with found.chats(nginx):
            return found


def variant(binary: str, root: Path, name: tuple[str, str], more: Callable[[Document], None] | None) -> Arriero:
    found = Arriero(root, name[0], more=more)
    found.about, found.binary = name[1], binary
    return found


def limits(said: Document) -> None:
    """On the key of the bench, its team and its route."""
    said["teams"] = [{"name": "bench", **AMPLE}]
    said["keys"][-1] |= {"team": "bench", **AMPLE}
    said["routes"][MODEL] |= AMPLE


@contextlib.contextmanager
def redis(folder: Path, core: int) -> Iterator[int]:
    """A redis-server that keeps nothing on disk; its port."""
    folder.mkdir()
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with Process(argv, core, folder / "said.log") as server:
        while not _listens(port):
            if time.monotonic() > server.began + READY_S:
                raise RuntimeError(f"redis-server did not start: {server.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)
        yield port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
