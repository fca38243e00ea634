"""What replicas share, put together from the config's `store`."""

from collections.abc import Callable

from gateway.config.document import StoreConfig
from gateway.limits.book import Book
from gateway.limits.outage import Outage
from gateway.limits.redis_url import place
from gateway.limits.shared_book import SharedBook
from gateway.limits.store import Store
from gateway.log import Log
from gateway.metrics import Metrics

COMMAND_S = 0.5
"""After that a connection is given up, whoever may still wait for it."""


def shared_book(
    config: StoreConfig, book: Book, metrics: Metrics, log: Log, clock: Callable[[], float]
) -> SharedBook | None:
    """The counters that replicas share; None where each counts for itself."""
    if config.redis is None:
        return None
    from gateway.limits.wires import (
        wire,
    )  # the client library takes half a second and 15 MB: not for who does not use it

    store = Store(wire(place(config.redis.reveal()), max(COMMAND_S, config.redis_timeout_s)))
    outage = Outage(log, metrics.store_failures.labels(), clock)
    return SharedBook(store, book, outage, clock, config.redis_timeout_s)
