"""A config made from the credentials in the environment and the catalogue, for who starts without a file."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from gateway.catalog import Catalog
from gateway.errors import ConfigError

VLLM_WAIT_S = 2.0


class Found(NamedTuple):
    """The config as plain objects, and what the operator should know of it."""

    document: dict[str, Any]
    notes: Sequence[str]


def find(env: Mapping[str, str], catalog: Catalog, today: date) -> Found | None:
    """Accounts for every complete set of variables, routes for every open weights they serve; None without any.

    Raises ConfigError for half a set, naming the variable that is missing."""
    accounts: dict[str, dict[str, Any]] = {}
    for name, build in ACCOUNTS.items():
        if account := build(env):
            accounts[name] = account
    if not accounts:
        return None
    notes: list[str] = []
    routes: dict[str, dict[str, Any]] = {}
    for name, account in accounts.items():
        for weights, fields in _served(name, account, env, catalog, today, notes):
            routes.setdefault(weights, {"deployments": []})["deployments"].append({"account": name, **fields})
    if not routes:
        raise ConfigError("", f"the credentials found ({', '.join(accounts)}) serve no model that the catalogue knows")
    return Found({"providers": accounts, "routes": routes}, notes)


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
    if url is None and key is None:
        return None
    if url is None or key is None:
        raise ConfigError("", f"{url or key} is set but {'AZURE_AI_API_KEY' if url else 'AZURE_AI_ENDPOINT'} is not")
    return {"type": "azure", "url": env[url].rstrip("/"), "api_key": f"env:{key}"}


def _vertex(env: Mapping[str, str]) -> dict[str, Any] | None:
    token_file, token = env.get("VERTEX_TOKEN_FILE"), env.get("VERTEX_ACCESS_TOKEN")
    if not token_file and not token:
        return None
    project = _first(env, "VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT")
    if project is None:
        raise ConfigError("", "a Vertex token is set but GOOGLE_CLOUD_PROJECT is not")
    location = env.get("VERTEX_LOCATION") or env.get("GOOGLE_CLOUD_LOCATION") or "us-central1"
    source = f"file:{token_file}" if token_file else "env:VERTEX_ACCESS_TOKEN"
    found: dict[str, Any] = {"type": "vertex", "project": env[project], "location": location, "token": source}
    if env.get("VERTEX_URL"):
        found["url"] = env["VERTEX_URL"].rstrip("/")
    return found


def _databricks(env: Mapping[str, str]) -> dict[str, Any] | None:
    host, token = env.get("DATABRICKS_HOST"), env.get("DATABRICKS_TOKEN")
    if not host and not token:
        return None
    if not host or not token:
        had, lacks = ("DATABRICKS_HOST", "DATABRICKS_TOKEN") if host else ("DATABRICKS_TOKEN", "DATABRICKS_HOST")
        raise ConfigError("", f"{had} is set but {lacks} is not")
    url = host if host.startswith(("http://", "https://")) else f"https://{host}"
    return {"type": "databricks", "url": url.rstrip("/"), "api_key": "env:DATABRICKS_TOKEN"}


def _nim(env: Mapping[str, str]) -> dict[str, Any] | None:
    if not env.get("NVIDIA_API_KEY") and not env.get("NIM_URL"):
        return None
    found: dict[str, Any] = {"type": "nim"}
    if env.get("NVIDIA_API_KEY"):
        found["api_key"] = "env:NVIDIA_API_KEY"
    if env.get("NIM_URL"):
        found["url"] = env["NIM_URL"].rstrip("/")
    return found


ACCOUNTS: Mapping[str, Callable[[Mapping[str, str]], dict[str, Any] | None]] = {
    "vllm": _vllm,
    "groq": _groq,
    "azure": _azure,
    "vertex": _vertex,
    "databricks": _databricks,
    "nim": _nim,
}


def _served(
    name: str, account: Mapping[str, Any], env: Mapping[str, str], catalog: Catalog, today: date, notes: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Route names and deployment fields of what an account serves."""
    if name == "vllm":
        return _served_by_vllm(account["url"], env, catalog, notes)
    rows = [row for row in catalog.rows(name) if "chat" in row.features and _open(catalog, row.weights)]
    live = [row for row in rows if not row.gone(today) or row.retires_tier]
    if not live and rows:
        notes.append(
            f"{name}: the catalogue knows of no Llama that it still offers; its retired ones are routed all the same"
        )
    return [(row.weights, {}) for row in live or rows]


def _open(catalog: Catalog, weights: str) -> bool:
    found = catalog.weights(weights)
    return found is not None and found.open


def _served_by_vllm(
    url: str, env: Mapping[str, str], catalog: Catalog, notes: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """What the server itself lists, or VLLM_MODEL, or Llama 3.1 8B with a note."""
    models = [env["VLLM_MODEL"]] if env.get("VLLM_MODEL") else _listed(url, env.get("VLLM_API_KEY"))
    if not models:
        models = ["meta-llama/Llama-3.1-8B-Instruct"]
        notes.append(f"vllm: {url}/models does not answer; {models[0]} is assumed (say VLLM_MODEL)")
    known = {model: catalog.weights(model) for model in models}
    return [((weights.name if weights else model), {"model": model}) for model, weights in known.items()]


def _listed(url: str, key: str | None) -> list[str]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(f"{url}/models", headers=headers)  # noqa: S310  (the operator's URL)
        with urllib.request.urlopen(request, timeout=VLLM_WAIT_S) as response:  # noqa: S310
            return [str(model["id"]) for model in json.load(response)["data"]]
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
        return []
