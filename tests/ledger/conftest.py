"""Both databases of the ledger, empty and of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ledger.place import Place, place
from tests import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    with postgres.serving() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty ledger."""
    if request.param == "sqlite":
        return "sqlite:///ledger.db"
    server: postgres.Postgres = request.getfixturevalue("postgres_server")
    return server.database()


@pytest.fixture
def at(url: str, tmp_path: Path) -> Place:
    return place(url, tmp_path)


@pytest.fixture
def own_server() -> Iterator[postgres.Postgres]:
    """A server that may be killed: nobody else's."""
    with postgres.serving() as server:
        yield server
