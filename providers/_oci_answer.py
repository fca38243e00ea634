"""Oracle's GENERIC chat answers: their shapes, and what each part is in OpenAI's words. Pure; streams: _oci_stream.py.

Rule 1. Texts and arguments go over as the bytes they came in.
Rule 2. A finish reason is never guessed to be a good end: an error is an error, an unknown word is told.

Sources: ChatResult and its parts in oci 2.189.0; lower-case reasons, absent content, `toolCalls: []`, absent details:
BerriAI/litellm#40040, Elastic's connector tests, oracle/langchain-oracle#316 (captures). Upper-case reasons are
those of the COHERE form (oci 2.189.0, CohereChatResponse) and of older captures."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from gateway.errors import Detail, UpstreamError
from providers import _completion
from providers._completion import Cached, Tokens
from providers._emulation import Word
from providers._oci_messages import ABSENT, NOTHING, characters

_encode = msgspec.json.Encoder().encode


class Asked(NamedTuple):
    """What an answer is told under. `prompt_characters` is None where Oracle does not bill by characters."""

    id: str
    created: int
    model: str
    choices: int = 1
    top_logprobs: int | None = None
    prompt_characters: int | None = None


class Part(msgspec.Struct):
    type: str = "TEXT"
    text: msgspec.Raw = ABSENT


class Call(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    arguments: msgspec.Raw = ABSENT


class Message(msgspec.Struct, rename="camel"):
    content: list[Part] | str | None = None
    tool_calls: list[Call] | None = None
    refusal: msgspec.Raw = ABSENT
    reasoning_content: msgspec.Raw = ABSENT


class Logprobs(msgspec.Struct, rename="camel"):
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | str] | None] | None = None


class _CachedTokens(msgspec.Struct, rename="camel"):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, rename="camel"):
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class Usage(msgspec.Struct, rename="camel"):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _OutputDetails | None = None


class Choice(msgspec.Struct, rename="camel"):
    index: int | None = None
    message: Message | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Chat(msgspec.Struct, rename="camel"):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    time_created: str | None = None


class _Result(msgspec.Struct, rename="camel"):
    chat_response: _Chat | None = None
    code: str | int | None = None
    message: str | None = None
    error: msgspec.Raw = ABSENT


class OutputDetails(msgspec.Struct, omit_defaults=True):
    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class Billed(Tokens):
    """OpenAI's usage and the characters by which Oracle bills."""

    completion_tokens_details: OutputDetails | msgspec.UnsetType = msgspec.UNSET
    prompt_characters: int | msgspec.UnsetType = msgspec.UNSET
    completion_characters: int | msgspec.UnsetType = msgspec.UNSET


_decode_result = msgspec.json.Decoder(_Result).decode

FINISHES: Mapping[str, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "complete": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "max_tokens": "length",
    "error_limit": "length",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "error_toxic": "content_filter",
    "guardrail": "content_filter",
}
"""Reasons in lower case, whatever case they came in."""
FAILURES = frozenset({"error", "user_cancel", "cancelled", "timeout"})
"""Reasons that say that the answer is not one."""

STATUSES: Mapping[str, int] = {
    "invalidparameter": 400,
    "cannotparserequest": 400,
    "missingparameter": 400,
    "limitexceeded": 400,
    "quotaexceeded": 400,
    "notauthenticated": 401,
    "signupisrequired": 402,
    "notauthorized": 403,
    "notauthorizedornotfound": 404,
    "notfound": 404,
    "incorrectstate": 409,
    "invalidatedretrytoken": 409,
    "payloadtoolarge": 413,
    "toomanyrequests": 429,
    "internalservererror": 500,
    "internalerror": 500,
    "serviceunavailable": 503,
}
"""What Oracle's error codes stand for where no status comes with them (docs.oracle.com, API errors); whether
they come so in streams is not verified."""


def finish_of(reason: str, *, calls: bool) -> tuple[str, bool]:
    """OpenAI's word for a reason, and whether the reason was known. Raises UpstreamError for one that is a failure."""
    word = reason.lower()
    if (found := FINISHES.get(word)) is not None:
        return found, True
    if word in FAILURES:
        detail = Detail(f"the answer ended with {reason[:40]}", None, None, reason[:40])
        raise UpstreamError("error_body", f"ended its answer with {word}", status=500, detail=detail)
    return "tool_calls" if calls else "stop", False


def failure_of(code: str | int | None, message: str | None, error: bytes = b"") -> UpstreamError | None:
    """The error that a 200 or an event of a stream says: {"code", "message"}, bare or below `error`; None without."""
    if error not in NOTHING:
        code, message = _inner(error)
    elif code is None and message is None:
        return None
    text = str(code or "")
    status = int(text) if text.isdecimal() and 400 <= int(text) < 600 else STATUSES.get(text.lower(), 500)
    detail = Detail(message or "", None, None, code)
    return UpstreamError("error_event", "sent an error instead of an answer", status=status, detail=detail)


class _Error(msgspec.Struct):
    code: str | int | None = None
    status: str | int | None = None
    message: str | None = None


def _inner(raw: bytes) -> tuple[str | int | None, str | None]:
    try:
        found = msgspec.json.decode(raw, type=_Error | str)
    except msgspec.MsgspecError:
        return None, None
    return (None, found) if isinstance(found, str) else (found.code or found.status, found.message)


def text_of(content: list[Part] | str | None) -> bytes:
    """The text of a message as a JSON string; b"" without any."""
    if content is None or isinstance(content, str):
        return _encode(content) if content else b""
    if len(content) == 1:  # nearly all
        text = bytes(content[0].text)
        return text if text not in NOTHING else b""
    inside = b"".join([bytes(part.text)[1:-1] for part in content if bytes(part.text) not in NOTHING])
    return b'"%b"' % inside if inside else b""


def arguments_of(call: Call) -> bytes:
    """A call's arguments as a JSON string; b"" without any."""
    raw = bytes(call.arguments)
    if raw[:1] == b'"':
        return raw if raw != b'""' else b""
    return b"" if raw in NOTHING else _encode(raw.decode())  # an object where a string should be


def usage_of(usage: Usage, prompt_characters: int | None, output_characters: int) -> Billed:
    """OpenAI's usage; what was not said of it is counted from what was."""
    prompt = usage.prompt_tokens or 0
    output = usage.completion_tokens
    if output is None:
        output = max(0, (usage.total_tokens or 0) - prompt)
    billed = Billed(prompt, output, prompt + output if usage.total_tokens is None else usage.total_tokens)
    if (cached := usage.prompt_tokens_details) is not None and cached.cached_tokens is not None:
        billed.prompt_tokens_details = Cached(cached.cached_tokens)
    if (details := usage.completion_tokens_details) is not None:
        found = msgspec.convert(details, OutputDetails, from_attributes=True)
        if found != OutputDetails():
            billed.completion_tokens_details = found
    if prompt_characters is not None:
        billed.prompt_characters, billed.completion_characters = prompt_characters, output_characters
    return billed


def logprobs_of(found: Logprobs | None, top: int | None) -> bytes:
    """OpenAI's `logprobs` of a choice, with the `top` most likely of each place; null where there are none."""
    if top is None or found is None or not found.tokens:
        return b"null"
    chosen, ranked = found.token_logprobs or (), found.top_logprobs or ()
    content = []
    for place, token in enumerate(found.tokens):
        logprob = chosen[place] if place < len(chosen) else None
        others = (ranked[place] if place < len(ranked) else None) or {}
        best = sorted(((name, float(value)) for name, value in others.items()), key=lambda pair: -pair[1])[:top]
        content.append({**_token(token, logprob), "top_logprobs": [_token(name, value) for name, value in best]})
    return _encode({"content": content, "refusal": None})


def _token(token: str, logprob: float | None) -> dict[str, object]:
    return {"token": token, "logprob": -9999.0 if logprob is None else logprob, "bytes": list(token.encode())}


def created_of(text: str | None, otherwise: int) -> int:
    """Seconds since the epoch of `2025-09-18T10:22:38.123Z`."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) if text else otherwise
    except (ValueError, OverflowError):
        return otherwise


def whole(body: bytes, asked: Asked, degraded: dict[str, Word]) -> bytes:
    """A plain answer in OpenAI's form; what it could not be said as is added to `degraded`. Raises UpstreamError."""
    try:
        if not body.isascii():
            body.decode()
        result = _decode_result(body)
    except msgspec.ValidationError as error:
        raise UpstreamError("shape", "answered 200 with JSON of another shape") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError("not_json", "answered 200 with a body that is not JSON") from error
    if (failure := failure_of(result.code, result.message, bytes(result.error))) is not None:
        failure.kind, failure.message = "error_body", "answered 200 with an error in it"
        raise failure
    chat = result.chat_response
    if chat is None or not chat.choices:
        raise UpstreamError("empty", "answered 200 without any choice in it")
    counted = _Counted()
    choices = [_choice(choice, place, asked, degraded, counted) for place, choice in enumerate(chat.choices)]
    head = b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[%b]' % (
        _encode(asked.id),
        created_of(chat.time_created, asked.created),
        _encode(asked.model),
        b",".join(choices),
    )
    if chat.usage is None:
        return head + b"}"
    return head + b',"usage":%b}' % _encode(usage_of(chat.usage, asked.prompt_characters, counted.characters))


class _Answer(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[_completion.Choice]
    usage: Tokens | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def completion(body: bytes) -> _completion.Completion:
    """What `whole` wrote, as values, for what is stood in for. Raises UpstreamError for text that is none."""
    try:
        found = _decode_answer(body)
    except msgspec.MsgspecError as error:
        raise UpstreamError("shape", "answered with text that cannot be read") from error
    return _completion.Completion(found.id, found.created, found.model, found.choices, found.usage)


class _Counted:
    """Characters of an answer so far."""

    def __init__(self) -> None:
        self.characters = 0

    def count(self, raw: bytes) -> bytes:
        self.characters += characters(raw) if raw else 0
        return raw


def _choice(choice: Choice, place: int, asked: Asked, degraded: dict[str, Word], counted: _Counted) -> bytes:
    message = choice.message or Message()
    text = counted.count(text_of(message.content))
    calls = [_tool_call(call, number, place, asked, counted) for number, call in enumerate(message.tool_calls or ())]
    reason, known = finish_of(choice.finish_reason or "none", calls=bool(calls))
    fields = [b'"role":"assistant","content":%b' % (text or (b"null" if calls else b'""'))]
    fields.append(b'"refusal":%b' % (bytes(message.refusal) or b"null"))
    if bytes(message.reasoning_content) not in NOTHING:
        fields.append(b'"reasoning_content":%b' % bytes(message.reasoning_content))
    if calls:
        fields.append(b'"tool_calls":[%b]' % b",".join(calls))
    tail = b""
    if not known:
        degraded["finish_reason"] = "emulated"
        tail = b',"native_finish_reason":%b' % _encode(choice.finish_reason)
    return b'{"index":%d,"message":{%b},"logprobs":%b,"finish_reason":"%b"%b}' % (
        place if choice.index is None else choice.index,
        b",".join(fields),
        logprobs_of(choice.logprobs, asked.top_logprobs),
        reason.encode(),
        tail,
    )


def _tool_call(call: Call, number: int, place: int, asked: Asked, counted: _Counted) -> bytes:
    return b'{"id":%b,"type":"function","function":{"name":%b,"arguments":%b}}' % (
        _encode(call.id or call_id(asked.id, place, number)),
        _encode(call.name or ""),
        counted.count(arguments_of(call)) or b'""',
    )


def call_id(answer_id: str, place: int, number: int) -> str:
    """The id of a call that came without one: the same however often it is asked for."""
    return f"call_{answer_id.removeprefix('chatcmpl-')[:16]}_{place}_{number}"
