"""The degrade contract: what is done about a feature that a deployment lacks, and how it is stood in for."""

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from gateway.errors import UpstreamError
from gateway.outcome import judge
from gateway.transport.client import Response
from gateway.types import Call, Deployment
from providers import _emulation
from providers._bedrock_request import OFFERS
from providers._completion import Choice, Chunks, Completion, Cutter, Function, Message, ToolCall, tokens
from providers._emulation import Fields, Identity, Translator, Whole, Word, answer, plan
from providers._json_answer import form
from tests.bedrock.calls import WEATHER, call, deployment
from tests.harness import eventually

IDENTITY = Identity("chatcmpl-1", 5, "r")
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
AS_PERSON = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
AS_JSON = {"type": "json_object"}


class Cloud:
    """A Native that answers what it was told, in order, and keeps what it was asked."""

    first_byte_s = 1.0

    def __init__(self, *answers: str | Message | Exception, finish: str = "stop") -> None:
        self.answers, self.finish = list(answers), finish
        self.takes_s = 0.001
        self.asked: list[dict[str, Any]] = []
        self.degraded: dict[str, Word] = {"temperature": "clamped"}
        self.under_way = self.most = 0

    async def whole(self, fields: Fields) -> Whole:
        self.asked.append({name: json.loads(raw) for name, raw in fields.items()})
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        said = self.answers[(len(self.asked) - 1) % len(self.answers)]
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.under_way -= 1
        if isinstance(said, Exception):
            raise said
        message = said if isinstance(said, Message) else Message(content=said)
        choice = Choice(message=message, finish_reason="tool_calls" if message.tool_calls else self.finish)
        return Whole(Completion("x", 1, "m", [choice], tokens(10, 2, 4)), {"x-from": "cloud"})

    async def stream(self, fields: Fields, chunks: Chunks) -> tuple[Response, Translator]:
        raise AssertionError("was asked for a stream")


async def ask(cloud: Cloud, *features: str, at: Deployment | None = None, **fields: Any) -> tuple[dict[str, Any], Any]:
    """The body of a plain answer (or the events of a streamed one) and the reply."""
    made, where = call(**fields), at or deployment(*features)
    reply = await answer(made, where, plan(made, where, OFFERS), cloud, IDENTITY)
    raw = await (reply.chunk() if made.stream else reply.read())
    if made.stream:
        assert reply.headers["content-type"] == "text/event-stream"
        events = [e.removeprefix("data: ") for e in raw.decode().split("\n\n")[:-1]]
        assert events.pop() == "[DONE]"
        assert await reply.chunk() == b""
        return {"chunks": [json.loads(e) for e in events]}, reply
    ChatCompletion.model_validate(json.loads(raw))
    return json.loads(raw), reply


def texts(body: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in body["choices"]]


# ---------------------------------------------------------------------- what is decided
def decided(missing: Any, *features: str, **fields: Any) -> _emulation.Plan:
    made: Call = call(**fields)
    return plan(made, deployment(*features, missing=missing), OFFERS)


def test_nothing_is_done_where_nothing_is_lacking() -> None:
    assert decided("strict", stop=["a"], tools=[WEATHER], n=1, temperature=2, stream=False) == _emulation.Plan()


@pytest.mark.parametrize(
    ("fields", "degraded"),
    [
        ({"tools": [WEATHER], "stream": True}, {"stream": "emulated"}),
        ({"n": 2}, {"n": "emulated"}),
        ({"n": 2, "stream": True}, {"n": "emulated", "stream": "emulated"}),
        ({"response_format": AS_JSON}, {"response_format": "emulated"}),
        ({"response_format": AS_PERSON, "stream": True}, {"response_format": "emulated", "stream": "emulated"}),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, {"parallel_tool_calls": "emulated"}),
        ({"tools": [WEATHER], "parallel_tool_calls": True}, {}),
    ],
)
def test_what_can_be_stood_in_for_is_and_is_said_unless_the_route_is_strict(fields: Any, degraded: Any) -> None:
    assert decided("emulate", **fields).degraded == degraded
    assert decided("lossy", **fields).degraded == degraded
    if degraded:
        with pytest.raises(UpstreamError) as caught:
            decided("strict", **fields)
        assert judge(caught.value).name == "unfit"
        assert caught.value.detail.code == "unsupported_feature"


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"seed": 5}, ["seed"]),
        ({"logprobs": True, "top_logprobs": 2}, ["logprobs", "top_logprobs"]),
        ({"frequency_penalty": 1}, ["frequency_penalty"]),
        ({"presence_penalty": 0.5, "frequency_penalty": 1}, ["presence_penalty", "frequency_penalty"]),
        ({"logit_bias": {"1": 2}}, ["logit_bias"]),
        ({"tools": [WEATHER], "tool_choice": "required"}, ["tool_choice"]),
    ],
)
def test_what_cannot_be_is_refused_or_dropped_where_the_route_is_lossy(fields: Any, dropped: list[str]) -> None:
    """Log probabilities are never made up, a seed is never claimed."""
    assert decided("lossy", **fields).degraded == dict.fromkeys(dropped, "dropped")
    for missing in ("strict", "emulate"):
        with pytest.raises(UpstreamError):
            decided(missing, **fields)


def test_pictures_and_tools_are_never_dropped() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(UpstreamError, match="as asked"):
        decided("lossy", messages=[{"role": "user", "content": [image]}])
    made = call(tools=[WEATHER])
    with pytest.raises(UpstreamError):
        plan(made, deployment(features=frozenset({"chat", "stop"}), missing="lossy"), OFFERS)


def test_an_account_may_say_what_is_stood_in_for() -> None:
    made = call(n=2)
    with pytest.raises(UpstreamError):
        plan(made, deployment(emulates=frozenset({"stream_tools"})), OFFERS)


def test_more_choices_than_are_made_at_once_are_refused() -> None:
    with pytest.raises(UpstreamError) as caught:
        decided("emulate", n=17)
    assert caught.value.detail.param == "n"


# ---------------------------------------------------------------------- how it is done
async def test_a_stream_is_made_of_a_whole_answer_with_calls_in_their_places() -> None:
    functions = [Function("weather", '{"city":"Lima"}'), Function("weather", "{}")]
    calls = [ToolCall(id=f"t{i}", function=f) for i, f in enumerate(functions)]
    body, reply = await ask(Cloud(Message(content="See:", tool_calls=calls)), tools=[WEATHER], stream=True)
    found = [chunk["choices"][0] for chunk in body["chunks"] if chunk["choices"]]
    assert found[0]["delta"]["role"] == "assistant"
    assert "".join(c["delta"].get("content") or "" for c in found) == "See:"
    pieces = [one for c in found for one in c["delta"].get("tool_calls", ())]
    assert [(p["index"], p.get("id")) for p in pieces] == [(0, "t0"), (0, None), (1, "t1"), (1, None)]
    assert pieces[1]["function"]["arguments"] == '{"city":"Lima"}'
    assert found[-1]["finish_reason"] == "tool_calls"
    assert body["chunks"][-1]["usage"]["prompt_tokens"] == 10
    assert reply.degraded == {"stream": "emulated", "temperature": "clamped"}


async def test_choices_are_parallel_calls_whose_usage_is_summed() -> None:
    cloud = Cloud("a", "b", "c")
    body, reply = await ask(cloud, n=3)
    assert sorted(texts(body)) == ["a", "b", "c"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 30
    assert body["usage"]["completion_tokens"] == 6
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 12}
    assert cloud.most == 3
    assert all("n" not in asked for asked in cloud.asked)
    assert reply.degraded["n"] == "emulated"


async def test_one_choice_that_fails_ends_the_others() -> None:
    cloud = Cloud("a", UpstreamError("status", "answered 429", status=429), "c")
    with pytest.raises(UpstreamError, match="answered 429"):
        await ask(cloud, n=3)
    assert cloud.under_way == 0


async def test_a_caller_that_leaves_ends_all_choices() -> None:
    cloud = Cloud("a")
    cloud.takes_s = 60.0
    task = asyncio.create_task(ask(cloud, n=3))
    await eventually(lambda: cloud.under_way == 3, "not all choices began")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cloud.under_way == 0


async def test_only_the_first_call_is_kept_where_one_at_a_time_was_asked_for() -> None:
    calls = [ToolCall(id=f"t{i}", function=Function("weather", "{}")) for i in range(2)]
    body, _ = await ask(Cloud(Message(tool_calls=calls)), tools=[WEATHER], parallel_tool_calls=False)
    assert [c["id"] for c in body["choices"][0]["message"]["tool_calls"]] == ["t0"]


async def test_stop_strings_beyond_the_clouds_are_cut_here() -> None:
    cloud = Cloud("one two three", finish="length")
    body, reply = await ask(cloud, stop=["zzz", "thr"], at=deployment(stop_limit=1))
    assert cloud.asked[0]["stop"] == ["zzz"]
    assert texts(body) == ["one two "]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert reply.degraded["stop"] == "emulated"


# ---------------------------------------------------------------------- JSON
@pytest.mark.parametrize(
    "said",
    [
        '{"age": 3}',
        ' {"age": 3}\n',
        '```json\n{"age": 3}\n```',
        'Sure:\n```\n{"age": 3}\n```\nDone.',
        'It is {"age": 3}.',
    ],
)
async def test_json_is_asked_for_in_words_and_found_in_the_answer(said: str) -> None:
    cloud = Cloud(said)
    body, reply = await ask(cloud, response_format=AS_PERSON)
    assert texts(body) == ['{"age": 3}']
    assert len(cloud.asked) == 1
    assert "response_format" not in cloud.asked[0]
    first, second = cloud.asked[0]["messages"]
    assert first["role"] == "system"
    assert json.dumps(PERSON) in first["content"]
    assert second == {"role": "user", "content": "Hello"}
    assert reply.degraded["response_format"] == "emulated"


async def test_a_broken_answer_is_repaired_once_with_its_reasons_and_usage_is_summed() -> None:
    cloud = Cloud('{"age": "three"}', '{"age": 3}')
    body, _ = await ask(cloud, response_format=AS_PERSON)
    assert texts(body) == ['{"age": 3}']
    assert body["usage"]["prompt_tokens"] == 20
    system, user, wrong, again = cloud.asked[1]["messages"]
    assert (system["role"], user["content"]) == ("system", "Hello")
    assert wrong == {"role": "assistant", "content": '{"age": "three"}'}
    assert 'age: "three" is not of type "integer"' in again["content"]


async def test_an_answer_that_stays_broken_is_the_clouds_failure() -> None:
    cloud = Cloud("I can't.", '{"age": 3, "more": 1}')
    with pytest.raises(UpstreamError) as caught:
        await ask(cloud, response_format=AS_PERSON)
    assert judge(caught.value).retry
    assert len(cloud.asked) == 2


@pytest.mark.parametrize(("said", "good"), [('{"a":[1]}', True), ("[1]", False), ("7", False), ('{"a":', False)])
async def test_json_mode_wants_an_object(said: str, good: bool) -> None:
    cloud = Cloud(said, "{}")
    body, _ = await ask(cloud, response_format=AS_JSON)
    assert texts(body) == [said if good else "{}"]
    assert len(cloud.asked) == (1 if good else 2)


async def test_an_answer_that_was_cut_or_calls_a_tool_is_not_judged() -> None:
    body, _ = await ask(Cloud('{"age": ', finish="length"), response_format=AS_PERSON)
    assert (texts(body), body["choices"][0]["finish_reason"]) == (['{"age": '], "length")
    calls = [ToolCall(id="t", function=Function("weather", "{}"))]
    body, _ = await ask(Cloud(Message(tool_calls=calls)), response_format=AS_PERSON, tools=[WEATHER])
    assert body["choices"][0]["finish_reason"] == "tool_calls"


async def test_json_in_several_choices_and_a_stream() -> None:
    cloud = Cloud('{"age": 1}', '{"age": 2}')
    body, reply = await ask(cloud, response_format=AS_PERSON, n=2, stream=True)
    found = {
        c["index"]: c["delta"]["content"] for x in body["chunks"] for c in x["choices"] if c["delta"].get("content")
    }
    assert sorted(found.values()) == ['{"age": 1}', '{"age": 2}']
    assert sorted(found) == [0, 1]
    assert {"response_format", "n", "stream"} <= set(reply.degraded)


async def test_big_numbers_in_an_answer_stay_as_they_were_written() -> None:
    said = '{"age": 123456789012345678901234567890}'
    assert texts((await ask(Cloud(said), response_format=AS_PERSON))[0]) == [said]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 12},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "#/nowhere"},
        {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}, "$ref": "#/$defs/d0"},
    ],
    ids=["type", "remote", "nowhere", "without end"],
)
async def test_a_schema_that_cannot_be_used_is_the_callers_fault_and_nothing_is_sent(schema: Any) -> None:
    cloud = Cloud("{}")
    with pytest.raises(UpstreamError) as caught:
        await ask(cloud, response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert judge(caught.value).name == "caller_error"
    assert cloud.asked == []


async def test_a_schema_may_speak_of_itself() -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "additionalProperties": False,
    }
    checker = form(json.dumps({"type": "json_schema", "json_schema": {"name": "n", "schema": tree}}).encode())
    good = Choice(message=Message(content='{"left": {"right": {}}}'), finish_reason="stop")
    bad = Choice(message=Message(content='{"left": {"up": {}}}'), finish_reason="stop")
    assert checker.check(Completion("x", 1, "m", [good])) is None
    assert checker.check(Completion("x", 1, "m", [bad])) is not None


def test_a_pattern_with_endless_backtracking_ends() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    checker = form(json.dumps({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}).encode())
    choice = Choice(message=Message(content=json.dumps({"a": "a" * 64 + "!"})), finish_reason="stop")
    assert checker.check(Completion("x", 1, "m", [choice])) is not None


# ---------------------------------------------------------------------- cutting
@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_a_text_is_cut_before_the_first_stop_string_however_it_comes(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    cutter = Cutter(stops)
    shown = "".join(cutter.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + cutter.rest()
    places = [text.find(stop) for stop in stops if stop in text]
    assert cutter.hit == bool(places)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert shown == (text if not ends else text[: len(shown)])
    if ends:
        assert not any(stop in shown for stop in stops)
        assert len(shown) <= min(end for end, _ in ends)
        assert any(text.startswith(stop, len(shown)) for stop in stops)
