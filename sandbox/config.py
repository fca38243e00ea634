"""Writes the config of Arriero that uses the clouds of the box."""

from collections.abc import Mapping

import yaml

from sandbox.cloud import Cloud, clouds
from sandbox.types import Json

Place = tuple[Cloud, str]

_POLICIES: list[Json] = [{"capability": {"missing": "emulate"}}, "context_window", "breaker", "headroom", "lowest_cost"]
_ALIASES = {
    "llama-3.1-8b": ["meta-llama/Llama-3.1-8B-Instruct"],
    "llama-3.1-70b": ["meta-llama/Llama-3.1-70B-Instruct"],
    "llama-3.1-405b": ["meta-llama/Llama-3.1-405B-Instruct"],
    "llama-3.3-70b": ["meta-llama/Llama-3.3-70B-Instruct"],
}


def config_text(places: int | Mapping[str, Place], host: str = "127.0.0.1") -> str:
    """YAML for `arriero serve`: every cloud an account, every weights a route over the clouds that have them.

    `places` are the clouds and where they listen, or the control port of a box that has them all.
    """
    if isinstance(places, int):
        control = places
        places = {name: (cloud, f"http://{host}:{control + cloud.order}") for name, cloud in clouds().items()}
    providers = {name: cloud.account(origin) for name, (cloud, origin) in places.items()}
    routes: dict[str, Json] = {}
    for name, (cloud, _) in places.items():
        for route, fields in cloud.deployments.items():
            made = routes.setdefault(
                route, {"aliases": _ALIASES.get(route, []), "deployments": [], "policies": list(_POLICIES)}
            )
            made["deployments"].append({"account": name, **fields})
    return yaml.safe_dump({"providers": providers, "routes": routes}, sort_keys=False, allow_unicode=True, width=120)
