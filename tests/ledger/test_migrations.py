"""The ledger's tables come by themselves, once, whoever starts first; a newer ledger is left alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from gateway.ledger.database import Away, Database, Rejected, connect
from gateway.ledger.migrations import MIGRATIONS, TooNew, migrate
from gateway.ledger.place import Place, place

TOGETHER = 8


def with_database(at: Place, use: Callable[[Database], int]) -> int:
    database = connect(at)
    try:
        return use(database)
    finally:
        database.close()


def test_an_empty_database_gets_every_version_once(at: Place) -> None:
    assert with_database(at, migrate) == 0
    assert with_database(at, migrate) == len(MIGRATIONS)
    database = connect(at)
    assert database.rows("SELECT version FROM arriero_schema ORDER BY version") == [
        (version,) for version in range(1, len(MIGRATIONS) + 1)
    ]
    database.close()


def test_replicas_that_start_together_run_each_version_once(at: Place) -> None:
    barrier = Barrier(TOGETHER)

    def start(_: int) -> int:
        barrier.wait()
        return with_database(at, migrate)

    with ThreadPoolExecutor(TOGETHER) as pool:
        had = sorted(pool.map(start, range(TOGETHER)))
    assert had == [0] + [len(MIGRATIONS)] * (TOGETHER - 1)


def test_a_version_that_fails_half_way_leaves_nothing(at: Place) -> None:
    broken = [*MIGRATIONS, ["CREATE TABLE half (x BIGINT)", "CREATE TABLE nonsense ("]]
    with pytest.raises((Away, Rejected)):
        with_database(at, lambda database: migrate(database, broken))
    assert with_database(at, migrate) == 0


def test_a_newer_ledger_is_refused_with_the_remedy(at: Place) -> None:
    newer = [*MIGRATIONS, ["CREATE TABLE arriero_later (x BIGINT)"]]
    with_database(at, lambda database: migrate(database, newer))
    with pytest.raises(TooNew, match=rf"version {len(newer)}.*knows up to {len(MIGRATIONS)}: upgrade Arriero"):
        with_database(at, migrate)


def test_a_folder_that_is_not_there_is_away(tmp_path: Path) -> None:
    with pytest.raises(Away):
        connect(place("sqlite:///nowhere/ledger.db", tmp_path))


def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    with pytest.raises(Away):
        connect(place(f"postgresql://a:secret@/x?host={tmp_path}", tmp_path))


@pytest.mark.parametrize(
    "url", ["", "x", "mysql://h/d", "sqlite://host/file", "sqlite:///", "sqlite:///a?mode=ro", "postgresql://h:x/d"]
)
def test_a_url_of_another_form_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be sqlite:///file\.db"):
        place(url, tmp_path)


def test_what_is_shown_of_a_url_holds_no_password(tmp_path: Path) -> None:
    assert place("postgresql://me:secret@db.example/arriero", tmp_path).shown == "postgresql://db.example/arriero"
