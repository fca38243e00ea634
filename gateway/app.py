"""The one place where things are put together: a config becomes a public and an admin application."""

import asyncio
import time
from collections.abc import Callable

from starlette.routing import Route

from gateway.accounts import Accounts
from gateway.auth import Keyring
from gateway.catalog import Catalog
from gateway.config.document import Config
from gateway.decisions import Decisions
from gateway.dispatch import Dispatcher, RetryBudget
from gateway.endpoints import accounting, admin, keys
from gateway.endpoints.guard import Guard
from gateway.endpoints.inference import Inference
from gateway.endpoints.models import Models
from gateway.endpoints.operations import PostOnly
from gateway.fleet import Fleet, Lasting
from gateway.front.applications import Front, application
from gateway.health import Health
from gateway.keys.issued import issued_keys
from gateway.ledger.book import opened
from gateway.ledger.gauges import Writing
from gateway.ledger.place import NOTHING_USUAL, Storage
from gateway.limits.book import Book
from gateway.limits.gossip import Gossip
from gateway.limits.limiter import Limiter, Times
from gateway.limits.purses import Budgets
from gateway.limits.rules import Rulebook
from gateway.limits.sharing import shared_book
from gateway.live import Live
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.parts import Parts
from gateway.settle import Books, Settlement
from gateway.succession import Succession
from gateway.telemetry.otlp import Telemetry
from gateway.telemetry.traces import Traces
from gateway.types import Endpoint
from gateway.vitals.shedding import Vitals

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
        storage: Storage = NOTHING_USUAL,
    ) -> None:
        self.log, self.metrics, self.decisions = log or Log(), Metrics(), Decisions()
        self.live = Live(self.metrics.in_flight, self.metrics.draining)
        self.vitals = Vitals(self.live, self.metrics, self.log)
        self._book = Book(clock, wall)
        self._shared = shared_book(config.store, self._book, self.metrics, self.log, clock)
        shared = self._shared
        self.gossip = None if shared is None else Gossip(shared.store, lambda: self.fleet.health, clock, wall)
        self._gossiping: asyncio.Task[None] | None = None
        self.metrics.registry.register(Budgets(self._book, self._shared))
        self.ledger = opened(config.store, storage, self.log, clock, wall)
        self.metrics.registry.register(Writing(self.ledger))
        self.issued = issued_keys(config.store, storage, self.log, wall)
        self.issued.gone = lambda name: self.metrics.forget([{"key": name}], ())
        self.metrics.keys_away.set_function(lambda: self.issued.away)
        self._telemetry = Telemetry(config.telemetry, self.metrics) if config.telemetry else None
        lasting = Lasting(catalog or Catalog.load(), self.metrics, clock, wall)
        parts = self._parts(config, Accounts(config, clock), Health(clock), lasting)
        self._succession = Succession(parts, self._parts, lasting, self.live)
        self.current = self._succession.current
        models = Models(self.current, int(wall()))
        inference = {f"/v1/{endpoint}": Inference(endpoint, self.current) for endpoint in ENDPOINTS}
        routes = [Route(path, PostOnly()) for path in inference]
        listing = [Route("/v1/models", models.list), Route("/v1/models/{name:path}", models.one)]
        self.public = Front(inference, application([*routes, *listing], self.live))
        self.admin = application([], self.live)
        self.admin.state.exposed = False
        admin.add_routes(self.admin, self.current, self.decisions, self.metrics, self.ledger)
        accounting.add_routes(self.admin, Guard("read", lambda: self.config.admin.tokens), self.ledger)
        keys.add_routes(self.admin, self.current, self.issued, self.log)

    @property
    def config(self) -> Config:
        return self.current.parts.fleet.config

    @property
    def fleet(self) -> Fleet:
        return self.current.parts.fleet

    @property
    def limiter(self) -> Limiter:
        return self.current.parts.limiter

    @property
    def keyring(self) -> Keyring:
        return self.current.parts.keyring

    def _parts(self, config: Config, accounts: Accounts, health: Health, lasting: Lasting) -> Parts:
        """What calls on this config are answered with. Raises ConfigError."""
        metrics, clock, wall = lasting.metrics, lasting.clock, lasting.wall
        fleet, keyring = Fleet(config, lasting, accounts, health), Keyring(config, self.issued, wall)
        books = Books(self.log, self.decisions, self.ledger, fleet.baseline)
        settlement = Settlement(health, metrics, books, wall)
        if self._telemetry is not None and config.telemetry is not None:
            recording = frozenset(name for name, route in config.routes.items() if route.record_prompts)
            settlement.traces = Traces(self._telemetry.send, config.telemetry.sample, recording)
        budget = RetryBudget(config.attempts.retry_budget, config.attempts.retry_floor_per_s, clock)
        dispatcher = Dispatcher(config.attempts.max, budget, metrics.retries_refused.labels(), clock, wall)
        spent = self.ledger.spent if self.ledger is not None else None
        times = Times(clock, wall)
        limiter = Limiter(Rulebook(config), self._book, metrics.limit_rejections, times, self._shared, spent)
        return Parts(fleet, keyring, dispatcher, settlement, self.live, limiter)

    async def start(self) -> None:
        self.vitals.start()
        if self._shared is not None:
            await self._shared.start()
        if self.ledger is not None:
            await self.ledger.start()
        await self.issued.start()
        await self.fleet.accounts.start()
        if self._shared is not None and self.gossip is not None:
            self._gossiping = asyncio.create_task(self.gossip.run(self._shared))
        self.fleet.watch()
        if self._telemetry is not None:
            self._telemetry.start(self.metrics.registry)

    async def reload(self, config: Config, check: Callable[[Parts], None] = lambda parts: None) -> None:
        """As `Succession.reload`."""
        await self._succession.reload(config, check)

    async def aclose(self) -> None:
        await self._succession.aclose()
        if self._gossiping is not None:
            self._gossiping.cancel()
        if self._shared is not None:
            await self._shared.aclose()
        self.current.parts.settlement.flush()
        await self.fleet.aclose()
        await self.issued.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        if self._telemetry is not None:
            await self._telemetry.aclose()
        self.vitals.stop()
        self.log.flush()
