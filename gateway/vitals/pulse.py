"""The pulse of the event loop: how late it runs what is due, and, from a thread, where it stands while it is stuck.

Rule 1. Lag is how much later than asked a timer ran; while one is overdue, for how long it has been so far. Told is the
        worst of a second.
Rule 2. The thread reads names of files and lines and nothing else: no value of a call is in what it says.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from gateway.log import Log
from gateway.tally import Spread

BEAT_S = 0.1
REMEMBERED = 10
STUCK_S = 1.0
"""From this lag on the watchdog says where the loop stands, then each time that twice as long has gone by."""
WATCH_S = 0.25
FRAMES = 6


class Pulse:
    """Beats ten times a second from `start` to `stop`, on the loop of who starts it; `each` is done at every beat."""

    def __init__(self, lags: Spread, log: Log, each: Callable[[float], None]) -> None:
        self._lags, self._log, self._each = lags, log, each
        self._recent = deque([0.0], maxlen=REMEMBERED)
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()

    @property
    def lag_s(self) -> float:
        """How late the loop was in the last second, or is now; 0 when it does not beat."""
        return 0.0 if self._due is None else max(*self._recent, time.monotonic() - self._due)

    def start(self) -> None:
        self._again()
        watch = threading.Thread(target=self._watch, args=(threading.get_ident(),), name="watchdog", daemon=True)
        watch.start()

    def stop(self) -> None:
        self._stopped.set()
        self._due = None
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._due = time.monotonic() + BEAT_S
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        assert self._due is not None
        lag_s = max(0.0, time.monotonic() - self._due)
        self._recent.append(lag_s)
        self._lags.observe(lag_s)
        self._again()
        self._each(lag_s)

    def _watch(self, loops_thread: int) -> None:
        """In a thread of its own. It runs as well while the loop waits for a lock, a disk or a name."""
        said_s = 0.0
        while not self._stopped.wait(WATCH_S):
            due = self._due
            stuck_s = 0.0 if due is None else time.monotonic() - due
            if stuck_s < STUCK_S:
                said_s = 0.0
            elif stuck_s > 2 * said_s:
                said_s = stuck_s
                self._log.write_now("loop_stuck", seconds=round(stuck_s, 1), at=stands(loops_thread))


def stands(thread: int) -> str:
    """The innermost lines that a thread is at, the innermost last."""
    frame = sys._current_frames().get(thread)
    lines = [f"{at.f_code.co_filename.rpartition('/')[2]}:{line}" for at, line in traceback.walk_stack(frame)]
    return " ".join(reversed(lines[:FRAMES]))
