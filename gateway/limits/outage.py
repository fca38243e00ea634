"""Whether shared state can be reached: a circuit over every command, also those whose failure nobody was told of."""

from collections.abc import Callable
from typing import Any

from gateway.log import Log
from gateway.tally import Count

FAILURES = 3
"""In a row; then nobody waits for it any more."""


class Outage:
    """Open after FAILURES in a row, closed by who finds that it takes writes again. One log line for each change."""

    def __init__(self, log: Log, failures: Count, clock: Callable[[], float]) -> None:
        self.log, self._failures, self._clock = log, failures, clock
        self._in_a_row, self._since = 0, 0.0
        self.away = False

    def failed(self, why: str) -> bool:
        """Whether this was the one that opened it."""
        self._failures.inc()
        self._in_a_row += 1
        if self.away or self._in_a_row < FAILURES:
            return False
        self.away, self._since = True, self._clock()
        self.log.write("redis_away", why=why)
        return True

    def succeeded(self) -> None:
        self._in_a_row = 0

    def over(self, **facts: Any) -> None:
        self.away, self._in_a_row = False, 0
        self.log.write("redis_back", away_s=round(self._clock() - self._since, 3), **facts)
