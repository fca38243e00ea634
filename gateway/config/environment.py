"""A config made from the credentials in the environment and the catalogue, for who starts without a file."""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import structs

from gateway.account import Account
from gateway.accounts import open_account
from gateway.catalog import Catalog
from gateway.config import homes
from gateway.config.document import NAME_RULE, Config, RouteConfig, is_name
from gateway.errors import ConfigError
from gateway.transport.proxy import chosen

POLICIES = ({"capability": {"missing": "emulate"}}, "context_window", "breaker", "headroom", "lowest_cost")
"""Those of a config that nobody wrote: what a cloud lacks is stood in for where that can be done."""
VLLM_WAIT_S = 2.0
MAX_LIST_BYTES = 1_000_000


class Found(NamedTuple):
    """The config as plain objects, None where nothing was found, and what the operator should know of it."""

    document: dict[str, Any] | None
    notes: Sequence[str]


class _Incomplete(Exception):
    """Half a set of variables."""


def keys(env: Mapping[str, str]) -> dict[str, Any]:
    """The section `keys` of a config that has no file: ARRIERO_KEY alone, or anyone."""
    return {"keys": [{"name": "default", "key": "env:ARRIERO_KEY"}]} if env.get("ARRIERO_KEY") else {}


def find(env: Mapping[str, str], catalog: Catalog, today: date) -> Found:
    """Accounts for every complete set of variables, routes for every open weights they serve; half a set is a note.

    Raises ConfigError when nothing that was found can be routed."""
    accounts: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, build in ACCOUNTS.items():
        try:
            account = build(env)
        except _Incomplete as half:
            notes.append(f"{name} is left out: {half}")
            continue
        if account is not None:
            accounts[name] = account
    if not accounts:
        return Found(None, notes)
    routes: dict[str, dict[str, Any]] = {}
    for name, account in accounts.items():
        for route, fields in _served(account, env, catalog, today, notes):
            deployments = routes.setdefault(route, {"deployments": [], "policies": list(POLICIES)})["deployments"]
            again = sum(deployment["account"] == name for deployment in deployments)
            named = {"name": f"{name}-{again + 1}"} if again else {}  # two servings of the same weights
            deployments.append({"account": name, **named, **fields})
    if not routes:
        raise ConfigError("", f"the credentials found ({', '.join(accounts)}) serve no model that the catalogue knows")
    return Found({"providers": accounts, "routes": routes}, notes)


def openable(config: Config) -> tuple[Config, Sequence[str]]:
    """A config that nobody wrote, without the accounts that cannot be opened here, and notes that say why.

    Raises ConfigError when none can."""
    accounts: dict[str, Account] = {}
    notes: list[str] = []
    for name, account in config.accounts.items():
        try:
            open_account(account, name, time.monotonic)
        except ConfigError as error:
            notes.append(f"{name} is left out: {error.reason}")
        else:
            accounts[name] = account
    if not accounts:
        raise ConfigError("", "; ".join(notes))
    routes = {name: _at(route, accounts) for name, route in config.routes.items()}
    kept = {name: route for name, route in routes.items() if route.deployments}
    return structs.replace(config, accounts=accounts, routes=kept), notes


def _at(route: RouteConfig, accounts: Container[str]) -> RouteConfig:
    """A route without the deployments at other accounts."""
    left = tuple(value for value in route.deployments if value["account"] in accounts)
    return structs.replace(route, deployments=left)


def _first(env: Mapping[str, str], *names: str) -> str | None:
    return next((name for name in names if env.get(name)), None)


def _groq(env: Mapping[str, str]) -> dict[str, Any] | None:
    if not env.get("GROQ_API_KEY"):
        return None
    found: dict[str, Any] = {"type": "groq", "api_key": "env:GROQ_API_KEY"}
    if base := env.get("GROQ_BASE_URL"):  # as groq's own SDK has it, without /openai/v1
        found["url"] = base.rstrip("/") + "/openai/v1"
    return found


def _vllm(env: Mapping[str, str]) -> dict[str, Any] | None:
    if not env.get("VLLM_URL"):
        return None
    url = env["VLLM_URL"].rstrip("/")
    found: dict[str, Any] = {"type": "vllm", "url": url if url.endswith("/v1") else url + "/v1"}
    if env.get("VLLM_API_KEY"):
        found["api_key"] = "env:VLLM_API_KEY"
    return found


def _azure(env: Mapping[str, str]) -> dict[str, Any] | None:
    url = _first(env, "AZURE_AI_ENDPOINT", "AZURE_INFERENCE_ENDPOINT", "AZURE_OPENAI_ENDPOINT")
    key = _first(env, "AZURE_AI_API_KEY", "AZURE_INFERENCE_CREDENTIAL", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY")
    identity = _first(env, "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "IDENTITY_ENDPOINT")
    if url is None and key is None and identity != "AZURE_TENANT_ID":
        return None
    if url is None or not (key or identity):
        lacks = "AZURE_AI_API_KEY" if url else "AZURE_AI_ENDPOINT"
        raise _Incomplete(f"{url or key or identity} is set but {lacks} is not")
    return {"type": "azure", "url": env[url].rstrip("/"), **({"api_key": f"env:{key}"} if key else {"entra": {}})}


def _vertex(env: Mapping[str, str]) -> dict[str, Any] | None:
    source = _first(env, "VERTEX_TOKEN_FILE", "VERTEX_ACCESS_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS")
    login = homes.gcloud(env) if source is None else None
    if source is None and login is None:
        return None
    named = _first(env, "VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT")
    project = env[named] if named else login.place if login else None
    if project is None:
        there = f"{login.path} is there" if login else f"{source} is set"
        raise _Incomplete(f"{there} but GOOGLE_CLOUD_PROJECT is not")
    location = env.get("VERTEX_LOCATION") or env.get("GOOGLE_CLOUD_LOCATION") or "us-central1"
    found: dict[str, Any] = {"type": "vertex", "project": project, "location": location}
    if source == "VERTEX_TOKEN_FILE":
        found["token"] = f"file:{env['VERTEX_TOKEN_FILE']}"
    elif source == "VERTEX_ACCESS_TOKEN":
        found["token"] = f"env:{source}"
    if env.get("VERTEX_URL"):
        found["url"] = env["VERTEX_URL"].rstrip("/")
    return found


def _databricks(env: Mapping[str, str]) -> dict[str, Any] | None:
    host, client_id, secret = "DATABRICKS_HOST", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"
    if not env.get("DATABRICKS_TOKEN") and _first(env, client_id, secret):
        _both(env, client_id, secret)
        _both(env, host, client_id)
        found: dict[str, Any] = {"client_id": env[client_id], "client_secret": f"env:{secret}"}
    elif _first(env, host, "DATABRICKS_TOKEN"):
        _both(env, host, "DATABRICKS_TOKEN")
        found = {"api_key": "env:DATABRICKS_TOKEN"}
    else:
        return None
    url = env[host] if env[host].startswith(("http://", "https://")) else f"https://{env[host]}"
    return {"type": "databricks", "url": url.rstrip("/"), **found}


def _nim(env: Mapping[str, str]) -> dict[str, Any] | None:
    if not env.get("NVIDIA_API_KEY") and not env.get("NIM_URL"):
        return None
    found: dict[str, Any] = {"type": "nim"}
    if env.get("NVIDIA_API_KEY"):
        found["api_key"] = "env:NVIDIA_API_KEY"
    if env.get("NIM_URL"):
        found["url"] = env["NIM_URL"].rstrip("/")
    return found


def _bedrock(env: Mapping[str, str]) -> dict[str, Any] | None:
    """AWS's own variables and files. Profiles and roles are read by botocore, which is an extra."""
    kept = homes.aws(env)
    bearer, key_id, secret = "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    chain = _first(env, "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                   "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip
    if env.get(bearer):
        found: dict[str, Any] = {"api_key": f"env:{bearer}"}
    elif env.get(key_id) or env.get(secret):
        _both(env, key_id, secret)
        found = {"access_key_id": f"env:{key_id}", "secret_access_key": f"env:{secret}"}
        if env.get("AWS_SESSION_TOKEN"):
            found |= {"session_token": "env:AWS_SESSION_TOKEN"}
    elif chain is not None:
        found = {"profile": env["AWS_PROFILE"]} if chain == "AWS_PROFILE" else {}
    elif kept is not None:
        found = {}
    else:
        return None
    named = _first(env, "AWS_REGION", "AWS_DEFAULT_REGION")
    region = env[named] if named else kept.place if kept else None
    if region is None:
        there = "AWS credentials are set" if found or kept is None else f"{kept.path} is there"
        raise _Incomplete(f"{there} but AWS_REGION is not")
    if env.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME"):
        found["url"] = env["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"].rstrip("/")
    return {"type": "bedrock", "region": region, **found}


def _oci(env: Mapping[str, str]) -> dict[str, Any] | None:
    """The variables of Oracle's command line, its config file, or a resource principal, and who pays."""
    user, principal = env.get("OCI_CLI_USER"), env.get("OCI_RESOURCE_PRINCIPAL_VERSION")
    compartment = _first(env, "OCI_COMPARTMENT_ID", "OCI_COMPARTMENT")
    said = _first(env, "OCI_CLI_USER", "OCI_CLI_PROFILE", "OCI_CLI_AUTH", "OCI_CLI_CONFIG_FILE",
                  "OCI_RESOURCE_PRINCIPAL_VERSION")  # fmt: skip
    kept = homes.oci(env)
    if compartment is None and said is None and kept is None:
        return None
    if compartment is None:
        there = f"{said} is set" if said or kept is None else f"{kept.path} is there"
        raise _Incomplete(f"{there} but OCI_COMPARTMENT_ID is not")
    found: dict[str, Any] = {"type": "oci", "compartment": env[compartment]}
    auth = env.get("OCI_CLI_AUTH")
    if auth is not None and auth not in OCI_AUTHS:
        raise _Incomplete(f"OCI_CLI_AUTH is {auth:.40}; offered: {', '.join(OCI_AUTHS)}")
    if auth:
        found["auth"] = auth
    if user and auth in (None, "api_key"):
        found |= _oci_key(env)
    elif auth in ("api_key", "security_token") or not (principal or auth):
        places = {"profile": "OCI_CLI_PROFILE", "config_file": "OCI_CLI_CONFIG_FILE"}
        found |= {word: env[name] for word, name in places.items() if env.get(name)}
    if region := _first(env, "OCI_CLI_REGION", "OCI_REGION"):
        found["region"] = env[region]
    elif "user" in found:
        raise _Incomplete("OCI_CLI_USER is set but OCI_CLI_REGION is not")
    if env.get("OCI_CLI_ENDPOINT"):
        found["url"] = env["OCI_CLI_ENDPOINT"].rstrip("/")
    return found


OCI_AUTHS = ("api_key", "security_token", "instance_principal", "resource_principal", "oke_workload_identity")


def _oci_key(env: Mapping[str, str]) -> dict[str, Any]:
    """A user's key, in a file or as text."""
    _both(env, "OCI_CLI_USER", "OCI_CLI_TENANCY")
    found: dict[str, Any] = {"user": env["OCI_CLI_USER"], "tenancy": env["OCI_CLI_TENANCY"]}
    if env.get("OCI_CLI_KEY_CONTENT"):
        found["key"] = "env:OCI_CLI_KEY_CONTENT"
    else:
        _both(env, "OCI_CLI_USER", "OCI_CLI_KEY_FILE")
        found["key_file"] = env["OCI_CLI_KEY_FILE"]
    if env.get("OCI_CLI_FINGERPRINT"):
        found["fingerprint"] = env["OCI_CLI_FINGERPRINT"]
    if env.get("OCI_CLI_PASSPHRASE"):
        found |= {"pass_phrase": "env:OCI_CLI_PASSPHRASE"}
    return found


def _both(env: Mapping[str, str], one: str, other: str) -> None:
    """Raises _Incomplete where only one of two is set."""
    for had, lacks in ((one, other), (other, one)):
        if env.get(had) and not env.get(lacks):
            raise _Incomplete(f"{had} is set but {lacks} is not")


ACCOUNTS: Mapping[str, Callable[[Mapping[str, str]], dict[str, Any] | None]] = {
    "vllm": _vllm,
    "groq": _groq,
    "bedrock": _bedrock,
    "azure": _azure,
    "vertex": _vertex,
    "oci": _oci,
    "databricks": _databricks,
    "nim": _nim,
}


def _served(
    account: Mapping[str, Any], env: Mapping[str, str], catalog: Catalog, today: date, notes: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Route names and deployment fields of what an account serves."""
    cloud = account["type"]
    if cloud == "vllm":
        return _served_by_vllm(account["url"], env, catalog, notes)
    rows = [row for row in catalog.rows(cloud) if "chat" in row.features and _open(catalog, row.weights)]
    live = [row for row in rows if not row.gone(today) or row.retires_tier]
    if not live and rows:
        notes.append(
            f"{cloud}: the catalogue knows of no Llama that it still offers; its retired ones are routed all the same"
        )
    return [(row.weights, {}) for row in live or rows]


def _open(catalog: Catalog, weights: str) -> bool:
    found = catalog.weights(weights)
    return found is not None and found.open


def _served_by_vllm(
    url: str, env: Mapping[str, str], catalog: Catalog, notes: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """What the server itself lists, or VLLM_MODEL, or Llama 3.1 8B with a note."""
    models = [env["VLLM_MODEL"]] if env.get("VLLM_MODEL") else _listed(url, env)
    if not models:
        models = ["meta-llama/Llama-3.1-8B-Instruct"]
        notes.append(f"vllm: {url}/models does not answer; {models[0]} is assumed (say VLLM_MODEL)")
    served: list[tuple[str, dict[str, Any]]] = []
    for model in models:
        weights = catalog.weights(model)
        name = weights.name if weights else model
        if is_name(name):
            served.append((name, {"model": model}))
        else:
            notes.append(f"vllm: {model!a} is left out: a route's name is {NAME_RULE}; say it in a config file")
    return served


def _listed(url: str, env: Mapping[str, str]) -> list[str]:
    headers = {"authorization": f"Bearer {env['VLLM_API_KEY']}"} if env.get("VLLM_API_KEY") else {}
    try:
        proxy = chosen(url, None, env)
        way = {urlsplit(url).scheme: proxy.url()} if proxy else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(way))  # as the gateway itself will call it
        request = urllib.request.Request(f"{url}/models", headers=headers)  # noqa: S310  (the operator's URL)
        with opener.open(request, timeout=VLLM_WAIT_S) as response:
            return [str(model["id"]) for model in json.loads(response.read(MAX_LIST_BYTES))["data"]]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return []
