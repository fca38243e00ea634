"""The tables of the ledger's database, version by version, the same for SQLite and PostgreSQL.

Rule 1. A version that was released is never changed; a change is a new version at the end.
Rule 2. Two processes that start together run each version once: the whole is one exclusive transaction.
Rule 3. Text, BIGINT and SMALLINT only: both databases know them. Money is BIGINT nano-dollars, times are BIGINT
        milliseconds since the epoch (UTC), yes and no is SMALLINT 1 and 0, lists and maps are JSON in TEXT.
"""

from collections.abc import Sequence

from gateway.ledger.database import Database, LedgerError, connect
from gateway.ledger.place import Place


class TooNew(LedgerError):
    """The database was written by a newer Arriero."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"it is of version {found}, and this Arriero knows up to {known}: upgrade Arriero, or name another ledger"
        )


_USED = """
    prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
    prompt_characters BIGINT, output_characters BIGINT
"""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        f"""CREATE TABLE arriero_calls (
            id TEXT PRIMARY KEY, request_id TEXT NOT NULL, at_ms BIGINT NOT NULL,
            key_id TEXT NOT NULL, key_name TEXT NOT NULL, team TEXT NOT NULL, route TEXT NOT NULL,
            endpoint TEXT NOT NULL, stream SMALLINT NOT NULL, deployment TEXT, cloud TEXT, model TEXT, {_USED},
            cost_nano BIGINT NOT NULL, spent_nano BIGINT NOT NULL, baseline_nano BIGINT, baseline_model TEXT,
            estimated SMALLINT NOT NULL, attempts BIGINT NOT NULL, ttft_ms BIGINT, total_ms BIGINT NOT NULL,
            outcome TEXT NOT NULL, status BIGINT NOT NULL, code TEXT NOT NULL, labels TEXT NOT NULL,
            decision TEXT NOT NULL
        )""",
        "CREATE INDEX arriero_calls_at ON arriero_calls (at_ms)",
        "CREATE INDEX arriero_calls_request ON arriero_calls (request_id)",
        "CREATE INDEX arriero_calls_key ON arriero_calls (key_id, at_ms)",
        f"""CREATE TABLE arriero_attempts (
            call_id TEXT NOT NULL, n BIGINT NOT NULL, at_ms BIGINT NOT NULL,
            route TEXT NOT NULL, deployment TEXT NOT NULL, cloud TEXT NOT NULL, model TEXT NOT NULL,
            outcome TEXT NOT NULL, message TEXT NOT NULL, status BIGINT NOT NULL, delivered SMALLINT NOT NULL, {_USED},
            price TEXT NOT NULL, cost_nano BIGINT NOT NULL, marginal_nano BIGINT, estimated SMALLINT NOT NULL,
            began_ms BIGINT NOT NULL, ttft_ms BIGINT, total_ms BIGINT NOT NULL, degraded TEXT NOT NULL,
            PRIMARY KEY (call_id, n)
        )""",
        "CREATE INDEX arriero_attempts_at ON arriero_attempts (at_ms)",
    ),
    (
        """CREATE TABLE arriero_keys (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, pepper TEXT NOT NULL, words TEXT NOT NULL,
            created_ms BIGINT NOT NULL, created_by TEXT NOT NULL, revoked_ms BIGINT, revoked_by TEXT,
            digest_before TEXT, before_until_ms BIGINT, version BIGINT NOT NULL
        )""",
        "CREATE UNIQUE INDEX arriero_keys_name ON arriero_keys (name) WHERE revoked_ms IS NULL",
        "CREATE INDEX arriero_keys_changed ON arriero_keys (version)",
        "CREATE TABLE arriero_keys_version (version BIGINT NOT NULL)",
        "INSERT INTO arriero_keys_version (version) VALUES (0)",
    ),
)


def migrate(database: Database, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Brings the database to the newest version that is known here; the version it had. Raises TooNew, Away."""
    with database.exclusive():
        database.execute("CREATE TABLE IF NOT EXISTS arriero_schema (version BIGINT NOT NULL)")
        ((had,),) = database.rows("SELECT COALESCE(MAX(version), 0) FROM arriero_schema")
        if had > len(migrations):
            raise TooNew(had, len(migrations))
        for version, statements in enumerate(migrations[had:], had + 1):
            for statement in statements:
                database.execute(statement)
            database.execute("INSERT INTO arriero_schema (version) VALUES (?)", (version,))
    return int(had)


def ready(place: Place) -> Database:
    """A connection to the ledger at that place, of the newest version. Raises TooNew, Away, ImportError."""
    database = connect(place)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database
