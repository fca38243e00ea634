"""The ledger against what the clouds themselves say and what clients saw."""

from collections import Counter
from typing import Any, NamedTuple

from gateway.ledger.database import Database
from tests.soak.clouds import Record
from tests.soak.load import BROKEN, Load

PIECE = 20_000


class Books(NamedTuple):
    """What all rows together say. `wrong` are calls whose row says another cost than the cloud; the sums are of calls
    whose cost is not estimated, `by_key` of all of them."""

    rows: int
    lost: int
    doubled: int
    wrong: int
    estimated: int
    nano: int
    clouds_nano: int
    by_key: Counter[str]

    def __str__(self) -> str:
        more = self.nano - self.clouds_nano
        return (
            f"{self.rows} rows: {self.lost} lost, {self.doubled} doubled, {self.wrong} wrong, {self.estimated} "
            f"estimated; {self.nano} nano-dollars, {more} more than the clouds say"
        )


def books(database: Database, load: Load, record: Record) -> Books:
    """Reads the ledger in pieces: it may hold a million calls."""
    seen, by_key = bytearray(load.calls), Counter[str]()
    rows = wrong = estimated = nano = clouds_nano = 0
    last = ""
    while piece := database.rows(
        "SELECT id, request_id, key_name, estimated, cost_nano FROM arriero_calls WHERE id > ? ORDER BY id LIMIT ?",
        (last, PIECE),
    ):
        last = piece[-1][0]
        for _, request_id, key, guessed, cost in piece:
            number = int(request_id[1:])
            rows += 1
            seen[number] = min(seen[number] + 1, 255)
            by_key[key] += cost
            if guessed:
                estimated += 1
            else:
                nano += cost
                clouds_nano += record.nano[number]
                wrong += cost != record.nano[number]
    known = [number for number in range(load.calls) if record.asked[number] or load.answered[number]]
    lost = sum(not seen[number] for number in known)
    doubled = sum(count > 1 for count in seen)
    return Books(rows, lost, doubled, wrong, estimated, nano, clouds_nano, by_key)


def unequal(database: Database) -> list[tuple[Any, ...]]:
    """Calls whose attempts cost another sum than the call says."""
    of_attempts = "SELECT COALESCE(SUM(cost_nano), 0) FROM arriero_attempts WHERE call_id = arriero_calls.id"
    told = f"SELECT id, request_id, outcome, spent_nano, ({of_attempts}) FROM arriero_calls"
    return database.rows(f"{told} WHERE spent_nano <> ({of_attempts})")


def refused(load: Load, key: str, *allowed: int) -> Counter[int]:
    """What the callers of a key got beside whole answers, broken connections and what is allowed."""
    return Counter({status: n for status, n in load.statuses[key].items() if status not in (200, BROKEN, *allowed)})
