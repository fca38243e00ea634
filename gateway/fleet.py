"""The loaded config as running objects: accounts open, routes with their deployments, policies and metric children."""

import asyncio
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from gateway.account import Account, Guardrail
from gateway.accounts import Accounts
from gateway.auth import ANONYMOUS, allows
from gateway.catalog import Catalog, Row
from gateway.config import loading
from gateway.config.document import Config, DeploymentConfig, RouteConfig
from gateway.errors import ClientError, ConfigError, UpstreamError
from gateway.health import Health
from gateway.lane import Lane, Route
from gateway.ledger.rows import Baseline
from gateway.metrics import Bound, Metrics
from gateway.prices import check_price, gpu_nano_per_s
from gateway.router import NamedPolicy
from gateway.types import FEATURES, Deployment, Missing, Observed, Price, Tenant

DEFAULT_POLICIES = ({"capability": {"missing": "strict"}}, "context_window", "breaker", "headroom", "lowest_cost")


class Lasting(NamedTuple):
    """What outlives a config."""

    catalog: Catalog
    metrics: Metrics
    clock: Callable[[], float]
    wall: Callable[[], float]


class Fleet:
    """Accounts and routes of one config, and what is known of them."""

    def __init__(self, config: Config, lasting: Lasting, accounts: Accounts, health: Health) -> None:
        self.config, self.accounts, self.health = config, accounts, health
        self.catalog, self.metrics, self.clock, self.wall = lasting
        self._watches: list[asyncio.Task[None]] = []
        self.providers = accounts.providers
        self.routes = {name: self._route(name, route) for name, route in config.routes.items()}
        self.baseline = self._baseline()
        self.names = self._names()

    def lanes(self) -> Iterable[tuple[str, Lane]]:
        """Every lane with its route's name."""
        return [(route.name, lane) for route in self.routes.values() for lane in route.lanes.values()]

    def watch(self) -> None:
        """Watches the accounts that tell their state, until `rest`."""
        watched = [name for name, provider in self.providers.items() if provider.poll_every_s > 0]
        self._watches = [asyncio.create_task(self._watch(name)) for name in watched]
        self._watches.append(asyncio.create_task(self._turn_pages()))

    async def _turn_pages(self) -> None:
        """Once a second: lets a new day begin for spend caps, and an account with a new credential be tried again."""
        while True:
            self.health.roll(self.wall())
            for name in self.accounts.with_new_secrets():
                self.health.pardon(name)
            await asyncio.sleep(1.0)

    async def _watch(self, account: str) -> None:
        """Reads one server's state again and again; a server that does not tell is unknown, not idle."""
        provider = self.providers[account]
        facts = [lane.facts for _, lane in self.lanes() if lane.deployment.account == account]
        while True:
            try:
                seen = await provider.poll()
            except UpstreamError:
                seen = Observed()
            for known in facts:
                known.see_load(seen.queue, seen.kv_used)
            await asyncio.sleep(provider.poll_every_s)

    def rest(self) -> None:
        """Watches no more; another fleet does."""
        for watch in self._watches:
            watch.cancel()

    async def aclose(self) -> None:
        self.rest()
        for provider in self.providers.values():
            await provider.aclose()

    def route(self, model: str, tenant: Tenant = ANONYMOUS) -> Route:
        """The route of that name or alias. Raises ClientError 404 with near names, of those that a key may use."""
        found = self.names.get(model)
        if found is None:
            seen = [name for name, route in self.names.items() if allows(tenant, route.name)]
            near = difflib.get_close_matches(model[:128], seen, n=3, cutoff=0.5)
            hint = f" Did you mean {', '.join(near)}?" if near else f" Known: {', '.join(sorted(seen)[:8])}."
            raise ClientError(404, "model_not_found", f"The model '{model[:128]}' does not exist.{hint}", param="model")
        return found

    def _names(self) -> dict[str, Route]:
        names: dict[str, Route] = {}
        for route in self.routes.values():
            names[route.name] = route
        for route in self.routes.values():
            for i, alias in enumerate(route.aliases):
                if alias in names:
                    raise ConfigError(
                        f"routes.{route.name}.aliases[{i}]", f"'{alias}' names {names[alias].name} already"
                    )
                names[alias] = route
        for route in self.routes.values():  # the ids of the weights, where nobody claims them
            weights = self.catalog.weights(route.weights) if route.weights else None
            for alias in weights.aliases if weights else ():
                names.setdefault(alias, route)
        return names

    def _route(self, name: str, config: RouteConfig) -> Route:
        path = f"routes.{name}"
        if not config.deployments:
            raise ConfigError(f"{path}.deployments", "is empty: name at least one account")
        policies = tuple(
            NamedPolicy(*loading.policy(value, f"{path}.policies[{i}]"))
            for i, value in enumerate(DEFAULT_POLICIES if config.policies is None else config.policies)
        )
        weights, missing = self._weights(name, config), _missing(policies)
        found: dict[str, Deployment | None] = {}  # None: not enabled, but its name is taken
        for i, value in enumerate(config.deployments):
            place = f"{path}.deployments[{i}]"
            wanted = loading.deployment(value, place)
            deployment = msgspec.structs.replace(self._deployment(wanted, weights, place), missing=missing)
            if deployment.name in found:
                raise ConfigError(place, f"'{deployment.name}' stands twice: give one of them a 'name'")
            found[deployment.name] = deployment if wanted.enabled else None
        lanes = {d.name: self._lane(name, d) for d in found.values() if d is not None}
        if not lanes:
            raise ConfigError(
                f"{path}.deployments", "all of them have `enabled: false`: enable one, or leave out the route"
            )
        for i, policy in enumerate(policies):
            self._check_names(policy, found, f"{path}.policies[{i}].{policy.name}")
        return Route(name, config.aliases, weights, lanes, policies)

    def _check_names(self, policy: NamedPolicy, deployments: Iterable[str], path: str) -> None:
        """Refuses a policy that names an account or deployment which is not there: it would be about nobody."""
        named: Mapping[str, Iterable[str]] = getattr(policy.policy, "named", {})
        for what, known in (("account", self.config.accounts), ("deployment", deployments)):
            for word in named.get(what, ()):
                if word not in known:
                    raise loading.unknown(path, word, known, what)

    def _lane(self, route: str, deployment: Deployment) -> Lane:
        bound = Bound(self.metrics, route, deployment)
        account = self.config.accounts[deployment.account]
        facts = self.health.facts(deployment)
        return Lane(deployment, facts, self.providers[deployment.account], bound, account)

    def _weights(self, name: str, config: RouteConfig) -> str | None:
        """The catalogue's name of what the route serves: said, or known from the route's name or an alias."""
        if config.weights is not None:
            found = self.catalog.weights(config.weights)
            if found is None:
                raise loading.unknown(f"routes.{name}.weights", config.weights, self._known_weights(), "weights")
            return found.name
        for candidate in (name, *config.aliases):
            if (found := self.catalog.weights(candidate)) and (found.open or candidate == name):
                return found.name
        return None

    def _baseline(self) -> Baseline | None:
        """The closed model that costs are compared with, at its list price."""
        if self.config.baseline is None:
            return None
        name = self.config.baseline.model
        priced = {row.weights: found for row in reversed(self.catalog.rows()) if (found := row.list_price())}
        if name not in priced:
            raise loading.unknown("baseline.model", name, sorted(priced), "priced model")
        return Baseline(name, priced[name])

    def _known_weights(self) -> list[str]:
        return sorted({row.weights for row in self.catalog.rows()})

    def _deployment(self, config: DeploymentConfig, weights: str | None, path: str) -> Deployment:
        """What the config says, over what the catalogue knows of these weights at this cloud."""
        account = self.config.accounts.get(config.account)
        if account is None:
            raise loading.unknown(f"{path}.account", config.account, self.config.accounts, "account")
        cloud = type(account).__module__.rpartition(".")[2]
        row = self._row(cloud, config, weights)
        model = config.model or (row.id if row else None)
        if model is None:
            raise ConfigError(path, _no_model(weights, cloud))
        usual: frozenset[str] = getattr(account, "usual_features", frozenset(FEATURES))
        features = row.features if row else usual
        return Deployment(
            name=config.name or config.account,
            account=config.account,
            cloud=cloud,
            model=model,
            price=_price(config, row),
            price_source=_price_source(config, row),
            per_character=row.per_character if row and config.price is None else None,
            gpu_nano_per_s=_gpu_nano_per_s(account, config.account) if config.price is None else 0,
            context_tokens=config.context_tokens or (row.context_tokens if row else None),
            max_output_tokens=config.max_output_tokens or (row.max_output_tokens if row else None),
            features=_features(config.features, features, f"{path}.features"),
            stop_limit=row.stop_limit if row else None,
            emulates=getattr(account, "emulates", frozenset()),
            weight=config.weight,
            tier=config.tier,
            region=config.region or account.region or getattr(account, "location", None),
            trust=config.trust or account.trust,
            adapter=config.adapter,
            guardrail=_guardrail(config, account, f"{path}.guardrail"),
        )

    def _row(self, cloud: str, config: DeploymentConfig, weights: str | None) -> Row | None:
        if config.model and (found := self.catalog.by_id(cloud, config.model)):
            return found
        return self.catalog.row(cloud, weights) if weights else None


def _guardrail(config: DeploymentConfig, account: Account, path: str) -> Guardrail | None:
    """The deployment's own, else its account's."""
    if config.guardrail is not None and not hasattr(account, "guardrail"):
        raise ConfigError(path, f"'{config.account}' is of a cloud without guardrails: Bedrock has them")
    return config.guardrail or getattr(account, "guardrail", None)


def _no_model(weights: str | None, cloud: str) -> str:
    if weights is None:
        return "'model' is missing, and neither the route's name nor its 'weights' is in the catalogue"
    return f"'model' is missing, and the catalogue has no row for {weights} at {cloud}"


def _missing(policies: Iterable[NamedPolicy]) -> Missing:
    """What a route wants done about features that a deployment lacks, as its capability policy says."""
    said: list[Missing] = [named.policy.missing for named in policies if hasattr(named.policy, "missing")]
    return said[0] if said else "emulate"


def _price(config: DeploymentConfig, row: Row | None) -> Price | None:
    if config.price is not None:
        return config.price.price()
    return row.list_price(config.billing) if row else None


def _price_source(config: DeploymentConfig, row: Row | None) -> str:
    """Whose price it is, for the ledger."""
    if config.price is not None:
        return "config"
    return f"catalogue {row.cloud}/{row.weights} of {row.checked}" if row and row.price else "unknown"


def _gpu_nano_per_s(account: Account, name: str) -> int:
    per_hour = getattr(account, "gpu_usd_per_hour", None)
    if per_hour is None:
        return 0
    try:
        check_price(per_hour)
        return gpu_nano_per_s(per_hour, getattr(account, "gpus", 1))
    except ValueError as error:
        raise ConfigError(f"providers.{name}.gpu_usd_per_hour", str(error)) from error


def _features(said: tuple[str, ...] | None, known: frozenset[str], path: str) -> frozenset[str]:
    """The list said, or the known ones with `+word` and `-word` applied where every word has a sign."""
    if said is None:
        return known
    signed = [word for word in said if word.startswith(("+", "-"))]
    for i, word in enumerate(said):
        bare = word[1:] if word in signed else word
        if bare not in FEATURES:
            raise loading.unknown(f"{path}[{i}]", bare, FEATURES, "feature")
    if signed and len(signed) < len(said):
        raise ConfigError(path, "give either every word a sign, to change what the catalogue says, or none of them")
    if not signed:
        return frozenset(said)
    added = {word[1:] for word in signed if word[0] == "+"}
    return (known | added) - {word[1:] for word in signed if word[0] == "-"}
