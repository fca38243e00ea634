"""Oracle's GENERIC form and the plain one that every cloud of the box makes its answers from: read here, written here.

Sources: GenericChatRequest and ChatResult of oci 2.189.0; captures of streams in BerriAI/litellm#40040; that they have
no log probabilities oracle/langchain-oracle#310."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sandbox.answers import Choice, ToolCall, logprob_of, tokens_of
from sandbox.cloud import encode
from sandbox.openai_shape import DONE, Talk
from sandbox.types import Event, Json

# ---------------------------------------------------------------------- requests
_ROLES = {"SYSTEM": "system", "DEVELOPER": "developer", "USER": "user", "ASSISTANT": "assistant", "TOOL": "tool"}
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Json]]] = {
    "isStream": ("stream", bool),
    "streamOptions": ("stream_options", lambda value: {"include_usage": bool(value.get("isIncludeUsage"))}),
    "numGenerations": ("n", int),
    "maxTokens": ("max_tokens", int),
    "seed": ("seed", lambda value: value),
    "stop": ("stop", list),
    "isParallelToolCalls": ("parallel_tool_calls", bool),
    "logProbs": ("logprobs", lambda value: value),
    "tools": ("tools", lambda value: [_tool(tool) for tool in value]),
    "toolChoice": ("tool_choice", lambda value: _tool_choice(value)),
    "responseFormat": ("response_format", lambda value: _format(value)),
}


def openai_body(model: str, chat: Mapping[str, Json]) -> dict[str, Json]:
    """A GENERIC request in the form that every cloud of the box makes its answers from."""
    out: dict[str, Json] = {"model": model, "messages": [_message(message) for message in chat["messages"]]}
    for name, (plain, change) in _FIELDS.items():
        if chat.get(name) is not None:
            out[plain] = change(chat[name])
    return out


def _message(message: Mapping[str, Json]) -> dict[str, Json]:
    parts = [
        {"type": "text", "text": part["text"]}
        if part["type"] == "TEXT"
        else {"type": "image_url", "image_url": {"url": part["imageUrl"]["url"]}}
        for part in message.get("content") or ()
    ]
    out: dict[str, Json] = {"role": _ROLES[message["role"]], "content": parts or None}
    if message.get("toolCalls"):
        out["tool_calls"] = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in message["toolCalls"]
        ]
    return out


def _tool(tool: Mapping[str, Json]) -> dict[str, Json]:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(choice: Mapping[str, Json]) -> Json:
    if choice["type"] == "FUNCTION":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice["type"].lower()


def _format(form: Mapping[str, Json]) -> dict[str, Json]:
    out: dict[str, Json] = {"type": form["type"].lower()}
    if form.get("jsonSchema"):
        schema = form["jsonSchema"]
        out["json_schema"] = {("strict" if name == "isStrict" else name): value for name, value in schema.items()}
    return out


# ---------------------------------------------------------------------- answers
def whole(talk: Talk) -> dict[str, Json]:
    created = f"{_iso(talk.created)}"
    chat = {
        "apiFormat": "GENERIC",
        "timeCreated": created,
        "choices": [_choice(talk, choice) for choice in talk.choices],
        "usage": _usage(talk),
    }
    return {"modelId": talk.model, "modelVersion": "1.0.0", "chatResponse": chat}


def _choice(talk: Talk, choice: Choice) -> dict[str, Json]:
    message: dict[str, Json] = {"role": "ASSISTANT"}
    if choice.calls:
        message["toolCalls"] = [_tool_call(call) for call in choice.calls]
    else:
        message |= {"content": [{"type": "TEXT", "text": choice.text}], "toolCalls": []}
    out: dict[str, Json] = {"index": choice.index, "message": message, "finishReason": choice.finish}
    return {**out, "logprobs": _logprobs(talk, choice.pieces, 0) or {}}


def events(talk: Talk) -> Iterator[Event]:
    pad = itertools.cycle("a" * length for length in (24, 9, 31, 3, 17))
    several = len(talk.choices) > 1
    for place in range(max((len(choice.pieces) for choice in talk.choices), default=0)):
        for choice in talk.choices:
            if place < len(choice.pieces):
                yield _generic_event(_text_value(talk, choice, place), next(pad), 1, "text")
    for choice in talk.choices:
        where = {"index": choice.index} if several else {}
        for value, tokens in _call_values(choice, where):
            yield _generic_event(value, next(pad), tokens, "text")
        last: dict[str, Json] = {"role": "ASSISTANT", "content": ""}
        if choice.calls:
            last = {"role": "ASSISTANT", "toolCalls": [{"type": "FUNCTION", "arguments": ""}]}
        value = {**where, "message": last, "finishReason": choice.finish}
        yield _generic_event(value, next(pad), 0, "finish")
    if talk.wants_usage:
        yield _generic_event({"usage": _usage(talk)}, next(pad), 0, "usage")
    yield DONE


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _usage(talk: Talk) -> dict[str, Json]:
    total = talk.prompt_tokens + talk.generated
    return {"completionTokens": talk.generated, "promptTokens": talk.prompt_tokens, "totalTokens": total}


def _tool_call(call: ToolCall) -> dict[str, Json]:
    return {"type": "FUNCTION", "id": f"chatcmpl-tool-{call.id}", "name": call.name, "arguments": call.arguments}


def _logprobs(talk: Talk, pieces: list[str], place: int) -> dict[str, Json] | None:
    """Oracle's form: as OpenAI's older completions had it, numbers as text in the ranked ones."""
    top = talk.body.get("logprobs")
    if not top:
        return None
    values = [logprob_of(piece, place + at) for at, piece in enumerate(pieces)]
    ranked = [
        {piece: str(value), **{f" t{rank}": str(value - rank) for rank in range(1, top)}}
        for piece, value in zip(pieces, values, strict=True)
    ]
    offsets = list(itertools.accumulate((len(piece) for piece in pieces), initial=0))[:-1]
    return {"textOffset": offsets, "tokenLogprobs": values, "tokens": pieces, "topLogprobs": ranked}


def _generic_event(value: dict[str, Json], pad: str, tokens: int, kind: str) -> Event:
    return Event(b"data: " + encode({**value, "pad": pad}) + b"\n\n", tokens, kind)  # type: ignore[arg-type]


def _text_value(talk: Talk, choice: Choice, place: int) -> dict[str, Json]:
    piece = choice.pieces[place]
    message = {"role": "ASSISTANT", "content": [{"type": "TEXT", "text": piece}]}
    return {"index": choice.index, "message": message}


def _call_values(choice: Choice, where: Mapping[str, Json]) -> Iterator[tuple[dict[str, Json], int]]:
    """The first fragment of a call has its id and name; the others have only arguments, and no place."""
    for call in choice.calls:
        head = {**_tool_call(call), "arguments": ""}
        yield {**where, "message": {"role": "ASSISTANT", "toolCalls": [head]}}, len(tokens_of(call.name))
        for piece in tokens_of(call.arguments):
            yield {**where, "message": {"toolCalls": [{"type": "FUNCTION", "arguments": piece}]}}, 1
