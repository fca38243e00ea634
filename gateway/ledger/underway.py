"""The calls under way, in memory that outlives the process: a file of slots, mapped and shared.

Rule 1. A call takes a slot before it is decided where it goes, and gives it back when its line is in the journal.
Rule 2. To take one is a copy in memory: no system call, nothing that can wait. The file is allocated whole at the
        start, so that a full disk cannot fail it.
Rule 3. Whoever holds the lock of the file owns it; a file without an owner holds the calls its process died over.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

SLOT_BYTES = 1024
SLOTS = 8192
"""Calls at once, with those whose lines are not written yet; further ones go without."""
_HEAD = 2
_EMPTY = b"\0\0"


class Underway:
    """The slots of one process. `begin` is the event loop's, `end` the journal thread's."""

    def __init__(self, path: Path, slots: int = SLOTS) -> None:
        """Takes a new file. Raises OSError."""
        self.path = path
        self._slots = slots
        new = path.with_suffix(".new")
        self._file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _allocate(self._file, slots * SLOT_BYTES)
            self._map = mmap.mmap(self._file, slots * SLOT_BYTES)
            new.rename(path)  # only now may others look at it: it is locked
        except OSError:
            os.close(self._file)
            new.unlink(missing_ok=True)
            raise
        self._free: list[int] = []
        self._used = 0

    def begin(self, record: bytes) -> int:
        """A slot that holds the record; -1 when there is none, or the record is too long for one."""
        size = len(record)
        if size > SLOT_BYTES - _HEAD:
            return -1
        if self._free:
            slot = self._free.pop()
        elif self._used < self._slots:
            slot = self._used
            self._used += 1
        else:
            return -1
        at = slot * SLOT_BYTES
        self._map[at + _HEAD : at + _HEAD + size] = record
        self._map[at : at + _HEAD] = size.to_bytes(2, "little")  # last: half a record is none
        return slot

    def end(self, slot: int) -> None:
        at = slot * SLOT_BYTES
        self._map[at : at + _HEAD] = _EMPTY
        self._free.append(slot)

    def close(self) -> None:
        """Leaves the file to whoever comes next."""
        self._map.close()
        os.close(self._file)

    def remove(self) -> None:
        """Nothing is in it any more."""
        self.path.unlink(missing_ok=True)
        self.close()


def _allocate(file: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size_bytes)
    else:  # macOS
        os.write(file, bytes(size_bytes))


def records(data: bytes) -> Iterator[bytes]:
    """What the slots of a file hold."""
    for at in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        size = int.from_bytes(data[at : at + _HEAD], "little")
        if 0 < size <= SLOT_BYTES - _HEAD:
            yield data[at + _HEAD : at + _HEAD + size]
