"""Makes deterministic answers from requests: text of numbered words, tool calls, JSON values, vectors.

Rule 1. The same messages give the same answer on every cloud: the key is made from the prompt and what shapes it, never
from the model id, the length asked for or the transport.
Rule 2. One function, `tokens_of`, says what a token is; usage and the call record both count with it.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Sequence

import msgspec

from sandbox.schema import value_for
from sandbox.types import Json

_TOKEN = re.compile(r"[ \n]?(?:[A-Za-z0-9À-ɏ]{1,7}|[^\sA-Za-z0-9À-ɏ])|\s")
_RARE = (" 🦙", " ñandú", " 東", ' "', " café", " \\", "\n", " Ω", " 🏔", " <")
_RARE_EVERY = 7
FILTERED_WORD = "contraband-recipe"
"""A user who says it gets a few words and the finish reason content_filter."""


def tokens_of(text: str) -> list[str]:
    """The tokens of a text; joined they are the text again."""
    return _TOKEN.findall(text)


def key_of(*parts: Json) -> int:
    """A 64-bit number that stands for those JSON values."""
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest(), "big")


def token_at(key: int, index: int) -> str:
    """The token at that place of the endless answer of a key: `k1f2e3d w0001 w0002 ...`, now and then a rare one."""
    if index == 0:
        return f"k{key & 0xFFFFFF:06x}"
    if index % _RARE_EVERY == _RARE_EVERY - 1:
        return _RARE[(key + index) % len(_RARE)]
    return f" w{index:04d}"


class ToolCall(msgspec.Struct):
    id: str
    name: str
    arguments: str


class Choice(msgspec.Struct):
    """One choice: the tokens to send, how many were generated, why it ended, which stop string ended it."""

    index: int
    pieces: list[str]
    generated: int
    finish: str
    stop_hit: str | None = None
    calls: list[ToolCall] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Ask(msgspec.Struct, kw_only=True):
    """What an answer is made from, after a cloud has checked it. `prefix` is text of the assistant to go on from."""

    key: int
    length: int | None = None
    natural_length: int = 32
    choices: int = 1
    stop: Sequence[str] = ()
    tools: Sequence[Json] = ()
    tool_choice: Json = None
    parallel_tools: bool = False
    after_tool: bool = False
    user_text: str = ""
    json_form: Json = None
    prefix: str = ""


def answer(ask: Ask) -> list[Choice]:
    """The choices of a chat or text answer."""
    if FILTERED_WORD in ask.user_text:
        pieces = tokens_of("I cannot help with that.")
        return [Choice(index, pieces, len(pieces), "content_filter") for index in range(ask.choices)]
    called = tools_called(ask)
    if called:
        return [_tool_choice(ask, index, called) for index in range(ask.choices)]
    return [_text_choice(ask, index) for index in range(ask.choices)]


def _text_choice(ask: Ask, index: int) -> Choice:
    key = ask.key if index == 0 else key_of(ask.key, index)
    if ask.json_form is not None:
        text = json.dumps(value_for(ask.json_form, key), ensure_ascii=False)
        pieces, natural_end = tokens_of(text), True
    else:
        pieces, natural_end = _words(ask, key), ask.length is None
    finish = "stop" if natural_end else "length"
    if ask.length is not None and len(pieces) > ask.length:
        pieces, finish = pieces[: ask.length], "length"
    return _stopped(index, pieces, finish, ask.stop)


def _words(ask: Ask, key: int) -> list[str]:
    """Numbered words; after a prefix that is the start of this very answer, the ones that come next."""
    length = ask.natural_length if ask.length is None else ask.length
    if not ask.prefix:
        return [token_at(key, i) for i in range(length)]
    place, rest = 0, ask.prefix
    while rest and rest.startswith(token := token_at(key, place)):
        place, rest = place + 1, rest[len(token) :]
    token = token_at(key, place)
    if rest and token.startswith(rest):  # the prefix ends within a token
        return [token[len(rest) :], *(token_at(key, i) for i in range(place + 1, place + length))][:length]
    if ask.length is None and not rest:
        length = max(1, length - place)
    return [token_at(key, i) for i in range(place, place + length)]


def _stopped(index: int, pieces: list[str], finish: str, stop: Sequence[str]) -> Choice:
    """Cuts at the first stop string; the tokens that made it were generated but are not shown."""
    text = "".join(pieces) if stop else ""
    found = [(at, s) for s in stop if s and (at := text.find(s)) >= 0]
    if not found:
        return Choice(index, pieces, len(pieces), finish)
    at, hit = min(found)
    shown: list[str] = []
    generated = place = 0
    for piece in pieces:
        if place >= at + len(hit):
            break
        generated += 1
        if place < at:
            shown.append(piece[: at - place])
        place += len(piece)
    return Choice(index, shown, generated, "stop", hit)


def tools_called(ask: Ask) -> list[Json]:
    """The functions that the answer calls: the named one; else one whose name the user says, else the first."""
    functions = [tool["function"] for tool in ask.tools]
    if isinstance(ask.tool_choice, dict):
        wanted = ask.tool_choice.get("function", {}).get("name")
        return [f for f in functions if f["name"] == wanted][:1]
    if not functions or ask.tool_choice == "none" or (ask.after_tool and ask.tool_choice != "required"):
        return []
    named = [f for f in functions if f["name"] in ask.user_text] or functions
    return named[:2] if ask.parallel_tools else named[:1]


def _tool_choice(ask: Ask, index: int, called: Sequence[Json]) -> Choice:
    """The calls with valid arguments; too small a limit cuts the last one's arguments."""
    left = ask.length if ask.length is not None else 1 << 30
    calls: list[ToolCall] = []
    generated, cut = 0, False
    for number, function in enumerate(called):
        key = key_of(ask.key, index, number)
        value = value_for(function.get("parameters") or {"type": "object"}, key)
        whole = tokens_of(json.dumps(value, ensure_ascii=False))
        name_tokens = len(tokens_of(function["name"]))
        room = max(0, left - generated - name_tokens)
        kept = whole[:room]
        cut = cut or len(kept) < len(whole)
        calls.append(ToolCall(f"{key:016x}", function["name"], "".join(kept)))
        generated += min(name_tokens + len(kept), left - generated)
    named = isinstance(ask.tool_choice, dict)
    return Choice(index, [], generated, "length" if cut else "stop" if named else "tool_calls", None, calls)


def logprob_of(token: str, place: int) -> float:
    """A log probability that is the same for the same token at the same place."""
    return -(key_of(token, place) % 9_000_000) / 1_000_000 - 0.000001


def vector_for(text: str, length: int) -> list[float]:
    """A unit vector made from the text."""
    raw = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * length)
    numbers = [n / 32768.0 for n in struct.unpack(f"<{length}h", raw)]
    norm = sum(n * n for n in numbers) ** 0.5 or 1.0
    return [n / norm for n in numbers]


def packed(vector: Sequence[float]) -> str:
    """`encoding_format: base64`: little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
