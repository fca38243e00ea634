"""The local journal: lines appended to a file before they go to the database, and what dead processes left of theirs.

Rule 1. A batch of lines is one write; a line that is in the file survives the process.
Rule 2. Lines are taken from the front; when all are taken the file is emptied. Taking one twice does no harm.
Rule 3. Each process has a pair of files, `X.calls` (underway.py) and `X.rows`; the lock of the first is for both.
"""

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from gateway.ledger import rows, underway

MAX_BYTES = 1024**3
"""About a million calls; what comes beyond stays in memory, as far as that reaches."""
PIECE_BYTES = 512 * 1024


class Full(Exception):
    """No further line fits: the disk or the bound is reached."""


class Journal:
    """The files of one process. Lines are appended by one thread and taken by another."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, slots: int = underway.SLOTS) -> None:
        """Raises OSError when the folder cannot be written."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder, self.max_bytes = folder, max_bytes
        name = secrets.token_hex(8)
        self.underway = underway.Underway(folder / f"{name}.calls", slots)
        self._path = folder / f"{name}.rows"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self.size_bytes = self._taken_bytes = 0

    def append(self, lines: bytes) -> None:
        """Raises Full, and then nothing of the lines is in the file."""
        with self._lock:
            if self.size_bytes + len(lines) > self.max_bytes:
                raise Full(f"it holds {self.size_bytes} bytes, and {self.max_bytes} is the bound")
            try:
                written = os.write(self._file, lines)
            except OSError as error:
                raise Full(error.strerror or str(error)) from error
            if written < len(lines):
                os.ftruncate(self._file, self.size_bytes)
                raise Full("no space left on device")
            self.size_bytes += written

    def next(self, size_bytes: int = PIECE_BYTES) -> bytes:
        """The next whole lines that were not taken, b"" when there are none."""
        size = min(size_bytes, self.size_bytes - self._taken_bytes)
        while size:
            data = os.pread(self._file, size, self._taken_bytes)
            if end := data.rfind(b"\n") + 1:
                return data[:end]
            size = min(size * 2, self.size_bytes - self._taken_bytes)  # one line longer than a piece
        return b""

    def take(self, lines: bytes) -> None:
        """These lines, the next ones, are in the database."""
        with self._lock:
            self._taken_bytes += len(lines)
            if self._taken_bytes == self.size_bytes:
                os.ftruncate(self._file, 0)
                self.size_bytes = self._taken_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        return self.size_bytes - self._taken_bytes

    def close(self) -> None:
        """Removes the files when they are empty; else they are for the next one that starts here."""
        with self._lock:
            os.close(self._file)
            if self.waiting_bytes:
                self.underway.close()
                return
            self._path.unlink(missing_ok=True)
            self.underway.remove()


class Orphan:
    """The files of a process that died. Its lock is ours until `close`."""

    def __init__(self, calls: Path, lock: int) -> None:
        self._calls, self._rows, self._lock = calls, calls.with_suffix(".rows"), lock

    def pieces(self) -> Iterator[bytes]:
        """Its lines, then a line for each call that was under way."""
        with contextlib.suppress(FileNotFoundError), self._rows.open("rb") as file:
            while lines := file.readlines(PIECE_BYTES):
                if not lines[-1].endswith(b"\n"):
                    lines.pop()  # its process died over it; the call is still in its slot
                yield b"".join(lines)
        found = [rows.lost(record) for record in underway.records(self._calls.read_bytes())]
        if any(found):
            yield b"".join(found)

    def remove(self) -> None:
        """All of it is in the database."""
        self._rows.unlink(missing_ok=True)
        self._calls.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._lock)


def orphans(folder: Path) -> Iterator[Orphan]:
    """What dead processes left in the folder; what another process adopts at this moment is left to it."""
    for calls in sorted(folder.glob("*.calls")):
        try:
            lock = os.open(calls, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        orphan = Orphan(calls, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if calls.exists():  # else who held the lock just now was done with it
                yield orphan
        except BlockingIOError:
            continue
        finally:
            orphan.close()
