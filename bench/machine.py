"""The machine: its cores, what they were busy with, and what a report must say of it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Cores(NamedTuple):
    """Where the contender runs, and where the load and the upstream do."""

    contender: int
    others: int


def cores() -> Cores:
    """The first two cores that this process may use. Raises RuntimeError where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise RuntimeError("the bench needs two cores: one for the contender, one for load and upstream")
    return Cores(usable[0], usable[1])


def stat_of(pid: int) -> Sequence[str]:
    """The fields of /proc/<pid>/stat after the name, the state first; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ()


def tree_of(root: int) -> list[int]:
    """A process and all its descendants."""
    parents = {int(path.name): stat_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [root]
    for pid in found:  # grows while it is walked
        found += [child for child, stat in parents.items() if stat and int(stat[1]) == pid]
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds of processes, with those of their children that were waited for."""
    return sum(sum(map(int, stat[11:15])) for pid in pids if (stat := stat_of(pid))) * TICK_S


def rss_mb(pids: Sequence[int]) -> float:
    """Resident memory of processes in MB of 10^6 bytes; shared pages count for each."""
    return sum(int(stat[21]) for pid in pids if (stat := stat_of(pid))) * PAGE_BYTES / 1e6


class Calm:
    """Tells how much of the machine others used since it was made."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s, self._wall_s = self._now()

    def foreign_cores(self) -> float:
        """Cores' worth of work that was not this bench's."""
        busy_s, ours_s, wall_s = self._now()
        return max(0.0, (busy_s - self._busy_s) - (ours_s - self._ours_s)) / max(wall_s - self._wall_s, TICK_S)

    def _now(self) -> tuple[float, float, float]:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        busy_s = (user + nice + system + irq + softirq + steal) * TICK_S
        return busy_s, cpu_s(tree_of(os.getpid())), float(Path("/proc/uptime").read_text().split()[0])


def description() -> str:
    """Processor, cores, memory, kernel."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "unknown")
    memory_gb = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 1e9
    return f"{model}, {os.cpu_count()} cores, {memory_gb:.0f} GB, {os.uname().sysname} {os.uname().release}"


def commit(root: Path) -> str:
    """The commit that was measured, and whether its files were changed since."""
    answer = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"
