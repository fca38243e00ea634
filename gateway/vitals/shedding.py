"""When new calls are refused so that those under way can end: out of memory soon, or hopelessly late.

Rule 1. From SHED_SHARE of the memory limit on calls are refused with 503, until less than TAKE_SHARE is used.
Rule 2. Not ready while the loop is, or within a second was, LATE_S late; after LATE_BEATS such beats in a row calls are
        refused as well.
Rule 3. Refused is what has gone nowhere yet, also while its body still comes; calls under way are not touched. A body
        that memory has no room for is not begun. What the allocator keeps is given back then, else that would last.
"""

from gateway.live import Live
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.vitals.memory import Memory, give_back
from gateway.vitals.pulse import Pulse

SHED_SHARE, TAKE_SHARE = 0.90, 0.85
LATE_S, LATE_BEATS = 1.0, 3
MEMORY, LATE = "is short of memory", "cannot keep up"


class Vitals:
    """Looks after one process, and tells `Live` what to refuse. Owns the pulse."""

    def __init__(self, live: Live, metrics: Metrics, log: Log) -> None:
        self.memory = Memory()
        self.pulse = Pulse(metrics.loop_lag.labels(), log, self.look)
        self._live, self._log, self._late, self._used_bytes = live, log, 0, 0
        self._pressed = False
        live.room = self._room
        live.late = lambda: self.pulse.lag_s > LATE_S
        metrics.shedding.set_function(lambda: bool(live.shed))
        metrics.memory_limit.set_function(lambda: self.memory.limit_bytes)
        metrics.memory_used.set_function(lambda: self.memory.used_bytes())

    def start(self) -> None:
        self.pulse.start()

    def stop(self) -> None:
        self.pulse.stop()

    def look(self, lag_s: float) -> None:
        """At every beat."""
        self._late = self._late + 1 if lag_s > LATE_S else 0
        self._used_bytes = self.memory.used_bytes()
        share = TAKE_SHARE if self._live.shed == MEMORY else SHED_SHARE
        short = self._used_bytes > share * self.memory.limit_bytes
        shed = MEMORY if short else LATE if self._late >= LATE_BEATS else ""
        if shed != self._live.shed:
            self._live.shed = shed
            self._log.write("shedding", why=shed or "over", lag_s=round(lag_s, 3), memory_bytes=self._used_bytes)
        if short or self._pressed:
            self._pressed = False
            give_back()

    def _room(self, size_bytes: int) -> bool:
        limit_bytes = self.memory.limit_bytes
        fits = not limit_bytes or self._used_bytes + size_bytes <= SHED_SHARE * limit_bytes
        self._pressed = self._pressed or not fits
        return fits
