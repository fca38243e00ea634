"""What replicas tell each other of clouds: pauses, broken circuits, rate-limit room; often, and behind all calls.

Rule 1. Of two pauses the later end wins, of two states the later one. Times go as Redis's time of day, not ours.
Rule 2. What was heard is not told on as one's own.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from gateway.health import Account, Facts, Health
from gateway.limits.shared_book import SharedBook
from gateway.limits.store import LIBRARY, Command, Store, StoreError
from gateway.types import Room

EVERY_S = 0.3
KEY = "arriero:{facts}"
FAILURES = 3
"""So many failures in a row are news; fewer are everybody's own."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
News = tuple[str, int, bytes]


class Gossip:
    """One replica's part. Remembers what it told and heard, by field."""

    def __init__(
        self, store: Store, health: Callable[[], Health], clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._store, self._health, self._clock, self._wall = store, health, clock, wall
        self._ahead_s: float | None = None
        self._ranks: dict[str, int] = {}
        self._states: dict[str, object] = {}

    async def run(self, shared: SharedBook) -> None:
        """Goes on until it is cancelled; not while Redis is away."""
        while True:
            await asyncio.sleep(EVERY_S)
            if not shared.away:
                try:
                    await self.exchange()
                except StoreError:
                    continue  # the circuit of the limits tells of it
                except (ValueError, TypeError, LookupError):
                    continue  # news in the form of another version

    async def exchange(self) -> None:
        """Tells what is new here and hears what is new elsewhere. Raises StoreError."""
        if self._ahead_s is None:
            await self._said([])  # only to know what time it is there
        told: list[str | int | bytes] = []
        for field, rank, text in self._news():
            self._ranks[field] = rank
            told += [field, rank, text.decode()]
        found = await self._said(told)
        for name, value in zip(found[::2], found[1::2], strict=True):
            rank_text, _, heard = value.partition(b" ")
            self._hear(name.decode(), int(rank_text), heard)

    async def _said(self, told: Sequence[str | int | bytes]) -> Sequence[bytes]:
        """All that is on the board; how far Redis's clock is ahead of ours is noted."""
        reply: Sequence[bytes] = await self._store.send(Command(f"{LIBRARY}_exchange", [KEY], told))
        now_ms, *found = reply
        self._ahead_s = int(now_ms) / 1000 - self._wall()
        return found

    def _news(self) -> Iterator[News]:
        now_ms = self._ms(self._clock())
        health = self._health()
        for name, account in health.accounts.items():
            yield from self._pause(f"pause {_name(name)}", account, now_ms)
        for key, facts in health.known.items():
            name = _name(*key)
            yield from self._pause(f"pause {name}", facts, now_ms)
            state = facts.failures, facts.failed_at, facts.failing_since
            before = self._states.get(f"circuit {name}", (0, 0.0, 0.0))
            if self._changed(f"circuit {name}", state) and max(state[0], _failures(before)) >= FAILURES:
                text = _encode([state[0], self._ms(state[1]), self._ms(state[2])])
                yield f"circuit {name}", now_ms, text
            room = facts.room
            if self._changed(f"room {name}", room) and room != Room():
                resets = self._ms(room.requests_reset), self._ms(room.tokens_reset)
                yield f"room {name}", now_ms, _encode([room.requests_left, resets[0], room.tokens_left, resets[1]])

    def _pause(self, field: str, of: Account | Facts, now_ms: int) -> Iterator[News]:
        until_ms = self._ms(of.cooling_until)
        if self._changed(field, of.cooling_until) and until_ms > now_ms:
            yield field, until_ms, _encode(of.cooling_why)

    def _changed(self, field: str, state: object) -> bool:
        """Whether it is another than was told or heard last."""
        before = self._states.get(field)
        self._states[field] = state
        return state != before

    def _hear(self, field: str, rank: int, text: bytes) -> None:
        if rank <= self._ranks.get(field, 0):
            return
        self._ranks[field] = rank
        kind, _, name = field.partition(" ")
        key = tuple(_decode(name))
        health = self._health()
        of: Any = health.accounts.get(key[0]) if len(key) == 1 else health.known.get(key)
        if of is None:
            return
        said = _decode(text)
        if kind == "pause":
            until = self._monotonic(rank)
            if until > max(of.cooling_until, self._clock()):
                of.cooling_until, of.cooling_why = until, said
            self._states[field] = of.cooling_until
        elif kind == "circuit":
            failures, failed_ms, since_ms = said
            of.failures, of.failed_at = failures, self._monotonic(failed_ms)
            of.failing_since = self._monotonic(since_ms) if failures else 0.0
            self._states[field] = of.failures, of.failed_at, of.failing_since
        elif kind == "room":
            requests, requests_ms, tokens, tokens_ms = said
            of.room = Room(requests, self._monotonic(requests_ms), tokens, self._monotonic(tokens_ms))
            self._states[field] = of.room
        of.version += 1

    def _ms(self, monotonic_s: float) -> int:
        return int((monotonic_s - self._clock() + self._now()) * 1000)

    def _monotonic(self, ms: int) -> float:
        return ms / 1000 - self._now() + self._clock()

    def _now(self) -> float:
        return self._wall() + (self._ahead_s or 0.0)


def _name(*parts: str | None) -> str:
    return _encode(parts).decode()


def _failures(state: object) -> int:
    return state[0] if isinstance(state, tuple) else 0
