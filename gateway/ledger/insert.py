"""Lines of the journal into the tables, many rows a statement, idempotent.

Rule 1. A row that is there stays as it is, with its attempts: any line may come any number of times, from any process.
Rule 2. A line that no database will ever take is set aside, and the others go on.
Rule 3. A statement takes as many rows as it can: each one is a chance for the event loop to keep us waiting.
Rule 4. Between statements this thread waits for a moment: where it shares a core with the event loop it would be given
        some 3 ms in a row, and calls would wait for that long.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from gateway.ledger.database import Database, Rejected
from gateway.ledger.rows import ATTEMPTS, CALLS

Columns = tuple[tuple[str, str], ...]
Row = Sequence[Any]
_KINDS: dict[str, Any] = {"text": str | None, "int": int | None, "json": msgspec.Raw}


def _shape(columns: Columns) -> Any:
    return tuple[tuple(_KINDS[kind] for _, kind in columns)]  # type: ignore[misc]


_decode = msgspec.json.Decoder(tuple[_shape(CALLS), list[_shape(ATTEMPTS)]]).decode  # type: ignore[misc]
_JSON_OF_CALL = [i for i, (_, kind) in enumerate(CALLS) if kind == "json"]
_JSON_OF_ATTEMPT = [i for i, (_, kind) in enumerate(ATTEMPTS) if kind == "json"]
SQLITE_ROWS = 100
MOMENT_S = 10e-6
_CALLS = ("arriero_calls", CALLS, "id")
_ATTEMPTS = ("arriero_attempts", ATTEMPTS, "call_id, n")


def insert(database: Database, lines: Sequence[bytes]) -> None:
    """Puts the lines into both tables, all or none. Raises Away, or Rejected when one of them is no good."""
    many = _sqlite if database.kind == "sqlite" else _postgres
    with database.transaction():
        if many(database, lines) < len(lines):
            _trim(database, lines)


def insert_each(database: Database, lines: Sequence[bytes], set_aside: Callable[[bytes, str], None]) -> int:
    """The same line by line, for when one of them is no good: how many were not. Raises Away."""
    rejected = 0
    for line in lines:
        try:
            insert(database, [line])
        except Rejected as error:
            set_aside(line, str(error))
            rejected += 1
    return rejected


def _trim(database: Database, lines: Sequence[bytes]) -> None:
    """Some calls were there: what a second line of them told of more attempts than the first goes again."""
    ids = [_decode(line)[0][0] for line in lines]
    more = "n > (SELECT attempts FROM arriero_calls WHERE id = call_id)"
    for start in range(0, len(ids), SQLITE_ROWS):
        part = ids[start : start + SQLITE_ROWS]
        listed = ", ".join("?" * len(part))
        database.execute(f"DELETE FROM arriero_attempts WHERE call_id IN ({listed}) AND {more}", part)  # noqa: S608


def _sqlite(database: Database, lines: Sequence[bytes]) -> int:
    """Taken apart here: SQLite reads JSON slowly. How many calls were not there."""
    new = 0
    for start in range(0, len(lines), SQLITE_ROWS):
        calls: list[Row] = []
        attempts: list[Row] = []
        try:
            for line in lines[start : start + SQLITE_ROWS]:
                call, tries = _decode(line)
                calls.append(_texts(call, _JSON_OF_CALL))
                attempts += [_texts(attempt, _JSON_OF_ATTEMPT) for attempt in tries]
        except msgspec.DecodeError as error:
            raise Rejected(f"not a line of a journal: {error}") from error
        new += _put(database, _CALLS, calls)
        _put(database, _ATTEMPTS, attempts)
    return new


def _put(database: Database, into: tuple[str, Columns, str], rows: Sequence[Row]) -> int:
    new = 0
    for start in range(0, len(rows), SQLITE_ROWS):
        time.sleep(MOMENT_S)
        part = rows[start : start + SQLITE_ROWS]
        new += database.execute(_values(*into, len(part)), [value for row in part for value in row])
    return new


def _texts(row: Row, places: Sequence[int]) -> Row:
    """The row with its JSON as text."""
    found = list(row)
    for i in places:
        found[i] = bytes(found[i]).decode()
    return found


@lru_cache
def _values(table: str, columns: Columns, key: str, count: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return _insert(table, columns, f"VALUES {', '.join([row] * count)}", key)


def _postgres(database: Database, lines: Sequence[bytes]) -> int:
    """Taken apart by the server: PostgreSQL reads JSON fast, and the driver writes values slowly. How many calls were
    not there."""
    text = b"[%b]" % b",".join(lines)
    new, _ = [database.execute(statement, (text.decode(),)) for statement in _POSTGRES]
    return new


def _picked(table: str, columns: Columns, key: str, source: str) -> str:
    casts = {"int": "::bigint", "text": "", "json": ""}
    picked = ", ".join(f"(value->>{i}){casts[kind]}" for i, (_, kind) in enumerate(columns))
    # OFFSET 0 keeps the planner from taking the line apart once a column
    return _insert(table, columns, f"SELECT {picked} FROM ({source} OFFSET 0) AS found", key)  # noqa: S608


def _insert(table: str, columns: Columns, source: str, key: str) -> str:
    names = ", ".join(name for name, _ in columns)
    return f"INSERT INTO {table} ({names}) {source} ON CONFLICT ({key}) DO NOTHING"


_LINES = "jsonb_array_elements(?::jsonb) AS lines(line)"
_POSTGRES = (
    _picked(*_CALLS, f"SELECT line->0 AS value FROM {_LINES}"),  # noqa: S608  (our own words, here and above)
    _picked(*_ATTEMPTS, f"SELECT value FROM {_LINES}, jsonb_array_elements(line->1) AS tries(value)"),  # noqa: S608
)
