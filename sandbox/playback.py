"""Plays one reply onto one connection at the pace that was asked for; what goes wrong on purpose lives in faults.py."""

import asyncio
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate

from sandbox.calls import CallRecord
from sandbox.http1 import REASONS, Connection
from sandbox.types import EventKind, Reply

_BREATHE_EVERY = 16  # events written without a wait before other connections get their turn
LAST_CHUNK = b"0\r\n\r\n"

FrameEdit = Callable[[bytes], bytes]


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Playback:
    """One answer on its way out. `edit` changes an event's bytes, `to_chunk` puts them on the wire, `emit` writes."""

    def __init__(
        self,
        connection: Connection,
        reply: Reply,
        pace: tuple[float, float, float],
        record: CallRecord,
        early_head: bool,
    ) -> None:
        self.connection, self.reply, self.record, self.early_head = connection, reply, record, early_head
        self._ttft_s, self._tpot_s, self._jitter = pace
        self._clock = connection.clock
        self._first_at: float | None = None
        self._paced = 0
        self.edit: FrameEdit = _as_it_is
        self.to_chunk: FrameEdit = chunk
        self.dropped: frozenset[EventKind] = frozenset()
        self.byte_every_s: float | None = None

    @property
    def streams(self) -> bool:
        return self.reply.events is not None

    # ------------------------------------------------------------------ whole answers
    async def play(self) -> None:
        """The whole reply as the cloud would send it."""
        if self.reply.events is None:
            await self.wait_all()
            self.record.sent_tokens = self.reply.tokens
            self.record.first_token = self._clock() if self.reply.answer else None
            await self.send_head(length=len(self.reply.body), body=self.reply.body)
            return
        await self.open_stream()
        await self.send_events()
        await self.end_stream()

    async def open_stream(self) -> None:
        """The head, before the first token is there or with it, as the cloud does."""
        if self.early_head:
            await self.send_head()
        await self.wait_first()
        if not self.early_head:
            await self.send_head()

    async def answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Another answer than the reply, at once."""
        self.record.status = status
        await self.emit(self.head_bytes(status, [*headers, ("content-length", str(len(body)))]) + body)

    # ------------------------------------------------------------------ parts
    async def send_head(self, length: int | None = None, body: bytes = b"") -> None:
        """Status line and headers: chunked, or with that content-length; `body` goes out in the same write."""
        size = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        await self.emit(self.head_bytes(self.reply.status, [*self.reply.headers, size]) + body)

    def head_bytes(self, status: int, headers: Sequence[tuple[str, str]]) -> bytes:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", f"date: {formatdate(time.time(), usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if not self.connection.keep:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    async def send_events(self, until_tokens: int | None = None, until: EventKind | None = None) -> bool:
        """The events in their time: all, or until that many tokens were sent or the first event of a kind was.

        Whether it stopped before the end. The event that would exceed `until_tokens` is not taken."""
        assert self.reply.events is not None
        if until_tokens is not None and self.record.sent_tokens >= until_tokens:
            return True
        for number, event in enumerate(self.reply.events):
            if event.kind in self.dropped:
                continue
            if event.tokens:
                await self._wait_token()
            frame = self.edit(event.frame)
            if event.tokens and self.record.first_token is None:
                self.record.first_token = self._clock()
            self.record.sent_tokens += event.tokens  # before a wait, in which the client may leave
            if frame:
                await self.emit(self.to_chunk(frame))
            if number % _BREATHE_EVERY == _BREATHE_EVERY - 1:
                await asyncio.sleep(0)
            if event.kind == until or (until_tokens is not None and self.record.sent_tokens >= until_tokens):
                return True
        return False

    async def end_stream(self) -> None:
        await self.emit(LAST_CHUNK)

    async def emit(self, data: bytes) -> None:
        """The one way to the socket."""
        if self.record.first_byte is None:
            self.record.first_byte = self._clock()
        self.record.sent_bytes += len(data)
        if self.byte_every_s is None:
            self.connection.write(data)
        else:
            for place in range(len(data)):
                self.connection.write(data[place : place + 1])
                await asyncio.sleep(self.byte_every_s)
        await self.connection.drain()

    # ------------------------------------------------------------------ time
    async def wait_first(self) -> None:
        """Until the first token is due."""
        self._first_at = self.record.began + self._ttft_s * self._wobble(0)
        await self._until(self._first_at)

    async def wait_all(self) -> None:
        """Until the last token of a plain answer is due."""
        tokens = max(0, self.reply.tokens // self.reply.lanes - 1)
        whole_s = (self._ttft_s + self._tpot_s * tokens) * self._wobble(0) if self.reply.answer else 0.0
        await self._until(self.record.began + whole_s)

    async def _wait_token(self) -> None:
        step = self._paced // self.reply.lanes
        self._paced += 1
        if self._tpot_s > 0 and self._first_at is not None:
            await self._until(self._first_at + self._tpot_s * (step + self._wobble(step + 1) - 1))

    async def _until(self, moment: float) -> None:
        delay_s = moment - self._clock()
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def _wobble(self, step: int) -> float:
        """1, give or take the jitter; the same for the same call and step."""
        if not self._jitter:
            return 1.0
        mixed = ((self.record.n * 2654435761 + step * 40503) * 2246822519) >> 7 & 0xFFFF
        return 1.0 + self._jitter * (mixed / 32767.5 - 1.0)


def _as_it_is(frame: bytes) -> bytes:
    return frame
