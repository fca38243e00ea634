"""How commands get to Redis: through one client, which may ask Sentinels where the master is, or to a cluster's nodes.

Only a config with `store.redis` imports this: the client library takes 150 ms and 15 MB."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.limits.redis_url import Place
from gateway.limits.store import Command, Wire


def wire(place: Place, timeout_s: float) -> Wire:
    """Opens nothing yet: the first command does. No command takes longer than the timeout, nor does connecting."""
    options: dict[str, Any] = {
        **place.options,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if place.kind == "cluster":
        return ClusterWire(place, options)
    once = {**options, "retry": Retry(NoBackoff(), 0)}
    if place.kind == "sentinel":
        watched = {name: value for name, value in once.items() if name.startswith(("socket_", "ssl_"))}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            place.hosts, sentinel_kwargs={**watched, "ssl": place.tls}, **once
        )
        return ClientWire(sentinel.master_for(place.service, ssl=place.tls))
    host, port = place.hosts[0]
    return ClientWire(Redis(host=host, port=port, ssl=place.tls, single_connection_client=False, **once))


class ClientWire:
    """One connection at a time to one server."""

    split = False

    def __init__(self, client: Any) -> None:
        self._client = client

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            try:
                return [await self._client.execute_command(*commands[0].parts())]
            except ResponseError as error:
                return [error]
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command.parts())
            return list(await pipe.execute(raise_on_error=False))

    async def load(self, library: str) -> None:
        await self._client.function_load(library, replace=True)

    async def info(self) -> Sequence[Mapping[str, Any]]:
        return [await self._client.info("memory", "stats")]

    async def again(self) -> None:
        await self._client.connection_pool.disconnect()

    async def aclose(self) -> None:
        await self._client.aclose()


class ClusterWire:
    """Each command to the node that has its slot; the node is known here, so that nobody has to be asked for it."""

    split = True

    def __init__(self, place: Place, options: dict[str, Any]) -> None:
        self._nodes, self._options = place.hosts, {**options, "ssl": place.tls}
        self._client: Any = None

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        await self._ready()
        return list(await asyncio.gather(*(self._one(command) for command in commands), return_exceptions=True))

    async def _one(self, command: Command) -> Any:
        node = self._client.get_node_from_key(command.keys[0])
        return await self._client.execute_command(*command.parts(), target_nodes=node)

    async def _ready(self) -> None:
        if self._client is None:
            nodes = [ClusterNode(host, port) for host, port in random.sample(self._nodes, len(self._nodes))]
            self._client = RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **self._options)
        if not self._client.get_nodes():
            await self._client.initialize()

    async def load(self, library: str) -> None:
        load = ("FUNCTION LOAD", "REPLACE", library)
        await self._client.execute_command(*load, target_nodes=RedisCluster.PRIMARIES)

    async def info(self) -> Sequence[Mapping[str, Any]]:
        await self._ready()
        client = self._client
        return [await client.info("memory", "stats", target_nodes=node) for node in client.get_primaries()]

    async def again(self) -> None:
        """The slots are asked for anew with the next command."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        await self.again()
