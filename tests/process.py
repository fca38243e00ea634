"""The `arriero` command as people and scripts run it: a process with an environment and a folder of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ARRIERO = Path(sys.executable).with_name("arriero")
PATIENCE_S = 60.0
LAST_WORDS = "  print(client"
"""How the last line of the start screen begins."""


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process sees of the environment: nothing of ours that a config could be made of."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": "/nonexistent", "PYTHONUNBUFFERED": "1", **(more or {})}


def run(*arguments: str, folder: Path, env: Mapping[str, str] | None = None, arriero: Path = ARRIERO) -> Finished:
    """`arriero` with those arguments, to its end."""
    done = subprocess.run(
        [arriero, *arguments],
        cwd=folder,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class Running:
    """`arriero serve` that listens. `screen` is what it said on start, `lines` all it said so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()

    def until(self, start: str) -> str:
        """Waits for a line that begins so."""
        deadline = time.monotonic() + PATIENCE_S
        seen = 0
        with self._said:
            while True:
                for line in self.lines[seen:]:
                    if line.startswith(start):
                        return line
                seen = len(self.lines)
                ended = self.process.poll() is not None and not self._reader.is_alive()
                assert not ended, f"ended with {self.process.returncode}:\n" + "\n".join(self.lines)
                assert time.monotonic() < deadline, f"never said '{start}':\n" + "\n".join(self.lines)
                self._said.wait(0.1)

    @property
    def screen(self) -> str:
        self.until(LAST_WORDS)
        end = next(i for i, line in enumerate(self.lines) if line.startswith(LAST_WORDS))
        return "\n".join(self.lines[: end + 1])

    @property
    def url(self) -> str:
        found = re.search(r"listens on (http://\S+)/v1", self.screen)
        assert found is not None
        return found[1]

    @property
    def admin_url(self) -> str:
        found = re.search(r"admin on port (\d+)", self.screen)
        assert found is not None
        return f"http://127.0.0.1:{found[1]}"

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to go and waits; the exit code."""
        self.process.send_signal(with_signal)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


@contextlib.contextmanager
def serving(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, arriero: Path = ARRIERO
) -> Iterator[Running]:
    """`arriero serve` on ports of the system's choosing, until the block ends."""
    process = subprocess.Popen(
        [arriero, "serve", *arguments],
        cwd=folder,
        env=environment({"ARRIERO_PORT": "0", "ARRIERO_ADMIN_PORT": "0", "ARRIERO_SANDBOX_PORT": "0", **(env or {})}),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    running = Running(process)
    try:
        running.until(LAST_WORDS)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
