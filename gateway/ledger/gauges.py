"""What Prometheus reads of the ledger: how much waits, whether journal and database take it."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.ledger.book import Ledger

READINGS: Sequence[tuple[str, str, Callable[[Ledger], float]]] = (
    ("arriero_ledger_waiting_calls", "Calls of this process not in the database yet.", lambda at: at.tally.waiting),
    ("arriero_ledger_journal_bytes", "Lines in the journal that wait for the database.", lambda at: at.journal_bytes),
    ("arriero_ledger_journal_full", "1 while lines do not fit in the journal.", lambda at: at.tally.journal_full),
    ("arriero_ledger_database_away", "1 while the database takes nothing.", lambda at: at.tally.database_away),
)
COUNTS: Sequence[tuple[str, str, Callable[[Ledger], float]]] = (
    ("arriero_ledger_lost_calls", "Calls that fitted nowhere.", lambda at: at.tally.lost),
    ("arriero_ledger_rejected_calls", "Calls the database refused for good.", lambda at: at.tally.rejected),
)


class Writing(Collector):
    """The state of a ledger, read when scraped; of none, nothing."""

    def __init__(self, ledger: Ledger | None) -> None:
        self.ledger = ledger

    def collect(self) -> Iterable[Metric]:
        if self.ledger is None:
            return
        for name, text, read in READINGS:
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric((), float(read(self.ledger)))
            yield gauge
        for name, text, read in COUNTS:
            counter = CounterMetricFamily(name, text)
            counter.add_metric((), float(read(self.ledger)))
            yield counter
