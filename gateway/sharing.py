"""What replicas share, put together from the config's `store`."""

from collections.abc import Callable

from gateway.book import Book
from gateway.config import StoreConfig
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.outage import Outage
from gateway.redis_url import place
from gateway.shared_book import SharedBook
from gateway.store import Store

COMMAND_S = 0.5
"""After that a connection is given up, whoever may still wait for it."""


def shared_book(
    config: StoreConfig, book: Book, metrics: Metrics, log: Log, clock: Callable[[], float]
) -> SharedBook | None:
    """The counters that replicas share; None where each counts for itself."""
    if config.redis is None:
        return None
    from gateway.wires import wire  # the client library takes half a second and 15 MB: not for who does not use it

    store = Store(wire(place(config.redis.reveal()), max(COMMAND_S, config.redis_timeout_s)))
    outage = Outage(log, metrics.store_failures.labels(), clock)
    return SharedBook(store, book, outage, clock, config.redis_timeout_s)
