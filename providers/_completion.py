"""An OpenAI chat completion as values, and its bytes: whole, or event by event. For clouds whose own form is another.

Rule 1. What is here knows no cloud; every translating provider writes its answers with it.
Rule 2. JSON goes out without spaces, as gateway/relay.py likes it best.
"""

import itertools
from collections.abc import Mapping, Sequence

import msgspec

from gateway import sse

_encode = msgspec.json.Encoder().encode
NULL = msgspec.Raw(b"null")


class Function(msgspec.Struct):
    """`arguments` is JSON as text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    type: str = "function"
    function: Function


class Message(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, kw_only=True):
    """`finish_reason` is one of OpenAI's; `logprobs` is raw JSON in OpenAI's form."""

    index: int = 0
    message: Message
    logprobs: msgspec.Raw = NULL  # msgspec takes nothing but null for `Raw | None`
    finish_reason: str


class _Token(msgspec.Struct):
    token: str


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] = []


_logprobs = msgspec.json.Decoder(_Logprobs).decode
_token = msgspec.json.Decoder(_Token).decode


def fitted(logprobs: msgspec.Raw, whole: str, shown: str) -> msgspec.Raw:
    """The log probabilities of the tokens that lie within what is shown of a text; null where that cannot be told."""
    try:
        content = _logprobs(logprobs).content
        tokens = [_token(raw).token for raw in content]
    except msgspec.MsgspecError:  # null, or of another shape
        return NULL
    if "".join(tokens) != whole:
        return NULL
    begins = itertools.accumulate(map(len, tokens), initial=0)
    start = whole.find(shown)
    within = [raw for raw, token, at in zip(content, tokens, begins, strict=False)
              if start <= at and at + len(token) <= start + len(shown)]  # fmt: skip
    return msgspec.Raw(b'{"content":[%b],"refusal":null}' % b",".join(map(bytes, within)))


class Cached(msgspec.Struct):
    cached_tokens: int = 0


class Tokens(msgspec.Struct):
    """OpenAI's usage: the prompt counts what was read from a cache, too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Cached | msgspec.UnsetType = msgspec.UNSET


def tokens(prompt: int, output: int, cached: int | None = None) -> Tokens:
    """Usage; `cached` of the prompt's tokens came from a cache, None where the cloud does not tell."""
    details = msgspec.UNSET if cached is None else Cached(cached)
    return Tokens(prompt, output, prompt + output, details)


def summed(usages: Sequence[Tokens | None]) -> Tokens | None:
    """The usage of several calls as one; None when any of them is not known."""
    known = [usage for usage in usages if usage is not None]
    if not known or len(known) < len(usages):
        return None
    details = [usage.prompt_tokens_details for usage in known]
    cached = [found.cached_tokens for found in details if isinstance(found, Cached)]
    return tokens(
        sum(usage.prompt_tokens for usage in known),
        sum(usage.completion_tokens for usage in known),
        sum(cached) if cached else None,
    )


class Completion(msgspec.Struct):
    """`extra` are further top-level fields, such as a guardrail's trace."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Tokens | None = None
    extra: Mapping[str, msgspec.Raw] = {}


class _Whole(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Tokens | msgspec.UnsetType


def whole_bytes(completion: Completion) -> bytes:
    """The body of a plain answer."""
    usage = msgspec.UNSET if completion.usage is None else completion.usage
    id_, created, model = completion.id, completion.created, completion.model
    body = _encode(_Whole(id=id_, created=created, model=model, choices=completion.choices, usage=usage))
    if not completion.extra:
        return body
    return body[:-1] + b"".join(b",%b:%b" % (_encode(name), raw) for name, raw in completion.extra.items()) + b"}"


class Cutter:
    """Cuts a text that comes in pieces before the first of some stop strings. `hit` says that one was met."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What of the text so far can be shown; the start of what may become a stop string is held back."""
        if self.hit:
            return ""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :] if held else ""
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, and not all of it."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class Chunks:
    """Writes one answer as the events of OpenAI's stream: `opening` first, then pieces, `finish`, `usage`, sse.DONE.

    `stops` are stop strings that the cloud does not know: text is cut here before the first of them, the choice is
    finished, and what the cloud still says of it is not shown."""

    def __init__(self, id_: str, created: int, model: str, stops: Sequence[str] = ()) -> None:
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            _encode(id_),
            created,
            _encode(model),
        )
        self._first = self._head + b'{"index":0,"delta":{'
        self.stops = stops
        self._cutters: dict[int, Cutter] = {}

    def delta(self, fields: bytes, index: int = 0, finish: str | None = None, logprobs: bytes = b"null") -> bytes:
        """One event; `fields` is the inside of its delta as raw JSON."""
        head = self._first if index == 0 else self._head + b'{"index":%d,"delta":{' % index
        if finish is None and logprobs == b"null":
            return head + fields + b'},"logprobs":null,"finish_reason":null}]}\n\n'
        reason = b"null" if finish is None else _encode(finish)
        return b'%b%b},"logprobs":%b,"finish_reason":%b}]}\n\n' % (head, fields, logprobs, reason)

    def opening(self, index: int = 0) -> bytes:
        return self.delta(b'"role":"assistant","content":"","refusal":null', index)

    def text(self, text: str, index: int = 0, logprobs: bytes = b"null") -> bytes:
        """Text as far as it can be shown, b"" while it cannot. A stop string that is met here ends the choice."""
        if not self.stops:
            return self.delta(b'"content":' + _encode(text), index, None, logprobs)
        cutter = self._cutters.setdefault(index, Cutter(self.stops))
        if cutter.hit:
            return b""
        shown = cutter.feed(text)
        out = self.delta(b'"content":' + _encode(shown), index, None, logprobs) if shown else b""
        return out + self.delta(b"", index, "stop") if cutter.hit else out

    def reasoning(self, text: str, index: int = 0) -> bytes:
        return self.delta(b'"reasoning_content":' + _encode(text), index)

    def call(self, place: int, id_: str, name: str, index: int = 0) -> bytes:
        """The first fragment of a tool call, the `place`-th of its choice."""
        return self.delta(
            b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}]'
            % (place, _encode(id_), _encode(name)),
            index,
        )

    def arguments(self, place: int, fragment: str, index: int = 0) -> bytes:
        return self.delta(
            b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (place, _encode(fragment)), index
        )

    def finish(self, reason: str, index: int = 0) -> bytes:
        """The end of a choice; b"" when a stop string has ended it here already."""
        cutter = self._cutters.get(index)
        if cutter is None:
            return self.delta(b"", index, reason)
        if cutter.hit:
            return b""
        held = cutter.rest()
        shown = self.delta(b'"content":' + _encode(held), index) if held else b""
        return shown + self.delta(b"", index, reason)

    def usage(self, usage: Tokens, extra: Mapping[str, msgspec.Raw] | None = None) -> bytes:
        """The event after the last choice. The relay hides it from who did not ask."""
        more = b"".join(b",%b:%b" % (_encode(name), raw) for name, raw in (extra or {}).items())
        return b'%b],"usage":%b%b}\n\n' % (self._head, _encode(usage), more)


def stream_bytes(completion: Completion) -> bytes:
    """A whole completion as a stream: every choice with its text in one piece, then usage and [DONE]."""
    chunks = Chunks(completion.id, completion.created, completion.model)
    out: list[bytes] = []
    for choice in completion.choices:
        out.append(chunks.opening(choice.index))
        out += _pieces(chunks, choice)
        out.append(chunks.finish(choice.finish_reason, choice.index))
    if completion.usage is not None:
        out.append(chunks.usage(completion.usage, completion.extra))
    return b"".join([*out, sse.DONE])


def _pieces(chunks: Chunks, choice: Choice) -> list[bytes]:
    message, index, out = choice.message, choice.index, []
    if isinstance(message.reasoning_content, str):
        out.append(chunks.reasoning(message.reasoning_content, index))
    if message.content:
        out.append(chunks.text(message.content, index, bytes(choice.logprobs)))
    for place, call in enumerate(message.tool_calls or ()):
        out.append(chunks.call(place, call.id, call.function.name, index))
        out.append(chunks.arguments(place, call.function.arguments, index))
    return out
