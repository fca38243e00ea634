"""The admin port: decisions, dry runs, what is known of each deployment, metrics. Never on the public port."""

import asyncio
import math
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import JSONResponse, Response

from gateway.decisions import Decisions
from gateway.endpoints.accounting import asked
from gateway.endpoints.guard import Guard
from gateway.errors import Answerable
from gateway.explain import Asked, dry_run
from gateway.ledger.book import Ledger
from gateway.ledger.recall import recall, told
from gateway.metrics import Metrics
from gateway.parts import Current


def add_routes(
    app: FastAPI, current: Current, decisions: Decisions, metrics: Metrics, ledger: Ledger | None = None
) -> None:
    """The admin API of one gateway."""
    may_read = Depends(Guard("read", lambda: current.parts.fleet.config.admin.tokens))

    @app.get("/metrics")
    async def read_metrics() -> Response:
        text = await asyncio.to_thread(metrics.text)  # of many deployments it takes a while, which calls need not wait
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/admin/decisions", dependencies=[may_read])
    async def latest(count: Annotated[int, Query(ge=1, le=1000)] = 20) -> JSONResponse:
        return _json([told(line) for line in decisions.latest(count)])

    @app.get("/admin/decisions/{id_}", dependencies=[may_read])
    async def decision(id_: str) -> JSONResponse:
        if (line := decisions.get(id_)) is not None:
            return _json(told(line))
        found = await asked(ledger, lambda database: recall(database, id_)) if ledger is not None else None
        if found is None:
            where = "in the ledger" if ledger is not None else f"among the last {decisions.size} calls"
            raise HTTPException(404, f"There is no decision or request '{id_[:128]}' {where}.")
        return _json(found)

    @app.post("/admin/explain", dependencies=[may_read])
    async def explain(asked: Asked) -> JSONResponse:
        try:
            return _json(dry_run(asked, current.parts.fleet))
        except Answerable as error:
            raise HTTPException(error.status, error.message) from error


def _json(value: Any) -> JSONResponse:
    return JSONResponse(_finite(value))


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null says it."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
