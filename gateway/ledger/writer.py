"""The two threads behind the ledger: one appends lines to the journal, the other takes them into the database.

Rule 1. The first waits for the local disk only, so that a database that hangs holds up nothing.
Rule 2. What cannot be journaled stays in memory up to HELD_BYTES; what comes beyond is lost, and counted.
Rule 3. A state that changes is said once: journal full or not, database there or not.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.ledger.database import Database, LedgerError, Rejected
from gateway.ledger.insert import insert, insert_each
from gateway.ledger.journal import Full, Journal, orphans
from gateway.ledger.migrations import ready
from gateway.ledger.place import Place
from gateway.ledger.retention import Retention

HELD_BYTES = 64 * 1024**2
LINES = 500
"""Of one transaction."""
RETRY_S = 1.0
ADOPT_S = 30.0
"""How often the folder is searched for what a sibling left that died."""
Say = Callable[..., None]


class Batch(NamedTuple):
    """Lines that were made together, and the slot of each one's call; -1: it has none."""

    lines: Sequence[bytes]
    slots: Sequence[int]


class Tally:
    """What the threads have done, for metrics: each number has one writer."""

    def __init__(self) -> None:
        self.kept = self.done = self.written = self.rejected = self.lost = 0
        self.journal_full = self.database_away = False

    @property
    def waiting(self) -> int:
        """Lines of this process that are not in the database yet."""
        return self.kept - self.done - self.lost


class Writer:
    """Owns the journal's lines and the connection that writes. Everything public may be called from any thread."""

    def __init__(self, place: Place, journal: Journal | None, retention: Retention, say: Say) -> None:
        self.place, self.journal, self.tally = place, journal, Tally()
        self.held_bytes = HELD_BYTES
        self._retention, self._say = retention, say
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._held: deque[tuple[bytes, int]] = deque()
        self._held_size = 0
        self._held_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._database: Database | None = None
        self.using = threading.Lock()
        """Held while the connection is in use; a ledger in memory has no other."""
        self._adopt_at = 0.0
        self._threads = [
            threading.Thread(target=self._scribe, name="ledger-journal", daemon=True),
            threading.Thread(target=self._write, name="ledger-database", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def add(self, batch: Batch) -> None:
        self.tally.kept += len(batch.lines)
        self._batches.put(batch)

    def close(self, within_s: float) -> None:
        """Writes what waits, as far as that goes in the time; the rest stays in the journal."""
        self._batches.put(None)
        self._threads[0].join(within_s)
        self._closing.set()
        self._wake.set()
        self._threads[1].join(within_s)
        if self.journal is not None and not self._threads[1].is_alive():
            self.journal.close()

    # ------------------------------------------------------------------ the journal's thread
    def _scribe(self) -> None:
        while (batch := self._batches.get()) is not None:
            lines, slots = list(batch.lines), list(batch.slots)
            while not self._batches.empty() and len(lines) < LINES:
                more = self._batches.get()
                if more is None:
                    self._batches.put(None)
                    break
                lines += more.lines
                slots += more.slots
            self._append(lines, slots)
            self._wake.set()

    def _append(self, lines: Sequence[bytes], slots: Sequence[int]) -> None:
        if self.journal is None:
            self._hold(lines, slots)
            return
        try:
            self.journal.append(b"".join(lines))
        except (Full, OSError) as error:
            self._journal_full(True, str(error))
            self._hold(lines, slots)
            return
        self._journal_full(False)
        self._free(slots)

    def _free(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if slot >= 0 and self.journal is not None:
                self.journal.underway.end(slot)

    def _hold(self, lines: Sequence[bytes], slots: Sequence[int]) -> None:
        """Keeps lines in memory; until they are in the database their slots tell of the calls."""
        for line, slot in zip(lines, slots, strict=True):
            with self._held_lock:
                fits = self._held_size + len(line) <= self.held_bytes
                if fits:
                    self._held.append((line, slot))
                    self._held_size += len(line)
            if not fits:
                self.tally.lost += 1
                self._free([slot])

    def _journal_full(self, full: bool, why: str = "") -> None:
        if full != self.tally.journal_full:
            self.tally.journal_full = full
            self._say("ledger_journal", state="full" if full else "ok", reason=why or None)

    # ------------------------------------------------------------------ the database's thread
    def _write(self) -> None:
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                with self.using:
                    self._round()
                self._database_away(False)
                wait_s = ADOPT_S if not self._waiting() else 0.0
            except (LedgerError, OSError) as error:
                self._failed(str(error))
                wait_s = RETRY_S
            except Exception as error:  # noqa: BLE001  (the outermost place of the thread: it must go on)
                self._failed(f"a bug: {type(error).__name__} {error}"[:200])
                wait_s = RETRY_S
            if closing:
                self._drop()
                return
            if wait_s:
                self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        """Until there is something to do; after a failure the whole time, unless the end comes."""
        if seconds > RETRY_S:
            self._wake.wait(seconds)
        else:
            self._closing.wait(seconds)

    def _waiting(self) -> bool:
        return bool(self._held or (self.journal and self.journal.waiting_bytes))

    def _round(self) -> None:
        """Everything that can be done now. Raises Away."""
        database = self.connected()
        self._adopt(database)
        while self.journal is not None and (lines := self.journal.next()):
            self._insert(database, lines.splitlines())
            self.journal.take(lines)
        while self._held:
            part = [self._held[i] for i in range(min(LINES, len(self._held)))]
            self._insert(database, [line.rstrip(b"\n") for line, _ in part])
            self._release(part)
        self._retention.piece(database)

    def _release(self, part: Sequence[tuple[bytes, int]]) -> None:
        with self._held_lock:
            for line, _ in part:
                self._held.popleft()
                self._held_size -= len(line)
        self._free([slot for _, slot in part])

    def connected(self) -> Database:
        """The connection, made and migrated when there is none. The caller has `using`. Raises LedgerError."""
        if self._database is None:
            self._database = ready(self.place)
        return self._database

    def _insert(self, database: Database, lines: Sequence[bytes], *, ours: bool = True) -> None:
        for start in range(0, len(lines), LINES):
            part, rejected = lines[start : start + LINES], 0
            try:
                insert(database, part)
            except Rejected:
                rejected = insert_each(database, part, self._set_aside)
            self._database_away(False)  # before the count says that it is written
            self.tally.rejected += rejected
            if ours:
                self.tally.done += len(part)
                self.tally.written += len(part) - rejected

    def _set_aside(self, line: bytes, why: str) -> None:
        """A line that cannot be written is kept in a file for people to look at."""
        self._say("ledger_rejected", reason=why[:200], bytes=len(line))
        if self.journal is not None:
            with (self.journal.folder / "rejected.rows").open("ab") as file:
                file.write(line + b"\n")

    def _adopt(self, database: Database) -> None:
        """Takes in what dead processes left in the folder, now and then."""
        now = self._retention.clock()
        if self.journal is None or now < self._adopt_at:
            return
        for orphan in orphans(self.journal.folder):
            count = 0
            for piece in orphan.pieces():
                lines = piece.splitlines()
                self._insert(database, lines, ours=False)
                count += len(lines)
            orphan.remove()
            self._say("ledger_adopted", calls=count)
        self._adopt_at = now + ADOPT_S

    def _database_away(self, away: bool, why: str = "") -> None:
        if away != self.tally.database_away:
            self.tally.database_away = away
            self._say("ledger", state="away" if away else "ok", ledger=self.place.shown, reason=why or None)

    def _failed(self, why: str) -> None:
        self._drop()
        self._database_away(True, why)

    def _drop(self) -> None:
        if self._database is not None and not self.place.in_memory:
            self._database.close()
            self._database = None
