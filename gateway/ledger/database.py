"""One connection to the ledger's database, SQLite or PostgreSQL, with one face: the same SQL for both.

Rule 1. Placeholders are `?`; no other `?` and no `%` stands in our SQL.
Rule 2. What goes wrong is Away (try again later) or Rejected (these rows will never do).
Rule 3. A connection is used by one thread at a time; nothing here is called in the event loop.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from gateway.errors import ArrieroError
from gateway.ledger.place import Place

Values = Sequence[object]
LOCK = 0x41727269
"""PostgreSQL's advisory lock for changes of the schema ("Arri")."""
WAIT_S = 10
"""How long a statement may wait for another writer or for the server."""


class LedgerError(ArrieroError):
    """The ledger's database did not do it."""


class Away(LedgerError):
    """Not there, not writable or too slow: to be tried again."""


class Rejected(LedgerError):
    """What was written is no good, and will not be the next time."""


class Database(Protocol):
    """What both kinds can do. Raises Away or Rejected."""

    @property
    def kind(self) -> str: ...

    def execute(self, sql: str, values: Values = ()) -> int:
        """Runs one statement in a transaction of its own, or in the one that is open: how many rows it touched."""

    def rows(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]: ...

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """A transaction that no other process can have at the same time: for changes of the schema."""

    def transaction(self) -> contextlib.AbstractContextManager[None]: ...

    def close(self) -> None: ...


def connect(place: Place) -> Database:
    """Opens the database. Raises Away."""
    return Sqlite(place.address) if place.kind == "sqlite" else Postgres(place.address)


class Sqlite:
    """A SQLite file in WAL mode: readers and the writer do not wait for each other."""

    kind = "sqlite"

    def __init__(self, path: str) -> None:
        with _sqlite_errors():
            self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def execute(self, sql: str, values: Values = ()) -> int:
        with _sqlite_errors():
            return self._connection.execute(sql, values).rowcount

    def rows(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        with _sqlite_errors():
            return self._connection.execute(sql, values).fetchall()

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return self.transaction()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.InternalError) as error:
        raise Away(str(error)) from error
    except sqlite3.DatabaseError as error:
        known = isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError)
        raise (Rejected if known else Away)(str(error)) from error


class Postgres:
    """A PostgreSQL database by its URL."""

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        import psycopg  # only who names PostgreSQL needs it

        self._errors = psycopg
        options = {"connect_timeout": 5, "keepalives_idle": 15, "tcp_user_timeout": 15_000}
        with self._translated():
            self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=None, **options)  # type: ignore[arg-type]
            self._connection.execute(f"SET statement_timeout = '{WAIT_S}s'")

    def execute(self, sql: str, values: Values = ()) -> int:
        with self._translated():
            return self._connection.execute(sql.replace("?", "%s").encode(), values or None).rowcount

    def rows(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        with self._translated():
            return self._connection.execute(sql.replace("?", "%s").encode(), values or None).fetchall()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self.transaction():
            self.execute("SELECT pg_advisory_xact_lock(?)", (LOCK,))
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._translated(), self._connection.transaction():
            yield

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        errors = self._errors
        try:
            yield
        except (errors.DataError, errors.IntegrityError, errors.ProgrammingError) as error:
            raise Rejected(_first_line(error)) from error
        except errors.Error as error:
            raise Away(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """What PostgreSQL says, without its hints and without the values it quotes in them."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
