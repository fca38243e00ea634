"""How long rows are kept: old ones are deleted in pieces, so that nobody waits for a long transaction."""

from collections.abc import Callable
from typing import NamedTuple

from gateway.ledger.database import Database

PIECE_ROWS = 5000
EVERY_S = 600.0
IN_MEMORY_EVERY_S = 5.0
DAY_MS = 86_400_000
TABLES = (("arriero_calls", "id"), ("arriero_attempts", "call_id"))


class Bound(NamedTuple):
    """Days that rows are kept (None: for ever), and how many calls at most (None: any number)."""

    days: int | None = None
    calls: int | None = None


class Retention:
    """Deletes a piece whenever asked, until nothing old is left; then rests, but not for long in memory."""

    def __init__(self, bound: Bound, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.bound, self.clock, self._wall = bound, clock, wall
        self._rest_until = 0.0

    def piece(self, database: Database) -> int:
        """How many rows went. Raises Away."""
        now = self.clock()
        if now < self._rest_until:
            return 0
        before_ms = self._before_ms(database)
        gone = sum(self._delete(database, table, id_, before_ms) for table, id_ in TABLES) if before_ms else 0
        if gone < PIECE_ROWS:
            self._rest_until = now + (EVERY_S if self.bound.calls is None else IN_MEMORY_EVERY_S)
        return gone

    def _before_ms(self, database: Database) -> int:
        """Rows of before go; 0: none do."""
        found = int(self._wall() * 1000) - self.bound.days * DAY_MS if self.bound.days is not None else 0
        if self.bound.calls is not None:
            sql = "SELECT at_ms FROM arriero_calls ORDER BY at_ms DESC LIMIT 1 OFFSET ?"
            for (at_ms,) in database.rows(sql, (self.bound.calls,)):
                found = max(found, at_ms)
        return found

    def _delete(self, database: Database, table: str, id_: str, before_ms: int) -> int:
        oldest = f"SELECT {id_} FROM {table} WHERE at_ms < ? ORDER BY at_ms LIMIT {PIECE_ROWS}"  # noqa: S608
        return database.execute(f"DELETE FROM {table} WHERE at_ms < ? AND {id_} IN ({oldest})", (before_ms, before_ms))  # noqa: S608
