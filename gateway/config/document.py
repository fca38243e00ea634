"""The config file as objects: what an operator writes, refused with path, reason and the nearest known word.

Rule 1. Unknown words are refused; so are words of a later version, by name.
Rule 2. Everything is checked before traffic; a mistake is a ConfigError with the path of the mistake.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gateway.account import URL_PATTERN, Account, Count, Guardrail, Section
from gateway.ledger.place import place
from gateway.limits import redis_url
from gateway.limits.allowance import BudgetConfig, LimitsConfig, RateConfig, moment
from gateway.prices import check_price, list_price, usd_to_nano
from gateway.secret import Secret
from gateway.types import Price

NAME_RULE = "1 to 128 letters, digits and . _ : / @ + ~ -"
NAME_PATTERN = r"^[A-Za-z0-9._:/@+~-]{1,128}(?!\n)$"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description=NAME_RULE)]
"""What names a route, an alias, an account, a deployment or a key: it goes into headers, logs, metrics and patterns."""


def is_name(text: str) -> bool:
    """Whether a text may be a Name."""
    return re.match(NAME_PATTERN, text) is not None


Label = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}(?!\n)$", description="1 to 64 letters, digits and _ . -")
]
"""A label's name or value, as `x-arriero-labels` takes them."""

Billing = Literal["on_demand", "batch"]
"""Which of a cloud's list prices a deployment is billed by, where the catalogue knows them."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class RatesConfig(Section, frozen=True, kw_only=True):
    """USD per one million tokens, exact to the nano-dollar; `cached_in` is for prompt tokens from the cloud's cache."""

    input: Decimal = msgspec.field(name="in")
    output: Decimal = msgspec.field(name="out")
    cached_in: Decimal | None = None

    def __post_init__(self) -> None:
        for word, usd in (("in", self.input), ("out", self.output), ("cached_in", self.cached_in)):
            try:
                check_price(usd or Decimal())
            except ValueError as error:
                raise ValueError(f"'{word}': {error}") from error

    def price(self) -> Price:
        found = list_price(self.input, self.output)
        return found if self.cached_in is None else msgspec.structs.replace(found, cached=usd_to_nano(self.cached_in))


class LongConfig(RatesConfig, frozen=True, kw_only=True):
    """The price of calls whose prompt is longer than `above_tokens`."""

    above_tokens: Count


class PriceConfig(RatesConfig, frozen=True, kw_only=True):
    """The price of a deployment; `long` where the cloud bills long prompts by another."""

    long: LongConfig | None = None

    def price(self) -> Price:
        found = super().price()
        if self.long is None:
            return found
        return msgspec.structs.replace(found, long_tokens=self.long.above_tokens, long=self.long.price())


class DeploymentConfig(Section, frozen=True, kw_only=True):
    """One deployment of a route; what is left out comes from the catalogue's row for these weights."""

    account: str
    name: Name | None = None
    model: str | None = None
    price: PriceConfig | None = None
    billing: Billing = "on_demand"
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    features: tuple[str, ...] | None = None
    weight: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    tier: Annotated[int, msgspec.Meta(ge=0)] = 1
    region: str | None = None
    trust: str | None = None
    adapter: str | None = None
    guardrail: Guardrail | None = None
    enabled: bool = True


class RouteConfig(Section, frozen=True, kw_only=True):
    """A public name, the deployments behind it, and the policies that choose, read top to bottom. `record_prompts` puts
    the prompts of traced calls into their spans."""

    deployments: tuple[Any, ...]
    aliases: tuple[Name, ...] = ()
    policies: tuple[Any, ...] | None = None
    weights: str | None = None
    record_prompts: bool = False
    limits: RateConfig | None = None
    budget: BudgetConfig | None = None


class Grant(Section, frozen=True, kw_only=True):
    """What a key or a team may use (`routes` are glob patterns), the labels of its calls, and how much."""

    name: Name
    routes: tuple[str, ...] = ("*",)
    labels: dict[Label, Label] = {}  # noqa: RUF012  (msgspec copies it)
    limits: LimitsConfig | None = None
    budget: BudgetConfig | None = None


class TeamConfig(Grant, frozen=True, kw_only=True):
    """What several keys share: its routes bound theirs, its labels are on their calls, and what one of them uses counts
    against the team's limits and budget too."""


class KeyGrant(Grant, frozen=True, kw_only=True):
    """What a key is but for the key itself. It works until `expires`: a date (to its end, UTC) or an RFC 3339 time."""

    team: str | None = None
    expires: str | None = None

    def __post_init__(self) -> None:
        if self.expires is not None:
            try:
                moment(self.expires)
            except ValueError as error:
                raise ValueError(f"'expires' {error}") from error


class KeyConfig(KeyGrant, frozen=True, kw_only=True):
    """A client's key."""

    key: Secret


class ServerConfig(Section, frozen=True, kw_only=True):
    """`grace_s`: how long live streams may go on after SIGTERM. `drain_s`: how long new calls are still taken then, so
    that load balancers can notice."""

    max_body_bytes: Count = 32 * 1024 * 1024
    grace_s: Seconds = 600.0
    drain_s: Seconds = 0.5
    allow_anonymous: bool = False


class AdminToken(Section, frozen=True, kw_only=True):
    """Who holds it may read, or change as well; the keys it makes may use no more than `routes`."""

    name: Name
    token: Secret
    scope: Literal["read", "write"] = "read"
    routes: tuple[str, ...] = ("*",)


class AdminConfig(Section, frozen=True, kw_only=True):
    """Tokens for /admin/*; needed as soon as the admin port is bound beyond loopback."""

    tokens: tuple[AdminToken, ...] = ()

    def __post_init__(self) -> None:
        names = [token.name for token in self.tokens]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"'tokens' names '{name}' twice")


class AttemptsConfig(Section, frozen=True, kw_only=True):
    """`max` attempts a call; retries may be `retry_budget` of the calls, plus `retry_floor_per_s`."""

    max: Count = 3
    retry_budget: Share = 0.10
    retry_floor_per_s: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 10.0


class BaselineConfig(Section, frozen=True, kw_only=True):
    """The closed model that costs are compared with, by its name in the catalogue."""

    model: str


PEPPER_LETTERS = 32


class StoreConfig(Section, frozen=True, kw_only=True):
    """Where state lives. `ledger`: a SQLite file, a PostgreSQL database, or `none`; `keep_days`: how long its rows are
    kept, null for ever. `peppers`: with what run-time keys are digested there, and perhaps what was used before.
    `redis`: what replicas share; a call waits for it `redis_timeout_s` at most."""

    ledger: Secret | None = None
    peppers: Annotated[tuple[Secret, ...], msgspec.Meta(max_length=2)] = ()
    keep_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] | None = 400
    redis: Secret | None = None
    redis_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.05

    def __post_init__(self) -> None:
        if self.redis is not None:
            try:
                redis_url.place(self.redis.reveal())
            except ValueError as error:
                raise ValueError(f"'redis' {error}") from error
        if self.url(None) is not None:
            try:
                place(self.url(None) or "", Path())
            except ValueError as error:
                raise ValueError(f"'ledger' {error}") from error
        if any(len(pepper.reveal()) < PEPPER_LETTERS for pepper in self.peppers):
            raise ValueError(f"'peppers' must have {PEPPER_LETTERS} letters or more each, best random ones")

    def url(self, usual: str | None) -> str | None:
        """The ledger's: as named, else the usual one; None where there is to be no ledger."""
        url = self.ledger.reveal() if self.ledger is not None else usual
        return None if url == "none" else url


class TelemetryConfig(Section, frozen=True, kw_only=True):
    """OpenTelemetry: the collector's base URL (`/v1/traces` and `/v1/metrics` are added), which share of the calls is
    traced that come without a trace of their own, and how often metrics are sent (0: never)."""

    otlp: Annotated[str, msgspec.Meta(pattern=URL_PATTERN, description="an http:// or https:// URL")]
    sample: Share = 0.1
    headers: dict[str, Secret] = {}  # noqa: RUF012  (msgspec copies it)
    metrics_every_s: Seconds = 0.0
    ca_file: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file, every section decoded but `routes`, which the fleet puts together with catalogue and plugins."""

    accounts: Mapping[str, Account]
    routes: Mapping[str, RouteConfig]
    server: ServerConfig = ServerConfig()
    admin: AdminConfig = AdminConfig()
    keys: tuple[KeyConfig, ...] = ()
    teams: tuple[TeamConfig, ...] = ()
    attempts: AttemptsConfig = AttemptsConfig()
    baseline: BaselineConfig | None = None
    store: StoreConfig = StoreConfig()
    telemetry: TelemetryConfig | None = None


LATER: Mapping[str, str] = {
    "hedge": "hedged calls",
    "on_break": "going on at another deployment after a break",
}
"""Words of the design that this version does not offer yet: refused by name, never accepted and ignored."""
