"""`arriero spend` and `arriero savings`: from a running gateway's admin port; without one, from the ledger itself."""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from gateway.commands.remote import Unreachable, ask
from gateway.commands.spend import savings_found, savings_text, spend_found, spend_text, to_csv
from gateway.config import loading
from gateway.errors import ArrieroError, ConfigError
from gateway.ledger import reports
from gateway.ledger.database import Database, LedgerError
from gateway.ledger.migrations import ready
from gateway.ledger.place import place, storage
from gateway.serve import say

T = TypeVar("T")


def flags(spend_: argparse.ArgumentParser, savings_: argparse.ArgumentParser) -> None:
    """What both commands take beside --admin-url and --config."""
    spend_.add_argument("--by", choices=reports.BY, default="key", help="what to add up by (key)")
    for command in (spend_, savings_):
        command.add_argument("--since", metavar="T", help="2026-11-01, 2026-11-01T12:00Z, 7d or 24h; else this month")
        command.add_argument("--until", metavar="T", help="in the same forms; else open")
        form = command.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="for spreadsheets")
        form.add_argument("--json", action="store_true", help="for programs")


def spend(arguments: argparse.Namespace) -> int:
    """What was spent, by key, team, route, deployment, cloud, model or day."""
    period = _period(arguments)

    def read(database: Database) -> Mapping[str, Any]:
        return spend_found(arguments.by, period, reports.spend(database, arguments.by, period))

    _show(arguments, _found(arguments, "/admin/spend", {"by": arguments.by}, read), spend_text)
    return 0


def savings(arguments: argparse.Namespace) -> int:
    """What the same calls would have cost at the baseline."""
    period = _period(arguments)

    def read(database: Database) -> Mapping[str, Any]:
        return savings_found(period, reports.savings(database, period))

    _show(arguments, _found(arguments, "/admin/savings", {}, read), savings_text)
    return 0


def _period(arguments: argparse.Namespace) -> reports.Period:
    try:
        return reports.period(arguments.since, arguments.until)
    except ValueError as error:
        raise ConfigError("--since, --until", str(error)) from error


def _found(
    arguments: argparse.Namespace, path: str, words: Mapping[str, str], read: Callable[[Database], Mapping[str, Any]]
) -> Mapping[str, Any]:
    given = {"since": arguments.since, "until": arguments.until}
    query = urlencode({**words, **{word: text for word, text in given.items() if text is not None}})
    try:
        found: Mapping[str, Any] = ask(arguments.admin_url, f"{path}?{query}")
        return found
    except Unreachable as error:
        return _offline(arguments, read, error)


def _offline(arguments: argparse.Namespace, read: Callable[[Database], T], unreachable: Unreachable) -> T:
    """From the ledger that the config names. What a gateway that was killed had not written yet comes with its next
    start."""
    file = Path(arguments.config or "arriero.yaml")
    if not file.exists():
        raise ConfigError("", f"{unreachable}; and there is no {file} that names a ledger") from unreachable
    store, kept = loading.read(file).store, storage(os.environ.get("ARRIERO_DATA"), lasting=True)
    url = store.url(kept.usual)
    if url is None:
        raise ConfigError("store.ledger", f"{file} keeps no ledger")
    at = place(url, kept.folder)
    if at.in_memory or (at.kind == "sqlite" and not Path(at.address).exists()):
        raise ArrieroError(f"{unreachable}; and there is no ledger at {at.shown}") from unreachable
    say(f"no gateway answers at {arguments.admin_url}: read from {at.shown}")
    try:
        database = ready(at)
        try:
            return read(database)
        finally:
            database.close()
    except LedgerError as error:
        raise ArrieroError(f"the ledger {at.shown} cannot be read: {error}") from error
    except ImportError as error:
        raise ConfigError("store.ledger", "PostgreSQL needs a driver: pip install 'arriero[postgres]'") from error


def _show(arguments: argparse.Namespace, found: Mapping[str, Any], text: Callable[[Mapping[str, Any]], str]) -> None:
    if arguments.csv:
        print(to_csv(found), end="")  # noqa: T201
    else:
        print(json.dumps(found, indent=2) if arguments.json else text(found))  # noqa: T201
