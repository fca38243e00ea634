"""From what the config grants to who calls: a key and its team as one Tenant."""

from collections.abc import Mapping, Sequence

from gateway.config.document import Grant, KeyGrant, TeamConfig
from gateway.config.refusals import unknown
from gateway.errors import ConfigError
from gateway.limits.allowance import moment
from gateway.types import Tenant


def by_name(teams: Sequence[TeamConfig]) -> Mapping[str, TeamConfig]:
    """Raises ConfigError for a name that stands twice."""
    found: dict[str, TeamConfig] = {}
    for i, team in enumerate(teams):
        if team.name in found:
            raise ConfigError(f"teams[{i}].name", f"'{team.name}' stands twice")
        found[team.name] = team
    return found


def tenant(key: KeyGrant, id_: str, teams: Mapping[str, TeamConfig], path: str) -> Tenant:
    """The key with what its team adds. Raises ConfigError for a team that is not there or labels that differ."""
    team: Grant = TeamConfig(name="none")
    if key.team is not None:
        if key.team not in teams:
            raise unknown(f"{path}.team", key.team, teams, "team")
        team = teams[key.team]
    for label, value in key.labels.items():
        if team.labels.get(label, value) != value:
            raise ConfigError(f"{path}.labels", f"the team '{team.name}' fixes '{label}' to '{team.labels[label]}'")
    return Tenant(
        name=key.name,
        routes=key.routes,
        labels={**team.labels, **key.labels},
        id=id_,
        team=key.team,
        team_routes=team.routes,
        limits=None if key.limits is None else key.limits.limits(),
        budget=None if key.budget is None else key.budget.budget(),
        expires=float("inf") if key.expires is None else moment(key.expires),
    )
