"""What works on the test cluster: kubectl and helm in one namespace, and the patience to see what comes of it."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kube.tools import tool

NAMESPACE = "llama"
HERE = Path(__file__).parent
ASKED = (
    "get pods -o wide",
    "get events --sort-by=.lastTimestamp",
    "logs -l app.kubernetes.io/name=arriero --all-containers --tail=20",
)
"""What is shown when something is wrong."""


def kubectl(*arguments: str, text: str | None = None) -> str:
    words = ["kubectl", "-n", NAMESPACE, *arguments]
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.stdout


def helm(*arguments: str | Path, fails: bool = False) -> str:
    done = subprocess.run([tool("helm"), "-n", NAMESPACE, *arguments], capture_output=True, text=True, timeout=400)
    if (done.returncode != 0) is not fails:
        pytest.fail(f"helm {arguments[0]}: {done.stdout}{done.stderr}\n{facts()}")
    return done.stdout + done.stderr


def facts() -> str:
    """What the cluster says of itself."""
    done = [subprocess.run(["kubectl", "-n", NAMESPACE, *w.split()], capture_output=True, text=True) for w in ASKED]
    return "\n".join(found.stdout[-4000:] + found.stderr[-500:] for found in done)


def pods(selector: str = "app.kubernetes.io/component=gateway") -> list[dict[str, Any]]:
    return list(json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"])


def ready(found: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in found["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in found["metadata"]


def until(true: Callable[[], bool], what: str, patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"never: {what}\n{facts()}"
        time.sleep(0.3)


def service() -> str:
    return kubectl("get", "service", "arriero", "-o", "jsonpath={.spec.clusterIP}")


def models(key: str, port: int = 8080) -> set[str]:
    """The routes that a pod, whichever answers, offers."""
    headers = {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://{service()}:{port}/v1/models", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return {model["id"] for model in json.load(response)["data"]}


def left(kinds: str) -> str:
    """What there still is of the release."""
    return kubectl("get", kinds, "-l", "app.kubernetes.io/instance=arriero", "-o", "name")
