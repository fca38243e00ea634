"""Our counters and histograms are written down as the Prometheus library writes its own."""

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway.tally import Counter, Histogram

BOUNDS = (0.5, 1.0, 64.0, 16384.0)
amounts = st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 3.0, 64.0, 65.0, 1e9]), max_size=12)


def page(*collectors: prometheus_client.registry.Collector) -> list[str]:
    """The lines that Prometheus reads, without the second series that tells when a first began."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(amounts, amounts)
def test_series_read_as_those_of_the_library(some: list[float], more: list[float]) -> None:
    theirs = (
        prometheus_client.Counter("calls", "Calls.", ("route",), registry=None),
        prometheus_client.Histogram("size", "Sizes.", ("route",), buckets=BOUNDS, registry=None),
    )
    ours = (Counter("calls", "Calls.", ("route",)), Histogram("size", "Sizes.", ("route",), BOUNDS))
    for counter, histogram in (theirs, ours):
        for route, values in (("a", some), ('b"\n', more)):
            for value in values:
                counter.labels(route).inc(value)
                histogram.labels(route).observe(value)
    assert page(*ours) == page(*theirs)


def test_a_counter_without_labels_begins_at_zero() -> None:
    counter = Counter("refused", "Refused.", ())
    counter.labels()
    assert page(counter)[-1] == "refused_total 0.0"
