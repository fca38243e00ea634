"""Arriero with everything on: keys, the chain of policies over eight deployments, metrics, decisions, access lines."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.contender import KEY, MODEL, Place

DEPLOYMENTS = 8
OTHER_KEYS = 50


Document = dict[str, Any]


class Arriero:
    """This checkout, by the `arriero` beside the running Python; another one by path. `more` adds to its config."""

    def __init__(
        self, root: Path, name: str = "Arriero", ledger: str = "SQLite", more: Callable[[Document], None] | None = None
    ) -> None:
        self.name, self.root, self._ledger, self._more = name, root, ledger, more
        self.about = (
            f"key, {DEPLOYMENTS} deployments through 5 policies, metrics, decisions, access lines, ledger: {ledger}"
        )
        self.binary = str(Path(sys.executable).with_name("arriero"))

    def prepare(self) -> str:
        return "" if Path(self.binary).is_file() else f"there is no {self.binary}: make install"

    def version(self) -> str:
        asked = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(asked, cwd=self.root, capture_output=True, text=True).stdout.strip() or "unknown"
        return f"{commit} on CPython {' '.join(sys.version.split())}"

    def command(self, place: Place) -> Sequence[str]:
        config = place.folder / "arriero.yaml"
        said = document(place.upstream_port) | {"store": {"ledger": self._url(place)}}
        if self._more is not None:
            self._more(said)
        config.write_text(json.dumps(said))  # JSON is YAML
        ports = ["--port", str(place.port), "--admin-port", str(place.spare_port)]
        return [self.binary, "serve", "--config", str(config), *ports]

    def _url(self, place: Place) -> str:
        return "none" if self._ledger == "none" else f"sqlite:///{place.folder}/arriero.db"


def document(upstream_port: int) -> Document:
    """The config: deployments that differ in price, all of them at the same upstream."""
    names = [f"cloud-{i}" for i in range(DEPLOYMENTS)]
    providers = {
        name: {"type": "openai", "url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": f"key-of-{name}"}
        for name in names
    }
    deployments = [
        {
            "account": name,
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "price": {"in": f"0.{i + 1}", "out": f"0.{i + 2}"},
        }
        for i, name in enumerate(names)
    ]
    policies = [
        {"capability": {"missing": "strict"}},
        "context_window",
        "breaker",
        "headroom",
        {"objective": {"minimize": "cost", "subject_to": {"ttft_p95_s": 30.0, "error_rate": 0.1}}},
    ]
    keys = [{"name": f"team-{i}", "key": f"sk-bench-team-{i}"} for i in range(OTHER_KEYS)]
    return {
        "providers": providers,
        "keys": [*keys, {"name": "bench", "key": KEY, "labels": {"team": "bench"}}],
        "routes": {MODEL: {"deployments": deployments, "policies": policies}},
    }
