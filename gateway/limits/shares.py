"""What Redis is told of a call: which counters it is about, by slot, and in which words. No I/O, no state.

Rule 1. All keys of a command are in one slot: those of a key and its team in one, those of a route in another.
Rule 2. Numbers go as one packed argument and come back as one: taking a hundred apart costs more than counting by them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from gateway.limits.book import Book
from gateway.limits.buckets import Purse, Rule, rate_us
from gateway.limits.store import LIBRARY, Command

KEEP_S = 600.0
"""How long Redis remembers that a call was settled. What was sent and not answered is not sent again after that."""
KINDS = {"rpm": "r", "tpm": "r", "concurrent": "c", "day": "d", "month": "m", "total": "t"}
_pack = msgspec.msgpack.Encoder().encode
numbers: Callable[[bytes], Sequence[int]] = msgspec.msgpack.Decoder(list[int]).decode
"""What a function answered."""


class Share(NamedTuple):
    """What one command is about: the keys of one slot, the rules that are counted there, and their places in the
    terms."""

    keys: Sequence[str]
    rules: Sequence[Rule]
    places: Sequence[int]


class Life(NamedTuple):
    """How long a reservation lives of which nothing is heard; `force`: it is put back, whatever is left."""

    seconds: float
    force: bool = False


def shares(rules: Sequence[Rule], book: Book, *, split: bool) -> Sequence[Share]:
    """One for all counters; in a cluster (`split`) one for each slot."""
    tags = [rule.group if split else rules[0].group for rule in rules]
    found = []
    for tag in dict.fromkeys(tags):
        places = [i for i, own in enumerate(tags) if own == tag]
        counted = [rules[i] for i in places]
        counters = [f"arriero:{{{rule.group}}}:{name(rule, book)}" for rule in counted]
        found.append(Share([f"arriero:{{{tag}}}:open", f"arriero:{{{tag}}}:due", *counters], counted, places))
    return found


def name(rule: Rule, book: Book) -> str:
    """A counter's; of a budget that of its period."""
    return f"{rule.name}:{book.label(rule)}" if rule.kind == "budget" else rule.name


def reserving(id_: str, share: Share, amounts: Sequence[int], life: Life, book: Book) -> Command:
    told = [
        (KINDS[rule.per or rule.kind], rule.limit, _unit(rule, amounts[place]), rule.hard, *_known(rule, book))
        for rule, place in zip(share.rules, share.places, strict=True)
    ]
    said = int(max(0.0, life.seconds) * 1000), int(KEEP_S * 1000), life.force, told
    return Command(f"{LIBRARY}_reserve", share.keys, [id_, _pack(said)])


def settling(id_: str, share: Share, actuals: Sequence[int], book: Book) -> Command:
    told = [
        (KINDS[rule.per or rule.kind], _unit(rule, actuals[place]), *_known(rule, book))
        for rule, place in zip(share.rules, share.places, strict=True)
    ]
    return Command(f"{LIBRARY}_settle", share.keys, [id_, _pack((int(KEEP_S * 1000), told))])


def _unit(rule: Rule, amount: int) -> int:
    return rate_us(amount, rule.limit) if rule.kind in ("rpm", "tpm") else amount


def _known(rule: Rule, book: Book) -> tuple[int, ...]:
    """Which counter was last heard of, what was settled and what charged in it, and what in those before it; what the
    ledger said at first, -1: it did not say."""
    if rule.kind != "budget":
        return ()
    purse: Purse = book.purse(rule)
    return purse.began, purse.settled, purse.charged, purse.base, purse.first if purse.known else -1
