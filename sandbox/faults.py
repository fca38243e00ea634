"""What the faults that end or replace an answer do; those that bend its form are in bends.py, ports in server.py.

Rule 1. A fault that ends or replaces the answer says so in the record (`ended` is fault); one that only bends its form
lets it end as done.
Rule 2. For a plain answer the faults of a stream act in the middle of the body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from sandbox.behaviour import Fault
from sandbox.bends import BENDS, EMPTIED, edited, json_edit, no_finish
from sandbox.playback import Playback, chunk
from sandbox.types import Reply, Voice

Act = Callable[[Playback, Fault, Voice], Awaitable[None]]
_encode = msgspec.json.encode
PAGE = "<!doctype html><html><head><title>Sign in</title></head><body><h1>Sign in to continue</h1></body></html>"


class Spoiler(Voice, Protocol):
    """A cloud, as faults see it."""

    def spoilt(self, fault: Fault, reply: Reply) -> bool:
        """Changes the reply if its wire has a form of its own for this fault; whether it did."""


async def strike(play: Playback, fault: Fault, voice: Spoiler) -> None:
    """Plays the reply with the fault."""
    play.record.fault = fault.kind
    if voice.spoilt(fault, play.reply):
        play.record.ended = "" if fault.kind in (*BENDS, "big_event") else "fault"
        await play.play()
    elif fault.kind in BENDS:
        await BENDS[fault.kind](play, fault)
    else:
        await ACTS[fault.kind](play, fault, voice)


def _after(fault: Fault) -> int:
    return 1 if fault.after_tokens is None else fault.after_tokens


def _cut(play: Playback) -> None:
    play.record.ended = "fault"


async def _for(play: Playback, stall_s: float | None) -> None:
    """Silence for so long; without a number until the client leaves."""
    if stall_s is None:
        await play.connection.gone()
    else:
        await asyncio.sleep(stall_s)


async def _part(play: Playback, after_tokens: int) -> None:
    """Head and the first tokens of a stream; head and half of a plain body."""
    if play.streams:
        await play.open_stream()
        await play.send_events(until_tokens=after_tokens)
    else:
        await play.wait_all()
        body = play.reply.body
        await play.send_head(length=len(body), body=body[: len(body) // 2])


# ---------------------------------------------------------------------- instead of an answer
async def _status(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    said = voice.failure(fault.status or 500)
    headers = {**said.headers, **(fault.headers or {})}
    body = said.body if fault.body is None else fault.body
    kind = "application/json" if not isinstance(body, str) else "text/plain; charset=utf-8"
    headers = {k.lower(): v for k, v in {"content-type": kind, **headers}.items()}
    await play.answer(
        fault.status or 500, list(headers.items()), body.encode() if isinstance(body, str) else _encode(body)
    )


async def _silent(play: Playback, fault: Fault, voice: Voice) -> None:
    await _for(play, fault.stall_s)
    await play.play()


async def _headers_then_silence(play: Playback, fault: Fault, voice: Voice) -> None:
    body = play.reply.body
    await play.send_head(length=None if play.streams else len(body))
    await _for(play, fault.stall_s)
    if play.streams:
        await play.wait_first()
        await play.send_events()
        await play.end_stream()
    else:
        await play.emit(body)


async def _reset_before(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    play.connection.reset()


async def _close_before(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    play.connection.close()


async def _empty(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    variant = fault.variant or "body"
    if not play.streams:
        body = b"" if variant == "body" else edited(play.reply.body, EMPTIED[variant])
        await play.send_head(length=len(body), body=body)
        return
    await play.send_head()
    if variant != "body":
        play.edit = json_edit(EMPTIED[variant])
        play.dropped = frozenset({"text"})
        await play.send_events()
    await play.end_stream()


async def _error_body(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    body = fault.body if fault.body is not None else voice.failure(fault.status or 500).body
    await play.answer(200, [("content-type", "application/json")], _encode(body))


async def _html(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    page = fault.body if isinstance(fault.body, str) else PAGE
    await play.answer(200, [("content-type", "text/html; charset=utf-8")], page.encode())


async def _redirect(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    location = fault.location or "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
    await play.answer(fault.status or 302, [("location", location), ("content-type", "text/plain")], b"moved")


# ---------------------------------------------------------------------- in mid answer
async def _end_after(play: Playback, fault: Fault, end: Callable[[], None]) -> None:
    if fault.after_finish and play.streams:
        await play.open_stream()
        await play.send_events(until="finish")
    else:
        await _part(play, _after(fault))
    _cut(play)
    await play.connection.flush()
    end()


async def _reset_after_tokens(play: Playback, fault: Fault, voice: Voice) -> None:
    await _end_after(play, fault, play.connection.reset)


async def _close_after_tokens(play: Playback, fault: Fault, voice: Voice) -> None:
    await _end_after(play, fault, play.connection.close)


async def _stall(play: Playback, fault: Fault, voice: Voice) -> None:
    await _part(play, _after(fault))
    await _for(play, fault.stall_s)
    if play.streams:
        await play.send_events()
        await play.end_stream()
    else:
        await play.emit(play.reply.body[len(play.reply.body) // 2 :])


async def _comments_only(play: Playback, fault: Fault, voice: Voice) -> None:
    if not play.streams:
        await _headers_then_silence(play, Fault(kind="headers_then_silence"), voice)
        return
    await _part(play, fault.after_tokens or 0)
    _cut(play)
    while True:
        await play.emit(chunk(b": x\n\n"))
        await asyncio.sleep(1.0 if fault.every_s is None else fault.every_s)


async def _error_event(play: Playback, fault: Fault, voice: Voice) -> None:
    if not play.streams:
        await _error_body(play, fault, voice)
        return
    body = fault.body if fault.body is not None else voice.failure(fault.status or 500).body
    await _part(play, fault.after_tokens or 0)
    _cut(play)
    for frame in voice.error_frames(body, fault.done):
        await play.emit(chunk(frame))
    await play.end_stream()


async def _bad_json(play: Playback, fault: Fault, voice: Voice) -> None:
    _cut(play)
    if not play.streams:
        body = play.reply.body
        cut = body[: len(body) * 2 // 3]
        await play.send_head(length=len(cut), body=cut)
        return
    await _part(play, fault.after_tokens or 0)
    await play.emit(chunk(b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"w00\n\n'))
    await play.send_events()
    await play.end_stream()


async def _bad_chunk(play: Playback, fault: Fault, voice: Voice) -> None:
    if play.streams:
        await _part(play, _after(fault))
        wrong = b"zz\r\ndata: {}\n\n\r\n"
    else:
        await play.wait_all()
        await play.send_head()
        wrong = b"zz\r\n" + play.reply.body + b"\r\n"
    await play.emit(wrong)
    _cut(play)
    play.connection.close()


async def _short_body(play: Playback, fault: Fault, voice: Voice) -> None:
    if play.streams:
        await _part(play, 1)
        await play.emit(b"40\r\ndata: {")
    else:
        await play.wait_all()
        await play.send_head(length=len(play.reply.body) + 64, body=play.reply.body)
    _cut(play)
    play.connection.close()


async def _long_body(play: Playback, fault: Fault, voice: Voice) -> None:
    if play.streams:
        await _part(play, 1)
        await play.emit(b"4\r\ndata: {}\n\n\r\n")
    else:
        await play.wait_all()
        await play.send_head(length=max(1, len(play.reply.body) - 8), body=play.reply.body)
    _cut(play)
    play.connection.close()


async def _neither(play: Playback, fault: Fault, voice: Voice) -> None:
    if not play.streams:
        play.reply.body = edited(play.reply.body, no_finish)
        await play.play()
        return
    play.dropped = frozenset({"usage", "done"})
    play.edit = json_edit(no_finish)
    await _part(play, fault.after_tokens if fault.after_tokens is not None else 1 << 40)
    _cut(play)
    await play.end_stream()


async def _big_event(play: Playback, fault: Fault, voice: Voice) -> None:
    size = fault.size_bytes or 20 * 1024 * 1024
    big = "x" * size
    if not play.streams:
        play.reply.body = edited(play.reply.body, lambda value: {**value, "padding": big})
        await play.play()
        return
    await _part(play, 1)
    await play.emit(
        chunk(b"data: " + _encode({"object": "chat.completion.chunk", "choices": [], "padding": big}) + b"\n\n")
    )
    await play.send_events()
    await play.end_stream()


ACTS: Mapping[str, Act] = {
    "status": _status,
    "silent": _silent,
    "headers_then_silence": _headers_then_silence,
    "reset_before": _reset_before,
    "close_before": _close_before,
    "empty": _empty,
    "error_body": _error_body,
    "html": _html,
    "redirect": _redirect,
    "reset_after_tokens": _reset_after_tokens,
    "close_after_tokens": _close_after_tokens,
    "stall": _stall,
    "comments_only": _comments_only,
    "error_event": _error_event,
    "bad_json": _bad_json,
    "bad_chunk": _bad_chunk,
    "short_body": _short_body,
    "long_body": _long_body,
    "neither": _neither,
    "big_event": _big_event,
}
