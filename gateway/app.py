"""The one place where things are put together: a config becomes a public and an admin application."""

import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth import Keyring
from gateway.catalog import Catalog
from gateway.config import Config
from gateway.decisions import Decisions
from gateway.dispatch import Dispatcher, RetryBudget
from gateway.endpoints import admin, operations
from gateway.endpoints.inference import Inference, Parts
from gateway.endpoints.models import Models
from gateway.fleet import Fleet
from gateway.live import Live
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.settle import Settlement
from gateway.types import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ("chat/completions", "completions", "embeddings")


class Gateway:
    """All parts of one running gateway. Raises ConfigError when the config cannot run."""

    def __init__(
        self,
        config: Config,
        *,
        log: Log | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.log = config, log or Log()
        self.metrics = Metrics()
        self.fleet = Fleet(config, catalog or Catalog.load(), self.metrics, clock, wall)
        self.keyring = Keyring(config.keys, config.teams, wall)
        self.decisions = Decisions()
        self.live = Live(self.metrics.in_flight, self.metrics.draining)
        settlement = Settlement(self.fleet.health, self.metrics, self.log, self.decisions, wall)
        budget = RetryBudget(config.attempts.retry_budget, config.attempts.retry_floor_per_s, clock)
        dispatcher = Dispatcher(config.attempts.max, budget, self.metrics.retries_refused.labels(), clock, wall)
        models = Models(self.fleet, self.keyring, int(wall()))
        parts = Parts(self.fleet, self.keyring, dispatcher, settlement, self.live)
        inference = {f"/v1/{endpoint}": Inference(endpoint, parts) for endpoint in ENDPOINTS}
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in inference.items()]
        listing = [Route("/v1/models", models.list), Route("/v1/models/{name:path}", models.one)]
        self.public = Front(inference, _application([*routes, *listing], self.live))
        self.admin = _application([], self.live)
        admin.add_routes(self.admin, self.fleet, self.decisions, self.metrics)

    async def start(self) -> None:
        await self.fleet.start()

    async def aclose(self) -> None:
        await self.fleet.aclose()
        self.log.flush()


class Front:
    """The public application: a call to a hot path goes straight to its endpoint, all else through the framework.

    The framework's layers cost as much as everything that the gateway itself does to a call."""

    def __init__(self, hot: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self.hot, self.rest = hot, rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = self.hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        return (endpoint or self.rest)(scope, receive, send)


def _application(routes: list[Route], live: Live) -> FastAPI:
    """An application with health and readiness and OpenAI-shaped errors; no docs, no slash redirects."""
    health = [Route("/healthz", operations.healthz), Route("/readyz", operations.readyz)]
    app = FastAPI(
        routes=[*routes, *health],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: operations.refused, RequestValidationError: operations.invalid},
    )
    app.state.live = live
    return app
