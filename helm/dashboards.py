"""Writes the chart's Grafana dashboards: rows of panels, each a title, a unit and its queries by legend."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "arriero" / "dashboards"
WHERE = 'namespace=~"$namespace"'


class Panel(NamedTuple):
    """One graph: `queries` by their legends; `$w` stands for the choice of namespaces."""

    title: str
    unit: str
    queries: Mapping[str, str]
    text: str = ""
    least: int | None = 0


def quantile(share: float, metric: str, *by: str) -> str:
    labels = ", ".join(["le", *by])
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{$w}}[5m])))"


def rate(metric: str, *by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{$w{where}}}[5m]))"


DURATION = "gen_ai_client_operation_duration_seconds"
TTFT = "gen_ai_server_time_to_first_token_seconds"
USED = "gen_ai_client_token_usage"
CALLS = rate("arriero_requests_total", "route")
FAILED = rate("arriero_requests_total", "route", where=', status=~"5.."')
SPENT_S = rate(f"{DURATION}_sum", "gen_ai_request_model")
OUTPUT = rate(f"{USED}_sum", "gen_ai_request_model", where=', gen_ai_token_type="output"')
LAG = "arriero_event_loop_lag_seconds"
OURS = "and on (instance) arriero_in_flight_calls"
"""Metrics of processes are everybody's; those beside ours are."""
MEMORY_LIMIT = "arriero_memory_limit_bytes{$w}"
COST_24H = "sum by (route) (increase(arriero_cost_usd_total{$w}[24h]))"
BASELINE_24H = "sum by (route) (increase(arriero_baseline_usd_total{$w}[24h]))"
ATTEMPTS_A_CALL = "sum(rate(arriero_attempts_total{$w}[5m])) / sum(rate(arriero_requests_total{$w}[5m]))"

DASHBOARDS: Mapping[str, Sequence[tuple[str, Sequence[Panel]]]] = {
    "traffic": [
        (
            "Calls",
            [
                Panel("Calls by route", "reqps", {"{{route}}": rate("arriero_requests_total", "route")}),
                Panel("Calls by status", "reqps", {"{{status}}": rate("arriero_requests_total", "status")}),
                Panel(
                    "Share of calls that we failed",
                    "percentunit",
                    {"{{route}}": f"({FAILED} or 0 * {CALLS}) / {CALLS}"},
                    "Statuses of 500 and above: no deployment of the route could answer.",
                ),
                Panel("Calls by key", "reqps", {"{{key}}": rate("arriero_requests_total", "key")}),
            ],
        ),
        (
            "Time",
            [
                Panel(
                    "Whole call",
                    "s",
                    {
                        "p50 {{gen_ai_request_model}}": quantile(0.5, DURATION, "gen_ai_request_model"),
                        "p95 {{gen_ai_request_model}}": quantile(0.95, DURATION, "gen_ai_request_model"),
                    },
                ),
                Panel("First token, p95", "s", {"{{deployment}}": quantile(0.95, TTFT, "deployment")}),
                Panel("First token, p50", "s", {"{{deployment}}": quantile(0.5, TTFT, "deployment")}),
                Panel(
                    "Time per output token",
                    "s",
                    {"{{gen_ai_request_model}}": f"{SPENT_S} / {OUTPUT}"},
                    "Seconds of calls over tokens of answers: the first token's time is in it.",
                ),
            ],
        ),
        (
            "Gateway",
            [
                Panel("Calls in flight", "short", {"{{pod}}": "sum by (pod) (arriero_in_flight_calls{$w})"}),
                Panel(
                    "Event loop lag",
                    "s",
                    {
                        "mean {{pod}}": f"{rate(f'{LAG}_sum', 'pod')} / {rate(f'{LAG}_count', 'pod')}",
                        "p99 {{pod}}": quantile(0.99, LAG, "pod"),
                    },
                    "How late what is due runs: the first sign of too much to do. Not ready above 1 s.",
                ),
                Panel(
                    "CPU",
                    "percentunit",
                    {"{{pod}}": f"sum by (pod) (rate(process_cpu_seconds_total{{$w}}[5m]) {OURS})"},
                    "Of one core, which is all that a pod can use.",
                ),
                Panel(
                    "Memory",
                    "bytes",
                    {
                        "{{pod}}": f"sum by (pod) (process_resident_memory_bytes{{$w}} {OURS})",
                        "limit {{pod}}": f"sum by (pod) ({MEMORY_LIMIT})",
                    },
                ),
                Panel(
                    "Memory, share of the limit",
                    "percentunit",
                    {"{{pod}}": f"sum by (pod) (arriero_memory_used_bytes{{$w}} / {MEMORY_LIMIT})"},
                    "Calls are refused above 90 %.",
                ),
                Panel(
                    "Open files, share of the limit",
                    "percentunit",
                    {"{{pod}}": f"sum by (pod) (process_open_fds{{$w}} / process_max_fds{{$w}} {OURS})"},
                    "Clients may have half of them.",
                ),
                Panel(
                    "Calls refused to save the rest",
                    "short",
                    {"{{pod}}": "sum by (pod) (arriero_shedding{$w})"},
                    "1 while memory or the event loop has no room.",
                ),
                Panel("Pods taking leave", "short", {"draining": "sum(arriero_draining{$w})"}),
                Panel(
                    "Calls that pods taking leave wait for",
                    "short",
                    {"{{pod}}": "sum by (pod) (arriero_in_flight_calls{$w} * arriero_draining{$w})"},
                ),
                Panel(
                    "Config in force",
                    "short",
                    {"{{pod}}": "sum by (pod) (arriero_config_last_reload_successful{$w})"},
                    "0: the file that lies there is not in force, the last good one is.",
                ),
            ],
        ),
    ],
    "clouds": [
        (
            "Attempts",
            [
                Panel(
                    "Attempts by deployment", "reqps", {"{{deployment}}": rate("arriero_attempts_total", "deployment")}
                ),
                Panel(
                    "Attempts that failed",
                    "reqps",
                    {
                        "{{deployment}} {{outcome}}": rate(
                            "arriero_attempts_total", "deployment", "outcome", where=', outcome!="ok"'
                        )
                    },
                ),
                Panel(
                    "Attempts a call",
                    "short",
                    {"amplification": ATTEMPTS_A_CALL},
                    "1 is no retries. The retry budget holds it near 1.1 when a cloud is down.",
                ),
                Panel("Retries refused", "reqps", {"refused": "sum(rate(arriero_retries_refused_total{$w}[5m]))"}),
            ],
        ),
        (
            "Room",
            [
                Panel(
                    "Left alone for",
                    "s",
                    {"{{route}} {{deployment}}": "max by (route, deployment) (arriero_deployment_cooling_seconds{$w})"},
                ),
                Panel(
                    "Failures in a row",
                    "short",
                    {"{{route}} {{deployment}}": "max by (route, deployment) (arriero_deployment_failures{$w})"},
                ),
                Panel(
                    "Rate-limit room left",
                    "percentunit",
                    {
                        "{{deployment}} requests": "min by (deployment) (arriero_deployment_requests_left_ratio{$w})",
                        "{{deployment}} tokens": "min by (deployment) (arriero_deployment_tokens_left_ratio{$w})",
                    },
                ),
                Panel(
                    "In flight", "short", {"{{deployment}}": "sum by (deployment) (arriero_deployment_in_flight{$w})"}
                ),
                Panel("vLLM queue", "short", {"{{deployment}}": "max by (deployment) (arriero_deployment_queue{$w})"}),
                Panel(
                    "vLLM KV cache",
                    "percentunit",
                    {"{{deployment}}": "max by (deployment) (arriero_deployment_kv_used_ratio{$w})"},
                ),
            ],
        ),
        (
            "Policies",
            [
                Panel(
                    "Candidates removed",
                    "reqps",
                    {"{{policy}} {{deployment}}": rate("arriero_policy_removed_total", "policy", "deployment")},
                ),
                Panel(
                    "Our credential refused",
                    "reqps",
                    {"{{deployment}}": rate("arriero_upstream_auth_failures_total", "deployment")},
                ),
            ],
        ),
    ],
    "spend": [
        (
            "Money",
            [
                Panel(
                    "USD an hour by route",
                    "currencyUSD",
                    {"{{route}}": f"3600 * {rate('arriero_cost_usd_total', 'route')}"},
                ),
                Panel(
                    "USD an hour by deployment",
                    "currencyUSD",
                    {"{{deployment}}": f"3600 * {rate('arriero_cost_usd_total', 'deployment')}"},
                ),
                Panel(
                    "USD of the last 24 hours",
                    "currencyUSD",
                    {"{{deployment}}": "sum by (deployment) (increase(arriero_cost_usd_total{$w}[24h]))"},
                ),
                Panel(
                    "Saved in the last 24 hours",
                    "currencyUSD",
                    {"{{route}}": f"{BASELINE_24H} - {COST_24H}"},
                    "Against the closed model that `baseline` in the config names; below 0 it would have been cheaper.",
                    least=None,
                ),
                Panel(
                    "Saved, share",
                    "percentunit",
                    {"{{route}}": f"1 - {COST_24H} / ({BASELINE_24H} > 0)"},
                    least=None,
                ),
                Panel(
                    "Budget left",
                    "currencyUSD",
                    {"{{scope}} {{owner}} a {{per}}": "min by (scope, owner, per) (arriero_budget_left_usd{$w})"},
                ),
            ],
        ),
        (
            "Tokens and limits",
            [
                Panel(
                    "Tokens a second",
                    "short",
                    {"{{gen_ai_token_type}} {{deployment}}": rate(f"{USED}_sum", "gen_ai_token_type", "deployment")},
                ),
                Panel(
                    "Usage we had to estimate",
                    "reqps",
                    {"{{deployment}}": rate("arriero_usage_estimated_total", "deployment")},
                ),
                Panel(
                    "Refused by limits",
                    "reqps",
                    {"{{scope}} {{limit}}": rate("arriero_limit_rejections_total", "scope", "limit")},
                ),
                Panel("Calls that hold a reservation", "short", {"open": "sum(arriero_reservations_open{$w})"}),
            ],
        ),
    ],
}


def panel(found: Panel, number: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {"refId": chr(65 + i), "datasource": source, "expr": query.replace("$w", WHERE), "legendFormat": legend}
        for i, (legend, query) in enumerate(found.queries.items())
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": found.title,
        "description": found.text,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": y},
        "fieldConfig": {"defaults": {"unit": found.unit, "min": found.least}, "overrides": []},
        "targets": targets,
    }


def dashboard(name: str, rows: Sequence[tuple[str, Sequence[Panel]]]) -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, (title, inside) in enumerate(rows):
        panels.append({"id": 1000 + row, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})  # fmt: skip
        for i, found in enumerate(inside):
            panels.append(panel(found, 100 * (row + 1) + i, y + 1 + 8 * (i // 2)))
        y += 1 + 8 * ((len(inside) + 1) // 2)
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
        {
            "name": "namespace",
            "type": "query",
            "label": "Namespace",
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "datasource": {"type": "prometheus", "uid": "${source}"},
            "refresh": 2,
            "current": {"text": "All", "value": "$__all"},
            "query": {"query": "label_values(arriero_in_flight_calls, namespace)", "refId": "namespaces"},
        },
    ]
    return {
        "uid": f"arriero-{name}",
        "title": f"Arriero: {name}",
        "tags": ["arriero"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def text(name: str) -> str:
    """As the file has it."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name))
