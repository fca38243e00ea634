"""`arriero check`: what a good config should still be warned of: retiring weights, no price, nobody there."""

import asyncio
import fnmatch
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

from gateway.app import Gateway
from gateway.catalog import Catalog, retirement_warnings
from gateway.config.document import Config
from gateway.lane import Lane
from gateway.limits.allowance import moment
from gateway.transport.client import Client
from gateway.types import Provider

REACH_S = 2.0
EXPIRES_SOON_S = 30 * 86_400


async def warnings(config: Config, today: date, *, reach: bool) -> Sequence[str]:
    """Warnings for a config. Raises ConfigError for one that cannot run."""
    gateway = Gateway(config)
    try:
        lanes = [(route.name, lane) for route in gateway.fleet.routes.values() for lane in route.lanes.values()]
        found = [
            *_of_deployments(lanes, gateway.fleet.catalog, today),
            *_of_names(config, lanes),
            *_of_dates(config, today),
        ]
        if reach:
            found += await _unreachable({lane.deployment.account: lane.provider for _, lane in lanes})
    finally:
        await gateway.aclose()
    return list(dict.fromkeys(found))


def _of_deployments(lanes: Sequence[tuple[str, Lane]], catalog: Catalog, today: date) -> Iterator[str]:
    for route, lane in lanes:
        deployment = lane.deployment
        row = catalog.by_id(deployment.cloud, deployment.model)
        if row is not None:
            for line in retirement_warnings([row], today, catalog=catalog):
                yield f"routes.{route}: {line}"
        if deployment.price is None and not deployment.gpu_nano_per_s:
            yield f"routes.{route}: {deployment.name} has no price, so that cost policies put it last: say 'price'"


def _of_names(config: Config, lanes: Sequence[tuple[str, Lane]]) -> Iterator[str]:
    """What is written but about nothing."""
    for name in config.accounts:
        if all(lane.deployment.account != name for _, lane in lanes):
            yield f"providers.{name}: no enabled deployment is at it"
    for section, grants in (("keys", config.keys), ("teams", config.teams)):
        for i, grant in enumerate(grants):
            for pattern in grant.routes:
                if not fnmatch.filter(config.routes, pattern):
                    yield f"{section}[{i}].routes: '{pattern}' matches no route"


def _of_dates(config: Config, today: date) -> Iterator[str]:
    """Keys that have expired, or will soon."""
    noon_s = datetime(today.year, today.month, today.day, 12, tzinfo=UTC).timestamp()
    for i, key in enumerate(config.keys):
        if key.expires is not None and moment(key.expires) < noon_s + EXPIRES_SOON_S:
            word = "has expired" if moment(key.expires) <= noon_s else "expires soon"
            yield f"keys[{i}]: '{key.name}' {word}: {key.expires}"


async def _unreachable(providers: Mapping[str, Provider]) -> Sequence[str]:
    found = await asyncio.gather(*(_reach(name, providers[name]) for name in sorted(providers)))
    return [line for line in found if line]


async def _reach(name: str, provider: Provider) -> str:
    """A connection is opened and closed; nothing is sent. Nothing is known of a provider without our own client."""
    client = getattr(provider, "client", None)
    if not isinstance(client, Client):
        return ""
    proxy, parts = client.origin.proxy, urlsplit(client.origin.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{host}:{port}"
    if proxy is not None:  # only it knows what it can reach
        host, port, where = proxy.host, proxy.port, f"the proxy {proxy.name}"
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        return f"providers.{name}: {where} cannot be reached: {_why(error)}"
    return ""


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
