"""The admin port's reports out of the ledger: spend and savings."""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse

from gateway.commands.spend import savings_found, spend_found
from gateway.endpoints.guard import Guard
from gateway.ledger import reports
from gateway.ledger.book import Ledger
from gateway.ledger.database import Database, LedgerError

T = TypeVar("T")
Moment = Annotated[str | None, Query(max_length=40)]


def add_routes(app: FastAPI, guard: Guard, ledger: Ledger | None) -> None:
    may_read = Depends(guard)

    @app.get("/admin/spend", dependencies=[may_read])
    async def spend(
        by: Literal["key", "team", "route", "deployment", "cloud", "model", "day"] = "key",
        since: Moment = None,
        until: Moment = None,
    ) -> JSONResponse:
        period = _period(since, until)
        lines = await asked(ledger, lambda database: reports.spend(database, by, period))
        return JSONResponse(spend_found(by, period, lines))

    @app.get("/admin/savings", dependencies=[may_read])
    async def savings(since: Moment = None, until: Moment = None) -> JSONResponse:
        period = _period(since, until)
        return JSONResponse(savings_found(period, await asked(ledger, lambda found: reports.savings(found, period))))


def _period(since: str | None, until: str | None) -> reports.Period:
    try:
        return reports.period(since, until)
    except ValueError as error:
        raise HTTPException(400, f"The period {error}.") from error


async def asked(ledger: Ledger | None, ask: Callable[[Database], T]) -> T:
    """What the ledger answers. Raises HTTPException where there is none, or none that answers."""
    if ledger is None:
        raise HTTPException(404, "This gateway keeps no ledger: say `store: {ledger: sqlite:///arriero.db}`.")
    try:
        return await ledger.read(ask)
    except LedgerError as error:
        raise HTTPException(503, "The ledger's database is away; calls wait in the journal. Ask again.") from error
