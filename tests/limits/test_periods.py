"""A day that begins while Redis answers, and a ledger that comes back late: nothing is counted twice or wrongly."""

from datetime import UTC, datetime

from gateway.limits.book import Book
from gateway.limits.buckets import Rule
from gateway.limits.outage import Outage
from gateway.limits.shared_book import Open, SharedBook
from gateway.limits.shares import shares
from gateway.limits.store import Store
from gateway.limits.terms import Amounts, Terms
from gateway.log import Log
from gateway.tally import Count
from tests.harness import Clock

DAILY = Rule("budget", "key", "k", "k", 1000, "day", True, "t:k")


class Wall(Clock):
    """Seconds since the epoch."""

    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Unasked:
    """A wire that nobody sends anything over."""

    split = False


def test_an_answer_of_yesterday_says_nothing_of_today() -> None:
    wall = Wall("2024-10-03T23:59:59.9")
    book = Book(Clock(), wall)
    store = Store(Unasked())  # type: ignore[arg-type]
    shared = SharedBook(store, book, Outage(Log(), Count(), Clock()), Clock(), 0.05)
    terms = Terms((DAILY,))
    opened = Open(terms, Amounts(0, 0, 5, 0), shares(terms.rules, book, split=False), 60.0)
    wall.advance(1.0)
    shared._read(opened, [[1, 0, 0, 900, 0, 0, 12345]])
    purse = book.purse(DAILY)
    assert (purse.spent, purse.began) == (0, 0)


def test_what_was_counted_while_the_ledger_was_away_is_in_what_it_remembers() -> None:
    book = Book(Clock(), Wall("2024-10-03T12:00:00"))
    purse = book.purse(DAILY)
    book.reserve("c", Terms((DAILY,)), Amounts(0, 0, 5, 0))
    book.settle("c", 0, 5)
    assert purse.spent == 5
    purse.remember(8)
    assert purse.spent == 8
