"""`arriero explain`: asks a running gateway's admin port; without one, `--route` is answered from the config alone."""

import argparse
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import ArrieroError, ConfigError
from gateway.explain import Asked, dry_run, text
from gateway.serve import say

WAIT_S = 15.0


def explain(arguments: argparse.Namespace) -> int:
    """A kept decision by its id, or a dry run with --route."""
    if arguments.id:
        found = ask(arguments.admin_url, f"/admin/decisions/{quote(arguments.id, safe='')}", None)
    elif arguments.route:
        found = _dry_run(arguments)
    else:
        raise ConfigError("explain", "name a decision, or a call with --route and --prompt-tokens")
    print(json.dumps(found, indent=2) if arguments.json else text(found))  # noqa: T201
    return 0


def _dry_run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.prompt_tokens is None:
        raise ConfigError("--prompt-tokens", "is missing: how long is the prompt of the call to explain?")
    labels = dict(_label(label) for label in arguments.label)
    asked = Asked(
        route=arguments.route,
        prompt_tokens=arguments.prompt_tokens,
        max_tokens=arguments.max_tokens,
        stream=arguments.stream,
        features=arguments.feature,
        labels=labels,
    )
    try:
        found: dict[str, Any] = ask(arguments.admin_url, "/admin/explain", asked.model_dump_json().encode())
        return found
    except Unreachable:
        return _offline(arguments, asked)


def _label(text_: str) -> tuple[str, str]:
    name, equals, value = text_.partition("=")
    if not equals or not name or not value:
        raise ConfigError("--label", f"'{text_}' is not of the form name=value")
    return name, value


def _offline(arguments: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    path = Path(arguments.config or "arriero.yaml")
    if not path.exists():
        raise ConfigError("", f"no gateway answers at {arguments.admin_url}, and there is no {path} to explain from")
    say(f"no gateway answers at {arguments.admin_url}: explained from {path}, with nothing learned yet")
    with loading.naming(str(path)):
        return dry_run(asked, Gateway(loading.read(path)).fleet)


class Unreachable(ArrieroError):
    """Nobody listens there."""


def ask(base: str, path: str, body: bytes | None = None, method: str | None = None) -> Any:
    """What the admin port answers. Raises Unreachable, and ArrieroError for what it refuses."""
    headers = {"content-type": "application/json"}
    if token := os.environ.get("ARRIERO_ADMIN_TOKEN"):
        headers["authorization"] = f"Bearer {token}"
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the token is for nobody on the way
    try:
        request = urllib.request.Request(base.rstrip("/") + path, body, headers, method=method)  # noqa: S310  (the operator's URL)
        with straight.open(request, timeout=WAIT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ArrieroError(_reason(error)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unreachable(f"no gateway answers at {base}: say where with --admin-url") from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {error.code}"
