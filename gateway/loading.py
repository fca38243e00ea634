"""From the words of a config file to its objects; where a mistake's path, reason and nearest word are put together."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway import plugins, yaml_file
from gateway.account import Account
from gateway.config import (
    LATER,
    AdminConfig,
    AttemptsConfig,
    BaselineConfig,
    Config,
    DeploymentConfig,
    KeyConfig,
    RouteConfig,
    ServerConfig,
)
from gateway.errors import ConfigError
from gateway.secret import Secret
from gateway.types import Policy

T = TypeVar("T")

SECTIONS: Mapping[str, type] = {
    "server": ServerConfig,
    "admin": AdminConfig,
    "attempts": AttemptsConfig,
    "baseline": BaselineConfig,
}


def read(path: Path) -> Config:
    """The config in a file. Raises ConfigError."""
    return build(yaml_file.read(path))


def parse(text: str) -> Config:
    """The config in a text. Raises ConfigError."""
    return build(yaml_file.parse(text))


def build(document: object) -> Config:
    """The config in plain objects. Raises ConfigError with the path of the first mistake."""
    words = mapping(document, "the config")
    known = [*SECTIONS, "keys", "providers", "routes"]
    for word in words:
        if word not in known:
            raise unknown(word, word, known)
    sections = {name: decode(words[name], kind, name) for name, kind in SECTIONS.items() if name in words}
    accounts = {
        name: account(value, f"providers.{name}")
        for name, value in mapping(words.get("providers"), "providers").items()
    }
    routes = {
        name: decode(value, RouteConfig, f"routes.{name}")
        for name, value in mapping(words.get("routes"), "routes").items()
    }
    keys = decode(words.get("keys") or [], tuple[KeyConfig, ...], "keys")
    if not accounts:
        raise ConfigError(
            "providers", "is empty: name at least one account, such as `groq: {type: groq, api_key: env:GROQ_API_KEY}`"
        )
    if not routes:
        raise ConfigError("routes", "is empty: name at least one route, such as `llama-3.1-8b: {deployments: [groq]}`")
    return Config(accounts=accounts, routes=routes, keys=keys, **sections)


def mapping(value: object, path: str) -> Mapping[str, Any]:
    """A mapping with names for keys, {} for nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(path, f"must be a mapping, not {_kind(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(path, f"the name {key!r} must be text: put it in quotes")
    return value


def account(value: object, path: str) -> Account:
    """One account by the class that its `type` names."""
    words = dict(mapping(value, path))
    kind = words.pop("type", None)
    if kind is None:
        raise ConfigError(path, f"has no 'type': one of {', '.join(plugins.names('providers'))}")
    if kind not in plugins.names("providers"):
        raise unknown(f"{path}.type", str(kind), plugins.names("providers"), "type")
    try:
        found = plugins.load("providers", kind)
    except ConfigError as error:
        raise ConfigError(f"{path}.type", error.reason) from error
    decoded = decode(words, found, path)
    assert isinstance(decoded, Account)
    return decoded


def policy(value: object, path: str) -> tuple[str, Policy]:
    """One line of a route's policies: a word, or a word with its options."""
    if isinstance(value, str):
        word, options = value, {}
    else:
        words = mapping(value, path)
        if len(words) != 1:
            raise ConfigError(path, "must be one policy: a word, or a word and its options")
        ((word, options),) = words.items()
    if word not in plugins.names("policies"):
        raise unknown(path, word, plugins.names("policies"), "policy")
    found: Any = plugins.load("policies", word)
    build_options = getattr(found, "from_options", None)
    if build_options is None:
        return word, decode({} if options is None else options, found, f"{path}.{word}")
    try:
        return word, build_options(options)
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise _refused(error, f"{path}.{word}", found) from error


def deployment(value: object, path: str) -> DeploymentConfig:
    """One line of a route's deployments: an account's name, or a mapping."""
    return decode({"account": value} if isinstance(value, str) else value, DeploymentConfig, path)


def decode(value: object, kind: type[T], path: str) -> T:
    """A value as an object of that class. Raises ConfigError with the path down to the mistake."""
    try:
        return msgspec.convert(value, kind, dec_hook=_special, strict=True)
    except msgspec.ValidationError as error:
        raise _refused(error, path, kind) from error


def _special(kind: type, value: object) -> object:
    if kind is not Secret:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise ValueError("must be text, `env:NAME` or `file:/path`")
    return Secret(value)


_MESSAGE = re.compile(r"(?P<reason>.*?)(?: - at `\$?(?P<at>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<word>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<word>[^`]*)`")


def _refused(error: Exception, path: str, kind: type) -> ConfigError:
    """msgspec's message as a path and a sentence."""
    match = _MESSAGE.fullmatch(str(error))
    reason, at = (match["reason"], match["at"] or "") if match else (str(error), "")
    place = path + at
    if found := _UNKNOWN.match(reason):
        owner = _inner(kind, at)
        return unknown(f"{place}.{found['word']}", found["word"], _fields(owner))
    if found := _MISSING.match(reason):
        return ConfigError(place, f"'{found['word']}' is missing")
    return ConfigError(place, reason[:1].lower() + reason[1:])


def _fields(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)] if _is_struct(kind) else []


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _inner(kind: Any, at: str) -> Any:
    """The class that stands at a path like `.timeouts` or `[0].price` below another."""
    for part in re.findall(r"\.(\w+)|\[(?:\d+|\.\.\.)\]", at):
        if part and _is_struct(kind):
            types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            kind = types.get(part)
        for argument in getattr(kind, "__args__", ()):
            if _is_struct(argument):
                kind = argument
    for argument in getattr(kind, "__args__", ()):
        if _is_struct(argument):
            kind = argument
    return kind


def unknown(path: str, word: str, known: Iterable[str], what: str = "word") -> ConfigError:
    """Refuses a word, with the nearest known one or the whole list."""
    known = list(known)
    if word in LATER and what == "word":
        return ConfigError(path, f"'{word}' ({LATER[word]}) is not offered by this version")
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return ConfigError(path, f"unknown {what} '{word}'; {hint}")


def _kind(value: object) -> str:
    return {"str": "text", "list": "a list", "int": "a number", "float": "a number", "bool": "true or false"}.get(
        type(value).__name__, type(value).__name__
    )
