"""Whether Redis may forget what it counts to make room: asked at the start and every few seconds after, said once.

Rule 1. A server that says so at the start is a mistake of the config. One that says so later, or is reached later, is a
        log line, a metric and an alert: a gateway that serves does not end for it.
Source: Redis documentation, "Key eviction": only `noeviction`, or no `maxmemory` at all, keeps every key.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from gateway.errors import ConfigError
from gateway.limits.store import Store, StoreError
from gateway.log import Log

EVERY_S = 5.0
REMEDY = "set its maxmemory-policy to noeviction, or give limits a Redis of their own"
UNASKED = ("NoPermissionError", "unknown command")
"""How a server says that it may not be asked."""


class Eviction:
    """What the servers say of their memory. Owns what was last heard: `policy` is that of a server that may evict, ""
    where none may or none can be asked; `evicted` is how many keys they have evicted since they began."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store, self._log = store, log
        self.policy, self.evicted = "", 0
        self._asked_in_vain = False

    async def begin(self) -> None:
        """Raises ConfigError when a server that can be asked may evict."""
        await self.look()
        if self.policy:
            raise ConfigError("store.redis", f"may forget limits: its maxmemory-policy is {self.policy}; {REMEDY}")

    async def watch(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.tell()

    async def tell(self) -> None:
        """Looks, and says what changed."""
        before = self.policy
        await self.look()
        if self.policy != before:
            event, said = ("redis_evicts", {"remedy": REMEDY}) if self.policy else ("redis_keeps", {})
            self._log.write(event, policy=self.policy or None, evicted=self.evicted, **said)

    async def look(self) -> None:
        """Asks every server; one that is away changes nothing, the circuit of the limits tells of that."""
        try:
            found = await self._store.info()
        except StoreError as error:
            if any(words in str(error) for words in UNASKED) and not self._asked_in_vain:
                self._asked_in_vain = True
                self._log.write("redis_policy_unknown", remedy="let its ACL user ask: +info")
            return
        self._asked_in_vain = False
        self.policy = next((facts["maxmemory_policy"] for facts in found if may_evict(facts)), "")
        self.evicted = sum(facts.get("evicted_keys", 0) for facts in found)


def may_evict(facts: Mapping[str, Any]) -> bool:
    """By what INFO says of memory; without a bound nothing is ever evicted."""
    return bool(facts.get("maxmemory")) and facts.get("maxmemory_policy", "noeviction") != "noeviction"
