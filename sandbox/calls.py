"""The sandbox's own record of every attempt, by which others' ledgers are judged; nothing is asked of it to answer."""

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "proxy-authorization", "cookie"})
_KEEP_CALLS = 50_000
_KEEP_BODY_BYTES = 256 * 1024 * 1024
_KEEP_CHOICES = 100


class CallRecord(msgspec.Struct, kw_only=True):
    """One attempt (any POST) as the cloud saw it. Times are seconds of the process's monotonic clock, None: not yet.

    `credential` is ok, bad or none; secret headers are shown as the SHA-256 of their value. `prompt_tokens` are
    those of the prompt, `answer_tokens` those of the whole answer, `sent_tokens` those that were handed to the
    socket. `choices` are what the whole answer says (answers.Choice), of the last hundred calls only. `ended`: done
    (the whole answer was sent, however odd its form), refused (an error of the cloud's own), fault (a fault replaced
    or cut the answer), client_closed, "" while it runs. `closed` is when the socket was closed, by whomever; None while
    it is open, and for a call after which the connection was used again.
    """

    n: int
    cloud: str
    method: str
    path: str
    headers: dict[str, str]
    body: str
    body_bytes: int
    began: float
    connection: int
    model: str = ""
    stream: bool = False
    credential: str = "none"
    status: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    sent_tokens: int = 0
    sent_bytes: int = 0
    fault: str = ""
    ended: str = ""
    first_byte: float | None = None
    first_token: float | None = None
    finished: float | None = None
    choices: Sequence[msgspec.Struct] = ()
    closed: float | None = None


class CallLog:
    """Owns the records; the oldest are dropped beyond a number of calls or of body bytes."""

    def __init__(self) -> None:
        self._calls: deque[CallRecord] = deque()
        self._telling: deque[CallRecord] = deque()
        self._body_bytes = 0
        self._waiting: set[asyncio.Event] = set()
        self.total = 0
        self.dropped = 0

    def add(self, call: CallRecord) -> None:
        self._calls.append(call)
        self._body_bytes += len(call.body)
        while len(self._calls) > _KEEP_CALLS or (self._body_bytes > _KEEP_BODY_BYTES and len(self._calls) > 1):
            self._body_bytes -= len(self._calls.popleft().body)
            self.dropped += 1

    def tell(self, call: CallRecord, choices: Sequence[msgspec.Struct]) -> None:
        """Notes what a call's answer says; the oldest call that tells so no longer does."""
        call.choices = choices
        self._telling.append(call)
        if len(self._telling) > _KEEP_CHOICES:
            self._telling.popleft().choices = ()

    def changed(self) -> None:
        """Wakes those who wait for the record to say something."""
        for event in self._waiting:
            event.set()

    async def until(self, true: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Waits until the record says so; the record then."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            while not true(calls := self.listed()):
                await event.wait()
                event.clear()
            return calls
        finally:
            self._waiting.discard(event)

    def next_number(self) -> int:
        self.total += 1
        return self.total

    def clear(self) -> None:
        """Forgets what was; the numbers go on."""
        self._calls.clear()
        self._body_bytes = self.dropped = 0

    def listed(self, cloud: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """The records in order, as JSON values."""
        newer = itertools.takewhile(lambda c: c.n > after, reversed(list(self._calls)))
        kept = [c for c in newer if cloud in (None, c.cloud)][::-1]
        out: list[dict[str, Any]] = msgspec.to_builtins(kept)
        return out


def shown_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with every credential replaced by its SHA-256."""
    return {k: _digest(v) if k in SECRET_HEADERS else v for k, v in headers.items()}


def shown_body(headers: Mapping[str, str], body: bytes) -> str:
    """The body as text; that of a form, which only token endpoints take, as its SHA-256."""
    text = body.decode("utf-8", "backslashreplace")
    return _digest(text) if "x-www-form-urlencoded" in headers.get("content-type", "") else text


def _digest(value: str) -> str:
    return "sha256:" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
