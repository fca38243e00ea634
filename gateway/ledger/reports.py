"""What the ledger adds up to: spend by key, team, route, deployment, cloud, model or day, and savings. Reads only.

Rule 1. By who called it is the calls that are added up, by who answered the attempts: a retry is a call's once and a
        cloud's twice.
Rule 2. `charged` is what clients got, `spent` all that clouds bill; `estimated` is the part of it that is.
"""

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from gateway.ledger.database import Database

DAY_MS = 86_400_000
BY = ("key", "team", "route", "deployment", "cloud", "model", "day")
_OF_CALLS = {"key": "key_name", "team": "team", "route": "route", "day": f"at_ms / {DAY_MS}"}
_OF_ATTEMPTS = ("deployment", "cloud", "model")
SCOPES = {"key": "key_id", "team": "team", "route": "route"}


class Period(NamedTuple):
    """From one moment to before another, in milliseconds since 1970."""

    since_ms: int
    until_ms: int


class Spent(NamedTuple):
    """One line of a report; `times` counts calls, or attempts where the report is by who answered. Nano-dollars."""

    name: str
    times: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    charged: int
    spent: int
    estimated: int


class Saved(NamedTuple):
    """What calls cost, and what they would have cost at a baseline."""

    baseline: str
    calls: int
    prompt_tokens: int
    output_tokens: int
    spent: int
    baseline_cost: int
    estimated: int


_TOKENS = "COUNT(*), SUM(prompt_tokens), SUM(cached_tokens), SUM(output_tokens)"
_WHEN = "at_ms >= ? AND at_ms < ?"


def spend(database: Database, by: str, period: Period) -> Sequence[Spent]:
    """The dearest first, days in their order."""
    if by in _OF_ATTEMPTS:
        name, table, ours = by, "arriero_attempts", "cost_nano"
        charged = "SUM(CASE WHEN delivered = 1 THEN cost_nano ELSE 0 END)"
    else:
        name, table, ours = _OF_CALLS[by], "arriero_calls", "spent_nano"
        charged = "SUM(cost_nano)"
    estimated = f"SUM(CASE WHEN estimated = 1 THEN {ours} ELSE 0 END)"
    picked = f"{name}, {_TOKENS}, {charged}, SUM({ours}), {estimated}"
    rows = database.rows(f"SELECT {picked} FROM {table} WHERE {_WHEN} GROUP BY {name}", period)  # noqa: S608
    found = [Spent(_shown(by, first), *map(int, rest)) for first, *rest in rows]
    return sorted(found, key=(lambda line: line.name) if by == "day" else lambda line: (-line.spent, line.name))


def total(lines: Sequence[Spent]) -> Spent:
    return Spent("total", *(sum(column) for column in list(zip(*lines, strict=True))[1:])) if lines else _NOTHING


_NOTHING = Spent("total", 0, 0, 0, 0, 0, 0, 0)


def _shown(by: str, name: object) -> str:
    if by == "day":
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(str(name)))).date().isoformat()
    return str(name) or "-"


def savings(database: Database, period: Period) -> Sequence[Saved]:
    """One line for each baseline that calls were compared with."""
    sums = "SUM(spent_nano), SUM(baseline_nano), SUM(CASE WHEN estimated = 1 THEN spent_nano ELSE 0 END)"
    rows = database.rows(
        f"SELECT baseline_model, COUNT(*), SUM(prompt_tokens), SUM(output_tokens), {sums} FROM arriero_calls "  # noqa: S608
        f"WHERE {_WHEN} AND baseline_nano IS NOT NULL GROUP BY baseline_model ORDER BY baseline_model",
        period,
    )
    return [Saved(str(model), *map(int, rest)) for model, *rest in rows]


def spent(database: Database, scope: str, name: str, since_ms: int) -> int:
    """What the clients of a key (by its id), a team or a route were charged since then, in nano-dollars."""
    where = f"{SCOPES[scope]} = ? AND at_ms >= ?"
    ((nano,),) = database.rows(f"SELECT COALESCE(SUM(cost_nano), 0) FROM arriero_calls WHERE {where}", (name, since_ms))  # noqa: S608
    return int(nano)


_AGO = re.compile(r"([1-9]\d{0,5})([hd])")


def period(since: str | None, until: str | None, wall: Callable[[], float] = time.time) -> Period:
    """From and to as people write them: 2026-11-01, 2026-11-01T12:00Z, 7d or 24h ago. By default this UTC month.

    Raises ValueError that says the forms."""
    now = datetime.fromtimestamp(wall(), UTC)
    begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) if since is None else _moment(since, now)
    end = now + timedelta(days=1) if until is None else _moment(until, now)
    if end <= begin:
        raise ValueError("ends before it begins")
    return Period(int(begin.timestamp() * 1000), int(end.timestamp() * 1000))


def _moment(text: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{"hours" if ago[2] == "h" else "days": int(ago[1])})
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"'{text[:40]}' must be like 2026-11-01, 2026-11-01T12:00Z, 7d or 24h") from error
