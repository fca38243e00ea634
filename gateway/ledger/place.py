"""Where a ledger lives: the URL of the config as a SQLite file, as memory, or as a PostgreSQL database."""

import os
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

FORMS = (
    "sqlite:///file.db (relative), sqlite:////folder/file.db, sqlite:///:memory:, "
    "postgresql://user:password@host/name or none"
)
JOURNAL = "arriero.journal"
USUAL = "sqlite:///arriero.db"
MEMORY = "sqlite:///:memory:"
_UNTIL = "costs are kept in memory until the end; set ARRIERO_DATA to a folder that can be written, or say store.ledger"


class Place(NamedTuple):
    """A database and the local folder of its journal. `address` is a path, ":memory:", or a URL with credentials in it;
    `shown` is what may be printed."""

    kind: Literal["sqlite", "postgresql"]
    address: str
    shown: str
    journal: Path

    @property
    def in_memory(self) -> bool:
        return self.address == ":memory:"


class Storage(NamedTuple):
    """The folder of what is kept on this machine; the URL of the ledger where the config names none, None for none."""

    folder: Path = Path()
    usual: str | None = None
    note: str = ""


NOTHING_USUAL = Storage()


def storage(folder: str | None, *, lasting: bool) -> Storage:
    """In the folder of $ARRIERO_DATA, else in the current one; in memory, with a note, where that cannot be written. A
    run without a config file and without that folder is not `lasting`: it leaves nothing behind."""
    at = Path(folder or "")
    if not lasting and not folder:
        return Storage(at, MEMORY)
    if at.is_dir() and os.access(at, os.W_OK | os.X_OK):
        return Storage(at, USUAL)
    return Storage(at, MEMORY, f"{at.absolute()} cannot be written: {_UNTIL}")


def place(url: str, folder: Path) -> Place:
    """What a URL names; relative paths, and the journal of a remote database, are in `folder`.

    Raises ValueError that says the forms, and never the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"must be {FORMS}") from error
    if parts.scheme in ("postgresql", "postgres"):
        return Place("postgresql", url, f"postgresql://{host or ''}{parts.path}", folder / JOURNAL)
    path = unquote(parts.path.removeprefix("/"))
    if parts.scheme != "sqlite" or parts.netloc or not path or parts.query:
        raise ValueError(f"must be {FORMS}")
    if path == ":memory:":
        return Place("sqlite", path, "memory", folder / JOURNAL)
    file = folder / path
    return Place("sqlite", str(file), str(file), file.with_suffix(".journal"))
