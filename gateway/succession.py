"""One config after another: calls under way end on theirs, and of what is known and open stays what did not change.

Rule 1. All or nothing: a config is first made on trial, apart, and one that cannot run leaves no trace.
Rule 2. An account that went is closed when the last call on its config has ended.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from gateway.accounts import Accounts
from gateway.config.document import Config
from gateway.fleet import Fleet, Lasting
from gateway.health import Health
from gateway.live import Live
from gateway.metrics import Deployments, Metrics, labels_of
from gateway.parts import Current, Parts

Making = Callable[[Config, Accounts, Health, Lasting], Parts]


class Succession:
    """Puts parts in force. Owns the reference to those that are, and the tasks that wait for what they replaced."""

    def __init__(self, first: Parts, make: Making, lasting: Lasting, live: Live) -> None:
        self.current = Current(first)
        self._make, self._lasting, self._live = make, lasting, live
        self._readings = Deployments({}, lasting.clock)
        lasting.metrics.registry.register(self._readings)
        self._reloading = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._adopt(first)

    async def reload(self, config: Config, check: Callable[[Parts], None]) -> None:
        """Calls that begin from now on run on this config. Raises ConfigError, and what `check` raises."""
        async with self._reloading:
            before = self.current.parts.fleet
            accounts = await asyncio.to_thread(self._tried, config, before.accounts, check)
            try:
                await accounts.start()
            except BaseException:
                await accounts.undo()
                raise
            health = before.health.after(accounts.moved(before.accounts))
            parts = self._make(config, accounts, health, self._lasting)
            before.rest()
            self.current.parts = parts
            self._adopt(parts)
            parts.fleet.watch()
            task = asyncio.create_task(self._leave(before, parts.fleet, self._live.tasks()))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _tried(self, config: Config, before: Accounts, check: Callable[[Parts], None]) -> Accounts:
        """The accounts of a config that can run. All else counts and knows apart. In a thread, for certificates and
        plugins take their time."""
        clock = self._lasting.clock
        accounts = Accounts(config, clock, before)
        check(self._make(config, accounts, Health(clock), self._lasting._replace(metrics=Metrics())))
        return accounts

    def _adopt(self, parts: Parts) -> None:
        """What looks on from outside looks at these parts."""
        fleet = parts.fleet
        self._readings.lanes = {(route, lane.deployment.name): lane.facts for route, lane in fleet.lanes()}
        for name in fleet.accounts.opened:
            fleet.health.pardon(name)

    async def _leave(self, before: Fleet, after: Fleet, calls: Collection[asyncio.Task[Any]]) -> None:
        """Once the calls of an old config have ended: closes the accounts that went, forgets what nobody uses."""
        try:
            if calls:
                await asyncio.wait(calls)
        finally:
            for provider in before.accounts.gone(after.accounts):
                await provider.aclose()
        now, metrics = self.current.parts.fleet, self._lasting.metrics
        was, known = ([labels_of(route, lane.deployment) for route, lane in f.lanes()] for f in (before, now))
        metrics.forget(was, known)
        metrics.forget(*([{"key": key.name} for key in f.config.keys] for f in (before, now)))
        now.health.forget([lane.facts for _, lane in now.lanes()])

    async def aclose(self) -> None:
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
