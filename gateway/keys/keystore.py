"""The run-time keys in the ledger's database, as rows; digests only. Nothing here is called in the event loop.

Rule 1. Every change takes the next version in its own transaction, so that versions become visible in their order and
        "what is newer than the last I saw" misses nothing.
Rule 2. A revoked key stays as a row; its name is free again.
"""

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from gateway.ledger.database import Away, Database, Rejected
from gateway.ledger.migrations import TooNew, ready
from gateway.ledger.place import Place
from gateway.types import Frozen


class Issue(Frozen, frozen=True, kw_only=True):
    """One run-time key: everything but the key. `words` is its KeyGrant as JSON; times are milliseconds since 1970.

    After a rotation the digest before still holds until `before_until_ms`."""

    id: str
    name: str
    digest: str
    pepper: str
    words: str
    created_ms: int
    created_by: str
    revoked_ms: int | None = None
    revoked_by: str | None = None
    digest_before: str | None = None
    before_until_ms: int | None = None
    version: int = 0


_FIELDS = Issue.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_NEWER = f"SELECT {_COLUMNS} FROM arriero_keys WHERE version > ? ORDER BY version"  # noqa: S608  (our own words only)
_INSERT = f"INSERT INTO arriero_keys ({_COLUMNS}) VALUES ({', '.join('?' for _ in _FIELDS)})"  # noqa: S608
_UPDATE = f"UPDATE arriero_keys SET {' = ?, '.join(_FIELDS)} = ? WHERE id = ? AND revoked_ms IS NULL"  # noqa: S608


class KeyStore:
    """Connects when first used, and again after the database was away. Raises LedgerError throughout."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._database: Database | None = None

    def version(self) -> int:
        """0 until the first key was made."""
        with self._open() as database:
            return _version(database)

    def newer_than(self, version: int) -> Sequence[Issue]:
        """The keys that changed after a version, revoked ones among them, in the order of their changes."""
        with self._open() as database:
            found = database.rows(_NEWER, (version,))
        return [Issue(**dict(zip(_FIELDS, row, strict=True))) for row in found]

    def add(self, issue: Issue) -> Issue:
        """Raises Rejected when an active key has that name."""
        try:
            with self._open() as database, database.transaction():
                issue = _next(database, issue)
                database.execute(_INSERT, msgspec.structs.astuple(issue))
        except Rejected as error:
            raise Rejected(f"an active key has the name '{issue.name}'") from error
        return issue

    def replace(self, issue: Issue) -> Issue:
        """Writes an active key anew. Raises Rejected when it is not active any more."""
        with self._open() as database, database.transaction():
            issue = _next(database, issue)
            if not database.execute(_UPDATE, (*msgspec.structs.astuple(issue), issue.id)):
                raise Rejected(f"the key '{issue.name}' is revoked")
        return issue

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextlib.contextmanager
    def _open(self) -> Iterator[Database]:
        try:
            if self._database is None:
                self._database = ready(self._place)
            yield self._database
        except (Away, TooNew):
            database, self._database = self._database, None
            if database is not None:
                database.close()
            raise


def _version(database: Database) -> int:
    ((version,),) = database.rows("SELECT version FROM arriero_keys_version")
    return int(version)


def _next(database: Database, issue: Issue) -> Issue:
    """The key with the next version. The update holds the row until the transaction ends: the next one waits."""
    database.execute("UPDATE arriero_keys_version SET version = version + 1")
    return msgspec.structs.replace(issue, version=_version(database))
