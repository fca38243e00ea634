"""The log: JSON lines, or short human lines on a terminal. One access line a call; never a prompt, never a key.

Rule 1. Every value is JSON-escaped or stripped of control characters: one record is one line, whatever it holds.
Rule 2. Lines are written together a few times a second, so that no call waits for it.
"""

import asyncio
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import BinaryIO

import msgspec

FLUSH_S = 0.05
MAX_TEXT = 256
USUAL_BYTES = 1024
_encode = msgspec.json.Encoder().encode
_ambiguous = re.compile(r"[\s\"\\]").search
_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class CallLine(msgspec.Struct, kw_only=True):
    """The access line of a call. Times in seconds; None where it did not come to that."""

    ts: float = 0.0
    event: str = "call"
    id: str
    decision: str
    key: str
    route: str
    endpoint: str
    stream: bool
    status: int
    code: str | None
    deployment: str | None
    attempts: int
    seconds: float
    ttft_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    cost_usd: str | None


class Log:
    """Writes records. `human` picks the form."""

    def __init__(
        self, out: BinaryIO | None = None, human: bool | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._out = out if out is not None else sys.stderr.buffer
        self.human = sys.stderr.isatty() if human is None else human
        self._wall = wall
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, event: str, **fields: object) -> None:
        """One record. Field values are numbers, text or None."""
        self._add(self._record(event, fields))

    def write_call(self, call: CallLine) -> None:
        """The record of a call."""
        call.ts = round(self._wall(), 3)
        self._add(_human(msgspec.structs.asdict(call)) if self.human else _json(call))

    def _add(self, line: bytes) -> None:
        self._waiting.append(line)
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
            except RuntimeError:
                self.flush()

    def bug(self, error: Exception, **fields: object) -> None:
        """An error that nobody expected: where, and without any of the values involved."""
        frames = [
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        self.write("bug", **fields, error=type(error).__name__, at=" ".join(frames[-6:]))

    def flush(self) -> None:
        """Writes what waits; a reader that is gone loses it, and nothing else happens."""
        self._timer = None
        waiting, self._waiting = self._waiting, []
        self._put(b"".join(waiting))

    def write_now(self, event: str, **fields: object) -> None:
        """One record at once, from any thread: for when the loop may never come to write it."""
        self._put(self._record(event, fields))

    def _record(self, event: str, fields: Mapping[str, object]) -> bytes:
        record = {"ts": round(self._wall(), 3), "event": event, **fields}
        return _human(record) if self.human else _json(record)

    def _put(self, lines: bytes) -> None:
        try:
            self._out.write(lines)
            self._out.flush()
        except (OSError, ValueError):
            return


def _json(record: Mapping[str, object] | CallLine) -> bytes:
    line = _encode(record)
    if len(line) > USUAL_BYTES or not line.isascii() or b"\x7f" in line:  # hardly ever: our own words are short
        fields = msgspec.structs.asdict(record) if isinstance(record, CallLine) else record
        line = _encode({k: _plain(v) if isinstance(v, str) else v for k, v in fields.items()})
    return line + b"\n"


def _plain(text: str) -> str:
    """Without what moves a terminal or ends a line, and not endless."""
    return _controls.sub("?", text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")


def _human(record: Mapping[str, object]) -> bytes:
    stamp = time.strftime("%H:%M:%S", time.localtime(float(str(record["ts"]))))
    rest = " ".join(f"{k}={_shown(v)}" for k, v in record.items() if k not in ("ts", "event") and v not in (None, ""))
    return f"{stamp} {record['event']} {rest}\n".encode("utf-8", "replace")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _plain(str(value))
    return msgspec.json.encode(text).decode() if _ambiguous(text) else text
