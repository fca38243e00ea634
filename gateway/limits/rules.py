"""Which limits and budgets a call is under: those of its key, its key at this route, its team, and its route."""

import fnmatch
from collections.abc import Iterator, Mapping

from gateway.config.document import Config
from gateway.limits.buckets import Kind, Rule, Scope
from gateway.limits.terms import Terms
from gateway.types import Budget, Limits, Tenant

Granted = tuple[Limits | None, Budget | None]


class Rulebook:
    """The rules of a config, by key and route. Made anew with the config."""

    def __init__(self, config: Config) -> None:
        self._teams: Mapping[str, Granted] = {team.name: _granted(team) for team in config.teams}
        routes = {name: _granted(route) for name, route in config.routes.items()}
        self._routes = {name: granted for name, granted in routes.items() if granted != (None, None)}
        self._found: dict[tuple[str, str], tuple[Tenant, Terms | None]] = {}

    def of(self, tenant: Tenant, route: str) -> Terms | None:
        """What limits a key's calls at a route; nothing, at the cost of one look, for most."""
        if tenant.limits is None and tenant.budget is None and tenant.team is None and route not in self._routes:
            return None
        found = self._found.get((tenant.id, route))
        if found is None or found[0] is not tenant:
            rules = tuple(self._rules(tenant, route))
            found = self._found[tenant.id, route] = tenant, Terms(rules) if rules else None
        return found[1]

    def _rules(self, tenant: Tenant, route: str) -> Iterator[Rule]:
        shown, group = f"The key '{tenant.name}'", f"t:{tenant.team or tenant.id}"
        yield from _of("key", tenant.id, shown, (tenant.limits, tenant.budget), group)
        for pattern, limits in tenant.limits.models if tenant.limits else ():
            if fnmatch.fnmatchcase(route, pattern):
                yield from _of(
                    "model", f"{tenant.id}|{route}|{pattern}", f"{shown} at '{route}'", (limits, None), group
                )
        if tenant.team is not None:
            yield from _of(
                "team", tenant.team, f"The team '{tenant.team}'", self._teams.get(tenant.team, (None, None)), group
            )
        yield from _of("route", route, f"The model '{route}'", self._routes.get(route, (None, None)), f"r:{route}")


def _granted(section: object) -> Granted:
    limits, budget = getattr(section, "limits", None), getattr(section, "budget", None)
    return limits and limits.limits(), budget and budget.budget()


def _of(scope: Scope, owner: str, shown: str, granted: Granted, group: str) -> Iterator[Rule]:
    limits, budget = granted
    if limits is not None:
        counts: Mapping[Kind, int | None] = {"rpm": limits.rpm, "tpm": limits.tpm, "concurrent": limits.concurrent}
        for kind, limit in counts.items():
            if limit is not None:
                yield Rule(kind, scope, owner, shown, limit, group=group)
    if budget is not None:
        yield Rule("budget", scope, owner, shown, budget.nano, budget.per, budget.hard, group)
