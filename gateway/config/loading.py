"""From the words of a config file to its objects, each refused with its path; the sentences are in refusals.py."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.account import Account
from gateway.config import plugins, yaml_file
from gateway.config.document import (
    NAME_RULE,
    AdminConfig,
    AttemptsConfig,
    BaselineConfig,
    Config,
    DeploymentConfig,
    KeyConfig,
    RouteConfig,
    ServerConfig,
    StoreConfig,
    TeamConfig,
    TelemetryConfig,
    is_name,
)
from gateway.config.refusals import refused, shown, unknown
from gateway.errors import ConfigError
from gateway.secret import Secret
from gateway.types import Policy

T = TypeVar("T")

SECTIONS: Mapping[str, type] = {
    "server": ServerConfig,
    "admin": AdminConfig,
    "attempts": AttemptsConfig,
    "baseline": BaselineConfig,
    "store": StoreConfig,
    "telemetry": TelemetryConfig,
}
ACCOUNT_EXAMPLE = "`groq: {type: groq, api_key: env:GROQ_API_KEY}`"
ROUTE_EXAMPLE = "`llama-3.1-8b: {deployments: [groq]}`"


def read(path: Path) -> Config:
    """The config in a file. Raises ConfigError that names the file."""
    with naming(str(path)):
        return build(yaml_file.read(path))


@contextlib.contextmanager
def naming(origin: str) -> Iterator[None]:
    """A mistake that is found in the block says which file it is in, or what else the config was made of."""
    try:
        yield
    except ConfigError as error:
        if error.path.startswith(origin):
            raise
        raise ConfigError(f"{origin}: {error.path}" if error.path else origin, error.reason) from error


def parse(text: str) -> Config:
    """The config in a text. Raises ConfigError."""
    return build(yaml_file.parse(text))


def build(document: object) -> Config:
    """The config in plain objects. Raises ConfigError with the path of the first mistake."""
    words = mapping(document, "the config")
    known = [*SECTIONS, "keys", "teams", "providers", "routes"]
    for word in words:
        if word not in known:
            raise unknown(word, word, known)
    sections: dict[str, Any] = {
        name: decode(words[name], kind, name) for name, kind in SECTIONS.items() if words.get(name) is not None
    }
    accounts = {name: account(value, f"providers.{name}") for name, value in named(words, "providers").items()}
    routes = {name: decode(value, RouteConfig, f"routes.{name}") for name, value in named(words, "routes").items()}
    keys = decode(_list(words.get("keys")), tuple[KeyConfig, ...], "keys")
    teams = decode(_list(words.get("teams")), tuple[TeamConfig, ...], "teams")
    if not accounts:
        raise ConfigError("providers", f"is empty: name at least one account, such as {ACCOUNT_EXAMPLE}")
    if not routes:
        raise ConfigError("routes", f"is empty: name at least one route, such as {ROUTE_EXAMPLE}")
    return Config(accounts=accounts, routes=routes, keys=keys, teams=teams, **sections)


def _list(value: object) -> object:
    return [] if value is None else value


def named(words: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A section of things under names of their own."""
    found = mapping(words.get(section), section)
    for name in found:
        if not is_name(name):
            shown_name = ascii(name if len(name) <= 40 else name[:40] + "…")
            raise ConfigError(section, f"the name {shown_name} must be {NAME_RULE}")
    return found


def mapping(value: object, path: str) -> Mapping[str, Any]:
    """A mapping, {} for nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(path, f"must be a mapping, not {shown(value)}")
    return value


def account(value: object, path: str) -> Account:
    """One account by the class that its `type` names."""
    words = dict(mapping(value, path))
    kind = words.pop("type", None)
    if kind is None:
        raise ConfigError(path, f"'type' is missing; known: {', '.join(plugins.names('providers'))}")
    if not isinstance(kind, str):
        raise ConfigError(f"{path}.type", f"must be text, not {shown(kind)}")
    if kind not in plugins.names("providers"):
        raise unknown(f"{path}.type", kind, plugins.names("providers"), "type")
    try:
        found = plugins.load("providers", kind)
    except ConfigError as error:
        raise ConfigError(f"{path}.type", error.reason) from error
    decoded: Any = decode(words, found, path)
    assert isinstance(decoded, Account)
    return decoded


def policy(value: object, path: str) -> tuple[str, Policy]:
    """One line of a route's policies: a word, or a word with its options."""
    words = {value: None} if isinstance(value, str) else value
    if not isinstance(words, dict):
        raise ConfigError(path, f"must be a policy's name, or a name and its options, not {shown(words)}")
    if len(words) != 1:
        raise ConfigError(path, "must be one policy: a name, or a name and its options")
    ((word, options),) = words.items()
    if word not in plugins.names("policies"):
        raise unknown(path, word, plugins.names("policies"), "policy")
    found: Any = plugins.load("policies", word)
    options = {} if options is None else options
    if not hasattr(found, "from_options"):
        return word, decode(options, found, f"{path}.{word}")
    try:
        return word, found.from_options(options)
    except (ValueError, TypeError) as error:
        raise refused(error, options, found, f"{path}.{word}") from error


def deployment(value: object, path: str) -> DeploymentConfig:
    """One line of a route's deployments: an account's name, or a mapping."""
    words = {"account": value} if isinstance(value, str) else value
    if not isinstance(words, dict):
        raise ConfigError(path, f"must be an account's name or a mapping, not {shown(words)}")
    return decode(words, DeploymentConfig, path)


def decode(value: object, kind: type[T], path: str) -> T:
    """A value as an object of that class. Raises ConfigError with the path down to the mistake."""
    try:
        return msgspec.convert(value, kind, dec_hook=_special, strict=True)
    except msgspec.ValidationError as error:
        raise refused(error, value, kind, path) from error


def _special(kind: type, value: object) -> object:
    if not issubclass(kind, Secret):
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise ValueError("must be text, `env:NAME` or `file:/path`")
    return kind(value)


__all__ = ["account", "build", "decode", "deployment", "mapping", "naming", "parse", "policy", "read", "unknown"]
