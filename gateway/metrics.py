"""Prometheus metrics: one row a metric; label values come from the config only.

Rule 1. Names are OpenTelemetry's GenAI names where one exists, else `arriero_…` with units.
Rule 2. Nothing from a request or an upstream becomes a label: series are bounded by routes, deployments and keys.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.health import Facts
from gateway.outcome import BY_KIND, BY_STATUS
from gateway.tally import Count, Counter, Family, Histogram, Labels
from gateway.types import Deployment

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Buckets that OpenTelemetry advises for gen_ai.client.operation.duration."""
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
STATUSES = {
    status: str(status) for status in (200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 499, 500, 502, 503, 504)
}
"""The statuses that are a label of their own; all else is "other"."""
OUTCOMES = frozenset(
    {
        "ok",
        "client_gone",
        "content_filter",
        "caller_error",
        "context_overflow",
        "model_gone",
        "redirect",
        "server_error",
        "unfit",
    }
    | {outcome.name for outcome in (*BY_KIND.values(), *BY_STATUS.values())}
)


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._families: list[Family[Any]] = []
        at = ("route", "deployment")
        genai = ("gen_ai_provider_name", "deployment", "gen_ai_request_model")
        self.duration = self._histogram(
            "gen_ai_client_operation_duration_seconds",
            "Whole time of a call.",
            ("gen_ai_operation_name", "gen_ai_request_model"),
            SECONDS,
        )
        self.ttft = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "From sending an attempt to its first content.", genai, SECONDS
        )
        self.tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of a call, as billed.", ("gen_ai_token_type", *genai), TOKENS
        )
        self.requests = self._counter("arriero_requests", "Calls answered, by status.", ("route", "key", "status"))
        self.attempts = self._counter("arriero_attempts", "Attempts at a deployment, by outcome.", (*at, "outcome"))
        self.cost = self._counter("arriero_cost_usd", "What attempts cost at the price in force.", at)
        self.compared = self._counter("arriero_baseline_usd", "What calls would have cost at the baseline.", ("route",))
        self.estimated = self._counter("arriero_usage_estimated", "Answers whose cloud sent no usage.", at)
        self.removed = self._counter("arriero_policy_removed", "Candidates a policy removed.", (*at, "policy"))
        self.retries_refused = self._counter(
            "arriero_retries_refused", "Further attempts the retry budget refused.", ()
        )
        self.limit_rejections = self._counter(
            "arriero_limit_rejections", "Calls refused by a limit or a budget, by whose it is.", ("scope", "limit")
        )
        self.store_failures = self._counter("arriero_store_failures", "Commands that Redis did not do in time.", ())
        self.upstream_auth = self._counter(
            "arriero_upstream_auth_failures", "Our credential was refused.", ("deployment",)
        )
        self.reloads = self._counter("arriero_config_reloads", "Configs read again, by how it went.", ("result",))
        self.exports = self._counter("arriero_telemetry_exports", "Batches sent by OTLP.", ("signal", "result"))
        self.spans_dropped = self._counter("arriero_telemetry_spans_dropped", "Spans that were not sent.", ())
        self.in_flight = Gauge("arriero_in_flight_calls", "Calls being answered.", registry=self.registry)
        self.keys_away = Gauge(
            "arriero_keys_store_away", "1 while changes of run-time keys are not seen.", registry=self.registry
        )
        self.draining = Gauge("arriero_draining", "1 while the gateway takes leave.", registry=self.registry)
        self.loop_lag = self._histogram("arriero_event_loop_lag_seconds", "How late what is due runs.", (), LAGS)
        self.shedding = Gauge("arriero_shedding", "1 while calls are refused to save the rest.", registry=self.registry)
        self.memory_limit = Gauge(
            "arriero_memory_limit_bytes", "What the container may use; 0: no limit.", registry=self.registry
        )
        self.memory_used = Gauge(
            "arriero_memory_used_bytes", "What it uses and cannot give back at once.", registry=self.registry
        )

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        counter = Counter(name, text, labels)
        self.registry.register(counter)
        self._families.append(counter)
        return counter

    def _histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(name, text, labels, buckets)
        self.registry.register(histogram)
        self._families.append(histogram)
        return histogram

    def forget(self, before: Iterable[Labels], now: Iterable[Labels]) -> None:
        """Drops the series of what was and is not any more: routes and deployments, or keys."""
        was, known = list(before), list(now)
        for family in self._families:
            family.forget(was, known)

    def text(self) -> bytes:
        """The page that Prometheus reads, piece by piece: one large piece would hold up the loop also from a thread."""
        return b"".join([generate_latest(_One(metric)) for metric in self.registry.collect()])


class _One(Collector):
    """A metric as prometheus_client wants to have it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


class Bound:
    """The children of one deployment of one route."""

    __slots__ = ("attempts", "auth", "cost", "estimated", "input", "output", "ttft")

    def __init__(self, metrics: Metrics, route: str, deployment: Deployment) -> None:
        name, cloud = deployment.name, deployment.cloud
        self.attempts: Mapping[str, Count] = {o: metrics.attempts.labels(route, name, o) for o in OUTCOMES}
        self.ttft = metrics.ttft.labels(cloud, name, route)
        self.input = metrics.tokens.labels("input", cloud, name, route)
        self.output = metrics.tokens.labels("output", cloud, name, route)
        self.cost = metrics.cost.labels(route, name)
        self.estimated = metrics.estimated.labels(route, name)
        self.auth = metrics.upstream_auth.labels(name)


def labels_of(route: str, deployment: Deployment) -> Labels:
    """Every label that tells of a deployment of a route."""
    return {
        "route": route,
        "deployment": deployment.name,
        "gen_ai_request_model": route,
        "gen_ai_provider_name": deployment.cloud,
    }


READINGS: Sequence[tuple[str, str, Callable[[Facts, float], float]]] = (
    ("arriero_deployment_in_flight", "Attempts at it now.", lambda f, now: f.in_flight),
    ("arriero_deployment_failures", "Failures in a row.", lambda f, now: f.failures),
    (
        "arriero_deployment_cooling_seconds",
        "How long it is left alone.",
        lambda f, now: max(0.0, f.cooling_until - now),
    ),
    ("arriero_deployment_requests_left_ratio", "Rate-limit room in requests.", lambda f, now: f.room.requests_left),
    ("arriero_deployment_tokens_left_ratio", "Rate-limit room in tokens.", lambda f, now: f.room.tokens_left),
    ("arriero_deployment_queue", "Calls waiting at its server.", lambda f, now: f.queue or 0),
    ("arriero_deployment_kv_used_ratio", "Used share of its KV cache.", lambda f, now: f.kv_used or 0.0),
)


class Deployments(Collector):
    """What is known of each deployment, read when scraped."""

    def __init__(self, lanes: Mapping[tuple[str, str], Facts], clock: Callable[[], float]) -> None:
        self.lanes, self.clock = lanes, clock

    def collect(self) -> Iterable[Metric]:
        now = self.clock()
        for name, text, read in READINGS:
            family = GaugeMetricFamily(name, text, labels=("route", "deployment"))
            for labels, facts in list(self.lanes.items()):
                family.add_metric(labels, read(facts, now))
            yield family
