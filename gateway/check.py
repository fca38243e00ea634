"""`arriero check`: what a good config should still be warned of: retiring weights, no price, nobody there."""

import asyncio
from collections.abc import Sequence
from datetime import date
from urllib.parse import urlsplit

from gateway.catalog import Catalog, retirement_warnings
from gateway.config import Config
from gateway.fleet import Fleet
from gateway.lane import Lane
from gateway.metrics import Metrics

REACH_S = 2.0


async def warnings(config: Config, catalog: Catalog, today: date, *, reach: bool) -> Sequence[str]:
    """Warnings for a config. Raises ConfigError for one that cannot run."""
    fleet = Fleet(config, catalog, Metrics())
    lanes = [(route.name, lane) for route in fleet.routes.values() for lane in route.lanes.values()]
    found: list[str] = []
    for route, lane in lanes:
        deployment = lane.deployment
        row = catalog.by_id(deployment.cloud, deployment.model)
        if row is not None:
            found += [f"routes.{route}: {line}" for line in retirement_warnings([row], today, catalog=catalog)]
        if deployment.price is None and not deployment.gpu_nano_per_s:
            found.append(
                f"routes.{route}: {deployment.name} has no price, so that cost policies put it last: say 'price'"
            )
    if reach:
        found += await _unreachable(config, [lane for _, lane in lanes])
    await fleet.aclose()
    return list(dict.fromkeys(found))


async def _unreachable(config: Config, lanes: Sequence[Lane]) -> Sequence[str]:
    accounts = sorted({lane.deployment.account for lane in lanes})
    found = await asyncio.gather(*(_reach(name, config) for name in accounts))
    return [line for line in found if line]


async def _reach(name: str, config: Config) -> str:
    """A connection is opened and closed; nothing is sent."""
    base_url = getattr(config.accounts[name], "base_url", None)
    if base_url is None:
        return ""
    parts = urlsplit(base_url())
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        return f"providers.{name}: {parts.hostname}:{port} cannot be reached: {reason}"
    return ""
