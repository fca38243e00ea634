"""The ledger as the rest of the gateway sees it: calls begin and end in it, and it can be read.

Rule 1. Nothing here waits: `begin` is a copy in memory, `keep` an entry in a list. A few times a second lines go to
        threads that do the rest.
Rule 2. A call is in its slot until its line is in the journal, and in the journal until it is in the database: whenever
        the process dies, every call is in one of them, and none is counted twice.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from gateway.config.document import StoreConfig
from gateway.errors import ConfigError
from gateway.ledger import reports, rows
from gateway.ledger.database import Away, Database, LedgerError, connect
from gateway.ledger.journal import Journal
from gateway.ledger.migrations import TooNew, ready
from gateway.ledger.place import Place, Storage, place
from gateway.ledger.retention import Bound, Retention
from gateway.ledger.writer import Batch, Tally, Writer
from gateway.log import Log
from gateway.router import Decision

FLUSH_S = 0.05
CLOSE_S = 5.0
FLUSHED_S = 2.0
CALLS_IN_MEMORY = 20_000
T = TypeVar("T")


def opened(
    store: StoreConfig, storage: Storage, log: Log, clock: Callable[[], float], wall: Callable[[], float]
) -> "Ledger | None":
    """The ledger that a config names, or else the usual one of this kind of run; None where there is none."""
    url = store.url(storage.usual)
    if url is None:
        return None
    return Ledger(place(url, storage.folder), log, keep_days=store.keep_days, clock=clock, wall=wall)


class Ledger:
    """One process's end of the ledger. Owns the calls that wait to be written down."""

    def __init__(
        self,
        place: Place,
        log: Log,
        *,
        keep_days: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.place, self._log = place, log
        bound = Bound(keep_days, CALLS_IN_MEMORY if place.in_memory else None)
        self._retention = Retention(bound, clock, wall)
        self._waiting: list[tuple[bytes, int]] = []
        self._slots: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None

    # ------------------------------------------------------------------ life
    async def start(self) -> None:
        """Opens the journal and begins to write. Raises ConfigError for a ledger of a newer version; a database that is
        away, or a folder that cannot be written, is said and does not keep the gateway from serving."""
        self._loop = asyncio.get_running_loop()
        journal = None
        if not self.place.in_memory:
            journal = self._journal()
            await asyncio.to_thread(self._check)
        self._writer = Writer(self.place, journal, self._retention, self._say)
        self._writer.start()

    def _journal(self) -> Journal | None:
        try:
            return Journal(self.place.journal)
        except OSError as error:
            remedy = "set ARRIERO_DATA to a folder that can be written; until then a crash may lose calls"
            self._log.write(
                "ledger_journal", state="none", folder=str(self.place.journal), reason=error.strerror, remedy=remedy
            )
            return None

    def _check(self) -> None:
        """Refuses a ledger that is not for us; what else is wrong with it may pass."""
        try:
            ready(self.place).close()
        except TooNew as error:
            raise ConfigError("store.ledger", f"{self.place.shown} cannot be used: {error}") from error
        except LedgerError:
            return  # the writer says it, and tries again
        except ImportError as error:
            raise ConfigError("store.ledger", "PostgreSQL needs a driver: pip install 'arriero[postgres]'") from error

    def _say(self, event: str, **fields: object) -> None:
        """A line of the log, from any thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(lambda: self._log.write(event, **fields))
        except RuntimeError:  # the loop is closed
            return

    async def aclose(self) -> None:
        """Writes what waits; what the database does not take in time stays in the journal."""
        if self._writer is not None:
            self._flush()
            await asyncio.to_thread(self._writer.close, CLOSE_S)
            self._writer = None

    # ------------------------------------------------------------------ a call
    def begin(self, decision: Decision) -> None:
        """The call is about to be sent: from now on it is not lost, whatever happens."""
        if self._writer is not None and self._writer.journal is not None:
            slot = self._writer.journal.underway.begin(rows.intent(decision))
            if slot >= 0:
                self._slots[decision.id] = slot

    def keep(self, id_: str, line: bytes) -> None:
        """The call of that decision ended, and this is its line."""
        self._waiting.append((line, self._slots.pop(id_, -1)))
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        """Hands on what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        if self._writer is not None and waiting:
            self._writer.add(Batch([line for line, _ in waiting], [slot for _, slot in waiting]))

    # ------------------------------------------------------------------ reading
    @property
    def tally(self) -> Tally:
        return self._writer.tally if self._writer is not None else Tally()

    @property
    def journal_bytes(self) -> int:
        journal = self._writer.journal if self._writer is not None else None
        return journal.waiting_bytes if journal is not None else 0

    async def read(self, ask: Callable[[Database], T]) -> T:
        """What the database answers, with all that ended before in it, as far as it can take that in. Raises Away,
        and does not wait for a database of which that is known."""
        self._flush()
        if self.tally.database_away:
            raise Away("the database takes nothing now")
        deadline = time.monotonic() + FLUSHED_S
        while self.tally.waiting > 0 and not self.tally.database_away and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return await asyncio.to_thread(self._read, ask)

    async def spent(self, scope: str, name: str, since_s: float) -> int:
        """Nano-dollars that the clients of a `key` (by its id), a `team` or a `route` were charged since that second.
        Raises Away."""
        return await self.read(lambda database: reports.spent(database, scope, name, int(since_s * 1000)))

    def _read(self, ask: Callable[[Database], T]) -> T:
        if self.place.in_memory and self._writer is not None:
            with self._writer.using:
                return ask(self._writer.connected())
        database = connect(self.place)
        try:
            return ask(database)
        finally:
            database.close()
