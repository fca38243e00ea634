"""How much memory this process's container may use and does: by its control group, of version 2 or 1.

What the kernel can take back at any time (the cache of files) does not count as used; what cannot be read is no limit.
"""

import contextlib
import ctypes
from pathlib import Path
from typing import NamedTuple

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT_BYTES = 2**60
"""Version 1 says a number near 2**63 for no limit. Source: Linux, admin-guide/cgroup-v1/memory.rst."""


class Names(NamedTuple):
    """What one version of control groups calls what is read here; `cache` and `shared` are rows of memory.stat."""

    limit: str
    used: str
    cache: str
    shared: str


VERSIONS = {
    "": Names("memory.max", "memory.current", "file", "shmem"),
    "memory": Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"),
}
"""By the name of the controller in /proc/self/cgroup."""


class Memory:
    """The memory of one control group; `limit_bytes` is 0 where there is none."""

    def __init__(self, groups: Path = GROUPS, own: Path = OWN) -> None:
        self._folder, self._names, self.limit_bytes = groups, VERSIONS[""], 0
        for folder, names in _places(groups, own):
            try:
                limit = int((folder / names.limit).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue
            if limit < NO_LIMIT_BYTES:
                self._folder, self._names, self.limit_bytes = folder, names, limit
                return

    def used_bytes(self) -> int:
        """What of the limit is used and cannot be taken back; 0 without a limit."""
        if not self.limit_bytes:
            return 0
        try:
            used = int((self._folder / self._names.used).read_bytes())
            rows = dict(line.split() for line in (self._folder / "memory.stat").read_bytes().splitlines())
        except (OSError, ValueError):
            return 0
        cache, shared = (int(rows.get(name.encode(), 0)) for name in self._names[2:])
        return used - cache + shared


def give_back() -> None:
    """What glibc's allocator keeps for later goes back to the system; others do so by themselves."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _places(groups: Path, own: Path) -> list[tuple[Path, Names]]:
    """Where the group of this process may be: at its path, and, in a container that sees its own alone, at the top."""
    try:
        rows = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in rows:
        for controller in controllers.split(","):
            if names := VERSIONS.get(controller):
                base = groups / controller
                found += [(base / path.lstrip("/"), names), (base, names)]
    return found
