"""Judges what a client saw of a conversation by the cloud's own records, never by what the gateway says of itself.

Rule 1. What arrived is what the cloud made: every choice's text, calls, end, and the tokens of all its calls together.
Rule 2. What was asked reached the cloud: every text and number of the call stands in what it got, but for a parameter
        that the answer says was emulated or dropped.
Rule 3. A refusal of ours names a feature, and the cloud was not asked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import openai

from gateway.types import FEATURES
from sandbox.answers import vector_for
from tests.conformance.conversation import Conversation, Mismatch, Refused, Seen, expect

OURS = frozenset({"model", "stream", "stream_options", "extra_headers", "tool_choice", "parallel_tool_calls"})
"""Fields that have no text or number of their own which a cloud would get as it is."""
NOT_WORDS = frozenset({"role", "type", "id", "tool_call_id", "strict", "$ref"})
"""Keys whose values each cloud writes in its own way."""
RENAMED = {"top_logprobs": "logprobs"}
Record = Mapping[str, Any]


def chat(seen: Seen) -> None:
    """Raises Mismatch where a chat's answer is not what the cloud sent, or what was asked did not get there."""
    _same_answer(seen)
    _same_usage(seen)
    if seen.chunks is not None:
        _sound_stream(seen)
    got = list(_leaves([json.loads(call["body"]) for call in seen.calls]))
    texts, numbers = "\0".join(t for t in got if isinstance(t, str)), {n for n in got if not isinstance(n, str)}
    for name, value in seen.asked.items():
        uncalled = name == "tools" and seen.asked.get("tool_choice") == "none"
        if name not in OURS and name not in seen.degraded and not uncalled:
            for leaf in _leaves(value):
                there = _bare(leaf) in texts if isinstance(leaf, str) else leaf in numbers
                expect(there, f"{leaf!r:.60} of {name} did not reach the cloud")


def _bare(text: str) -> str:
    """A picture without the head of its data address, which some clouds get apart."""
    return text.partition(";base64,")[2] if text.startswith("data:") else text


def _leaves(value: Any) -> Iterator[Any]:
    """The texts and numbers of a JSON value; what stands as JSON in a text by its own leaves."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "properties" and isinstance(inner, Mapping):
                yield from inner
            if name not in NOT_WORDS:
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str) and value.startswith('{"'):
        yield from _leaves(json.loads(value))
    elif value is not None and not isinstance(value, bool):
        yield value


def _same_answer(seen: Seen) -> None:
    sent = _sent(seen)
    got = sorted(seen.answer.choices, key=lambda choice: choice.index)
    expect(len(got) == len(sent), f"{len(got)} choices, the cloud sent {len(sent)}")
    for choice, made in zip(got, sent, strict=True):
        text, whole = choice.message.content or "", "".join(made["pieces"])
        if "response_format" in seen.degraded:
            expect(text in whole, "the JSON is no piece of what the cloud sent")
        elif seen.degraded.get("stop") == "emulated":
            whole = _cut(whole, seen.asked["stop"])
            expect(text == whole, f"the text is not what stands before the first stop string: {text[-30:]!r}")
        else:
            expect(text == whole, f"the text is not what the cloud sent: {_difference(text, whole)}")
            expect(choice.finish_reason in _ends(made), f"ends by {choice.finish_reason}, the cloud's {made['finish']}")
        _same_calls(choice.message.tool_calls or [], made, seen)


def _sent(seen: Seen) -> Sequence[Any]:
    """The choices that the cloud sent; where JSON was asked for in words and repaired, those of the last answer."""
    made = [call["choices"] for call in seen.calls if call["choices"]]
    expect(made, "the cloud sent nothing")
    if "response_format" in seen.degraded and "n" not in seen.degraded:
        return list(made[-1])
    return [choice for choices in made for choice in choices]


def _cut(text: str, stops: str | Sequence[str]) -> str:
    places = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops)]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _ends(made: Record) -> set[str]:
    """A forced call ends by `stop` at some clouds, and by `tool_calls` at others."""
    return {made["finish"], "tool_calls"} if made["calls"] and made["finish"] == "stop" else {made["finish"]}


def _same_calls(got: Sequence[Any], made: Record, seen: Seen) -> None:
    sent = made["calls"][:1] if seen.degraded.get("parallel_tool_calls") == "emulated" else made["calls"]
    said = [(call.function.name, call.function.arguments) for call in got]
    expect([name for name, _ in said] == [call["name"] for call in sent], f"calls {said}")
    for (_, arguments), call in zip(said, sent, strict=True):
        if made["finish"] != "length":
            expect(json.loads(arguments) == json.loads(call["arguments"]), f"arguments {arguments[:60]}")


def _difference(got: str, sent: str) -> str:
    place = next((at for at, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), min(len(got), len(sent)))
    return f"at {place} {got[place : place + 20]!r}, not {sent[place : place + 20]!r}"


def _same_usage(seen: Seen) -> None:
    usage = seen.answer.usage
    if usage is None:
        options = seen.asked.get("stream_options") or {}
        expect(seen.chunks is not None and not options.get("include_usage"), "no usage")
        return
    prompt, answer = (sum(call[name] for call in seen.calls) for name in ("prompt_tokens", "answer_tokens"))
    said = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    expect(said == (prompt, answer, prompt + answer), f"usage {said}, the cloud's is {(prompt, answer)}")


def _sound_stream(seen: Seen) -> None:
    chunks = seen.chunks or ()
    expect(len({chunk.id for chunk in chunks}) == 1, "the id changes in the stream")
    expect({chunk.model for chunk in chunks} == {seen.answer.model}, "the model changes in the stream")
    roles = [c.choices[0].delta.role for c in chunks if c.choices][:1]
    expect(roles == ["assistant"], f"the first event's role is {roles}")
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    expect(len(ends) == len(set(ends)) == len(seen.answer.choices), f"finish_reason stands {len(ends)} times")
    indexes = [c.index for k in chunks for choice in k.choices[:1] for c in choice.delta.tool_calls or ()]
    expect(indexes == sorted(indexes), "pieces of calls are out of order")


# ---------------------------------------------------------------------- the other endpoints
def completion(answer: Any, calls: Sequence[Record]) -> None:
    """One text, plain or put together from a stream's chunks."""
    made = calls[-1]["choices"][0]
    text, ends = answer
    expect(text == "".join(made["pieces"]), f"the text is not what the cloud sent: {text[:40]!r}")
    expect(ends == made["finish"], f"ends by {ends}, the cloud's {made['finish']}")


def embeddings(answer: Any, texts: Sequence[str]) -> None:
    expect([item.index for item in answer.data] == list(range(len(texts))), "embeddings are out of order")
    for item, text in zip(answer.data, texts, strict=True):
        made = vector_for(text, len(item.embedding))
        near = all(abs(a - b) < 1e-6 for a, b in zip(item.embedding, made, strict=True))
        expect(len(made) > 1 and near, "the numbers are not the cloud's")


# ---------------------------------------------------------------------- errors
def refusal(error: openai.APIError, conversation: Conversation, calls: Sequence[Record]) -> str:
    """`refused` for a feature that is not there, `pass` for the error that was to come; raises Mismatch."""
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    said = f"{status} {error.code}: {error.message[:160]}"
    if status == 400 and (error.code == "unsupported_feature" or conversation.refusable):
        words = [conversation.refusable] if conversation.refusable else [*FEATURES, "stop strings"]
        expect(any(word in error.message for word in words), f"names no feature: {said}")
        expect(not calls, f"the cloud was asked all the same: {said}")
        return "refused"
    if conversation.refused is None:
        raise Mismatch(said)
    _as_expected(error, status, conversation.refused, said)
    expect(conversation.route != "nowhere" or not calls, "a cloud was asked")
    return "pass"


def _as_expected(error: openai.APIError, status: int, wanted: Refused, said: str) -> None:
    expect(status == wanted.status or (status, wanted.code) == (422, ""), said)
    expect(not wanted.code or error.code == wanted.code, said)
    expect(error.type and error.message, f"no type or message: {said}")
    if isinstance(error, openai.APIStatusError):
        expect(error.response.headers.get("x-request-id"), "no x-request-id")
        waits = error.response.headers.get("retry-after", "")
        expect(not wanted.retry_after or (waits.isdigit() and 1 <= int(waits) <= 8), f"retry-after {waits!r}")
