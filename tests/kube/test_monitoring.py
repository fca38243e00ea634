"""Dashboards and alerts against the truth: a real Prometheus reads a live gateway, and every query finds data."""

import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.process import free_port
from helm import dashboards
from sandbox.run import Sandbox
from tests.kube.tools import CHART, ROOT, objects, run, template, tool
from tests.process import PATIENCE_S, serving

RULES = CHART / "files" / "alerts.yaml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
QUERIES = [
    (f"{name}: {panel.title}", query)
    for name, rows in dashboards.DASHBOARDS.items()
    for _, panels in rows
    for panel in panels
    for query in panel.queries.values()
]
NAMESPACE = "llama"


def test_promtool_takes_the_rules():
    done = run(tool("promtool"), "check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_must_and_stays_silent_when_not():
    cases = ROOT / "tests" / "kube" / "alerts_test.yaml"
    tested = [case for test in yaml.safe_load(cases.read_text())["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in tested if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}
    done = run(tool("promtool"), "test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_the_dashboards_are_those_of_their_source(name: str):
    kept = (dashboards.FOLDER / f"{name}.json").read_text()
    assert kept == dashboards.text(name), "run `make chart`"
    found = json.loads(kept)
    numbers = [panel["id"] for panel in found["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_has_its_page(rule: dict[str, Any]):
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert f"## {rule['alert']}\n" in (ROOT / page).read_text()
    assert anchor == rule["alert"].lower()
    assert rule["labels"]["severity"] in ("warning", "critical")


CONFIG = """
providers:
  groq: {{type: groq, url: '{groq}', api_key: gsk_sandbox}}
  vllm: {{type: vllm, url: '{vllm}', api_key: sandbox-vllm, metrics_every_s: 0}}
  away: {{type: openai, url: 'http://127.0.0.1:9/v1', api_key: k}}
  shut: {{type: groq, url: '{groq}', api_key: not-the-key}}
routes:
  quick:
    weights: llama-3.1-8b
    deployments: [groq, vllm, {{account: vllm, name: tiny, context_tokens: 1}}]
    policies: [context_window, breaker, headroom, lowest_cost]
  broken: {{deployments: [{{account: away, model: m}}, {{account: away, name: again, model: m}}], policies: []}}
  refused: {{deployments: [{{account: shut, model: llama-3.1-8b-instant}}], policies: []}}
keys:
  - {{name: team-a, key: key-a, limits: {{rpm: 1000}}, budget: {{usd: 50, per: month}}}}
  - {{name: team-b, key: key-b, limits: {{rpm: 1}}}}
attempts: {{retry_budget: 0, retry_floor_per_s: 0}}
store: {{ledger: 'sqlite:///{folder}/ledger.db'}}
baseline: {{model: gpt-4o}}
"""


def call(url: str, model: str, key: str, stream: bool) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": stream}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        response.read()


class Prometheus:
    """A real one that reads a gateway every second."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, text: str) -> list[dict[str, Any]]:
        asked = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as response:
            return list(json.load(response)["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=PATIENCE_S) as response:
            return [rule for group in json.load(response)["data"]["groups"] for rule in group["rules"]]


def until(true: Any, what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            if true():
                return
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, admin_url: str) -> Iterator[Prometheus]:
    target = {"targets": [admin_url.removeprefix("http://")], "labels": {"namespace": NAMESPACE, "pod": "arriero-0"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "arriero", "static_configs": [target]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    words = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([tool("prometheus"), *words], stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: found.query("up == 1"), "Prometheus reads the gateway")
        yield found
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """After traffic of every kind: answered, refused by a limit, failed, and by a cloud that refuses our key."""
    tool("prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    with Sandbox.in_thread(port=0) as box:
        (folder / "arriero.yaml").write_text(CONFIG.format(groq=box.urls["groq"], vllm=box.urls["vllm"], folder=folder))
        with serving("--config", str(folder / "arriero.yaml"), folder=folder) as gateway:

            def traffic() -> None:
                for stream in (False, True):
                    call(gateway.url, "quick", "key-a", stream)
                    call(gateway.url, "quick", "key-b", stream)
                    call(gateway.url, "broken", "key-a", stream)
                    call(gateway.url, "refused", "key-a", stream)

            with prometheus(folder, gateway.admin_url) as found:
                traffic()  # what is not there yet cannot grow: the series first
                until(lambda: found.query('sum(arriero_requests_total{route="quick"}) > 0'), "calls are seen")
                traffic()
                seen = f'sum(arriero_requests_total{{namespace="{NAMESPACE}"}}) >= 16'
                until(lambda: found.query(seen), "the second traffic is seen")
                yield found


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_panel_finds_data(read: Prometheus, title: str, query: str):
    text = query.replace("$w", f'namespace=~"{NAMESPACE}"')
    until(lambda: read.query(text), f"{title}: data for {text}")


def test_what_scales_asks_for_data_that_is_there(read: Prometheus):
    """The adapter's rules, as the page has them, and KEDA's queries, as they render."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", page, re.DOTALL)
    offered = {}
    for rule in yaml.safe_load(block)["rules"]["custom"]:
        series = rule["seriesQuery"].partition("{")[0]
        assert read.query(rule["seriesQuery"])
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        offered[rule.get("name", {}).get("as", series)] = query.replace(
            "<<.LabelMatchers>>", f'namespace="{NAMESPACE}"'
        )
    values = ROOT / "tests" / "kube" / "values"
    scalers = [o for name in ("in-flight", "loop-lag", "keda", "loop-lag-keda")
               for o in objects(template("--values", values / f"{name}.yaml").stdout)
               if o["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]  # fmt: skip
    wanted = {m["pods"]["metric"]["name"] for o in scalers for m in o["spec"].get("metrics", ())}
    assert wanted == set(offered)
    keda = [trigger["metadata"]["query"] for o in scalers for trigger in o["spec"].get("triggers", ())]
    assert len(keda) == 2
    for query in (*offered.values(), *keda):
        until(lambda query=query: read.query(query), f"data for {query}")


def test_every_alert_is_evaluated_and_reads_metrics_that_are_there(read: Prometheus):
    until(lambda: all(rule["lastEvaluation"][:4] != "0001" for rule in read.rules()), "rules are evaluated")
    assert {rule["name"]: rule.get("lastError", "") for rule in read.rules()} == {r["alert"]: "" for r in ALERTS}
    for rule in ALERTS:
        for name in set(re.findall(r"\b((?:arriero|gen_ai)_\w+)", rule["expr"])) - WITH_REDIS:
            assert read.query(f"count({name})"), f"{rule['alert']}: nobody measures {name}"


WITH_REDIS = {"arriero_store_up", "arriero_store_may_evict", "arriero_store_evicted_keys_total"}
"""What a gateway with Redis alone tells; tests/limits hold it to its name."""


def test_what_is_wrong_fires(read: Prometheus):
    def firing() -> set[str]:
        return {rule["name"] for rule in read.rules() if rule["state"] in ("firing", "pending")}

    until(lambda: {"ArrieroCredentialRefused", "ArrieroCallsFail"} <= firing(), "the alerts see the broken route")
    assert "ArrieroDown" not in firing()
    assert "ArrieroConfigNotInForce" not in firing()


def test_promtool_has_nothing_against_the_metrics_page(read: Prometheus):
    (target,) = read.query("arriero_in_flight_calls")
    with urllib.request.urlopen(f"http://{target['metric']['instance']}/metrics", timeout=PATIENCE_S) as response:
        page = response.read().decode()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
