"""What limits show to Prometheus: reservations that are open, and what is left of each budget."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.limits.book import Book
from gateway.limits.eviction import Eviction
from gateway.limits.shared_book import SharedBook
from gateway.types import NANO_PER_USD


class Budgets(Collector):
    """Read when scraped. A budget shows from its first call of a period on."""

    def __init__(self, book: Book, shared: SharedBook | None) -> None:
        self.book, self.shared = book, shared

    def collect(self) -> Iterable[Metric]:
        reserved = GaugeMetricFamily("arriero_reservations_open", "Calls that hold a part of their limits.")
        reserved.add_metric((), len(self.book if self.shared is None else self.shared))
        yield reserved
        if self.shared is not None:
            up = GaugeMetricFamily("arriero_store_up", "1 while limits are counted in Redis, 0 while it is away.")
            up.add_metric((), 0.0 if self.shared.away else 1.0)
            waiting = GaugeMetricFamily("arriero_settlements_waiting", "Ended calls that Redis has not confirmed yet.")
            waiting.add_metric((), self.shared.waiting)
            yield from (up, waiting, *_forgetting(self.shared.eviction))
        left = GaugeMetricFamily(
            "arriero_budget_left_usd", "What is left of a budget of this period.", labels=("scope", "owner", "per")
        )
        for rule, purse in self.book.purses():
            left.add_metric((rule.scope, rule.owner, rule.per), purse.left(0) / NANO_PER_USD)
        yield left


def _forgetting(eviction: Eviction) -> Iterable[Metric]:
    may = GaugeMetricFamily("arriero_store_may_evict", "1 while Redis may forget limits to make room.")
    may.add_metric((), 1.0 if eviction.policy else 0.0)
    evicted = CounterMetricFamily("arriero_store_evicted_keys", "Keys that Redis has forgotten since it began.")
    evicted.add_metric((), eviction.evicted)
    return may, evicted
