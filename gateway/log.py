"""The log: JSON lines, or short human lines on a terminal. One access line a call; never a prompt, never a key.

Rule 1. Every value is JSON-escaped or stripped of control characters: one record is one line, whatever it holds.
Rule 2. Lines are made and written together a few times a second, so that a call waits for neither.
"""

import asyncio
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import msgspec

FLUSH_S = 0.05
MAX_TEXT = 256
USUAL_BYTES = 1024
_encode = msgspec.json.Encoder().encode
_ambiguous = re.compile(r"[\s\"\\]").search
_controls = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


Fields = Callable[..., Mapping[str, object]]


class Log:
    """Writes records. `human` picks the form."""

    def __init__(
        self, out: BinaryIO | None = None, human: bool | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._out = out if out is not None else sys.stderr.buffer
        self.human = sys.stderr.isatty() if human is None else human
        self._wall = wall
        self._waiting: list[tuple[float, str, Fields, tuple[Any, ...]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, event: str, **fields: object) -> None:
        """One record. Field values are numbers, text or None."""
        self.write_later(event, dict, fields)

    def write_later(self, event: str, make: Fields, *of: Any) -> None:
        """The same, its fields made by `make(*of)` when they are written: for what every call does."""
        self._waiting.append((self._wall(), event, make, of))
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
        line = _human if self.human else _json
        self._put([line({"ts": round(ts, 3), "event": event, **make(*of)}) for ts, event, make, of in waiting])

    def write_now(self, event: str, **fields: object) -> None:
        """One record at once, from any thread: for when the loop may never come to write it."""
        line = _human if self.human else _json
        self._put([line({"ts": round(self._wall(), 3), "event": event, **fields})])

    def _put(self, lines: list[bytes]) -> None:
        try:
            self._out.write(b"".join(lines))
            self._out.flush()
        except (OSError, ValueError):
            return


def _json(record: dict[str, object]) -> bytes:
    line = _encode(record)
    if len(line) > USUAL_BYTES or not line.isascii() or b"\x7f" in line:  # hardly ever: our own words are short
        line = _encode({k: _plain(v) if isinstance(v, str) else v for k, v in record.items()})
    return line + b"\n"


def _plain(text: str) -> str:
    """Without what moves a terminal or ends a line, and not endless."""
    return _controls.sub("?", text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")


def _human(record: dict[str, object]) -> bytes:
    stamp = time.strftime("%H:%M:%S", time.localtime(float(str(record["ts"]))))
    rest = " ".join(f"{k}={_shown(v)}" for k, v in record.items() if k not in ("ts", "event") and v not in (None, ""))
    return f"{stamp} {record['event']} {rest}\n".encode("utf-8", "replace")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _plain(str(value))
    return msgspec.json.encode(text).decode() if _ambiguous(text) else text
