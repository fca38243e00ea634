"""Counters and histograms of one event loop: no locks and no lookups on the way.

prometheus_client writes them down, in a thread that may look while they change."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Spread:
    """One series of a histogram: how many values fell up to each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is beyond every bound
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it."""
        up_to, found = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            up_to += count
            found.append((floatToGoString(bound), float(up_to)))  # type: ignore[no-untyped-call]
        return found


S = TypeVar("S")
Labels = Mapping[str, str]


class Family(Collector, Generic[S]):
    """A metric with its series by label values; a series begins when it is first asked for."""

    def __init__(self, name: str, text: str, labels: Sequence[str], begin: Callable[[], S]) -> None:
        self.name, self.text, self.names = name, text, tuple(labels)
        self.series: dict[tuple[str, ...], S] = {}
        self._begin = begin

    def forget(self, before: Iterable[Labels], now: Iterable[Labels]) -> None:
        """Drops the series that tell of something of `before` that is not in `now`; labels it does not know of stay."""
        was, known = list(before), list(now)
        names = [name for name in self.names if was and name in was[0]]
        if not names:
            return
        gone = {_told(labels, names) for labels in was} - {_told(labels, names) for labels in known}
        places = [self.names.index(name) for name in names]
        self.series = {v: s for v, s in self.series.items() if tuple(v[at] for at in places) not in gone}

    def labels(self, *values: str) -> S:
        found = self.series.get(values)
        if found is None:
            assert len(values) == len(self.names)
            found = self.series[values] = self._begin()
        return found


def _told(labels: Labels, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in names)


class Counter(Family[Count]):
    """Only goes up."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        super().__init__(name, text, labels, Count)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self.name, self.text, labels=self.names)
        for values, count in list(self.series.items()):
            family.add_metric(values, count.value)
        return [family]


class Histogram(Family[Spread]):
    """Values by size."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        super().__init__(name, text, labels, partial(Spread, tuple(bounds)))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self.name, self.text, labels=self.names)
        for values, spread in list(self.series.items()):
            family.add_metric(values, spread.buckets(), spread.sum)
        return [family]
