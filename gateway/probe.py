"""`python -m gateway.probe`: is a gateway ready, does it answer a real call? Quick to start: images and charts run it.

Exit codes as the command's: 0 yes, 1 no, 2 wrong usage."""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

from gateway.secret import Secret

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the key is for nobody on the way


class No(Exception):
    """The gateway is not as it should be; says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Asks one gateway; the exit code."""
    given = _parser().parse_args(argv)
    url = given.url.rstrip("/")
    try:
        ask(f"{url}/readyz", given.wait_s)
        found = call(url, Secret(given.key).reveal(), given.route, given.wait_s) if given.call else "ready"
    except (No, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{url}: {found}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway.probe", description="Is a gateway ready?", allow_abbrev=False)
    port = os.environ.get("ARRIERO_PORT") or "8080"
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="its public address")
    parser.add_argument("--wait-s", type=float, default=2.0, help="for each answer")
    parser.add_argument("--call", action="store_true", help="also make a call, which costs what a call costs")
    parser.add_argument("--route", help="of the call; else the first that the key may use")
    parser.add_argument("--key", default="any", help="of the call: env:NAME, file:/path or the key")
    return parser


def call(url: str, key: str, route: str | None, wait_s: float) -> str:
    """One short chat completion; what answered it. Raises No."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if route is None:
        models = ask(f"{url}/v1/models", wait_s, headers)["data"]
        if not models:
            raise No("this key may use no route")
        route = models[0]["id"]
    body = {"model": route, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
    began = time.monotonic()
    answer = ask(f"{url}/v1/chat/completions", wait_s, headers, json.dumps(body).encode())
    if not answer.get("choices"):
        raise No(f"the answer of {route} holds no choice")
    return f"{route} answered in {time.monotonic() - began:.3f} s"


def ask(url: str, wait_s: float, headers: dict[str, str] | None = None, body: bytes | None = None) -> dict[str, Any]:
    """The JSON object at a URL. Raises No."""
    request = urllib.request.Request(url, body, headers or {})  # noqa: S310  (the operator's URL)
    try:
        with DIRECT.open(request, timeout=wait_s) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        raise No(f"{error.code} {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise No(f"no answer: {error}") from error
    if not isinstance(found, dict):
        raise No("the answer is no JSON object")
    return found


if __name__ == "__main__":
    sys.exit(main())
