"""A real PostgreSQL server for tests: in a folder of its own, on a socket there, never as root."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.needs import need

PATIENCE_S = 60.0
# what a crash of the machine could lose is not what tests are about
SETTINGS = {"listen_addresses": "", "fsync": "off", "shared_buffers": "32MB", "max_connections": "60"}


def programs() -> Path | None:
    """The newest folder with initdb in it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """One server. `kill` is what a crash does to it; `start` brings it back."""

    def __init__(self, folder: Path, programs_: Path) -> None:
        self.folder, self.programs = folder, programs_
        self.user = "postgres" if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        if self.user:
            owner = pwd.getpwnam(self.user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "--no-sync", "-A", "trust", "-U", "arriero", "-E", "UTF8", "--no-locale", "-D", self._data)
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers; what is left of a killed one may take a moment to go."""
        deadline = time.monotonic() + PATIENCE_S
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        while True:
            self._server = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, "-k", str(self.folder), *settings],
                user=self.user,
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while self._server.poll() is None:
                if self._ready():
                    return
                assert time.monotonic() < deadline, "PostgreSQL does not answer"
                time.sleep(0.05)
            assert time.monotonic() < deadline, f"PostgreSQL ended with {self._server.returncode}"
            time.sleep(0.1)

    def kill(self) -> None:
        """As a crash: nothing is said to anybody."""
        self.send(signal.SIGKILL)
        assert self._server is not None
        self._server.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)

    def children(self, number: signal.Signals) -> None:
        """Signals the processes that answer its clients."""
        assert self._server is not None
        found = subprocess.run(["pgrep", "-P", str(self._server.pid)], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def stop(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self.send(signal.SIGQUIT)
            self._server.wait(PATIENCE_S)

    def database(self) -> str:
        """A new, empty database: its URL."""
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", "-h", str(self.folder), "-U", "arriero", name)
        return f"postgresql://arriero@/{name}?host={self.folder}"

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _ready(self) -> bool:
        asked = [self.programs / "pg_isready", "-q", "-h", str(self.folder), "-d", "postgres"]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments], user=self.user, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def serving() -> Iterator[Postgres]:
    """A server until the block ends."""
    found = programs()
    need("PostgreSQL (initdb, postgres)", found is not None)
    assert found is not None
    folder = Path(tempfile.mkdtemp(prefix="arriero-pg-"))
    server = Postgres(folder, found)
    try:
        server.create()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
