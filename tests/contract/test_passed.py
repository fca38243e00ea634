"""What a cloud of OpenAI's shape lacks, stood in for or left out: through the gateway, at the clouds of the box."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from gateway import sse
from gateway.errors import UpstreamError
from providers._completion import fitted
from providers._passed import Cut, completion
from sandbox.run import Sandbox
from tests.harness import STREAM_HEAD, Answer, Connection, Served, ask, chat, chunk, delta, serving, upstream

GROQ = {"account": "groq", "model": "llama-3.1-8b-instant"}
VERTEX = {"account": "vertex", "model": "meta/llama-3.1-8b-instruct-maas"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
WORDS = {"max_tokens": 12}


class Bed:
    def __init__(self, box: Sandbox, served: Served) -> None:
        self.box, self.served = box, served

    async def say(self, **fields: Any) -> Answer:
        return await ask(self.served, chat(**{**WORDS, **fields}))

    def bodies(self) -> list[dict[str, Any]]:
        """What reached the clouds."""
        return [json.loads(call["body"]) for call in self.box.calls()]


@asynccontextmanager
async def bed(
    *deployments: Any, policies: list[Any] | None = None, missing: str = "emulate", **sections: Any
) -> AsyncIterator[Bed]:
    names = [deployment["account"] for deployment in deployments]
    async with Sandbox(port=0, clouds=names) as box:
        accounts = {name: box.servers[name].cloud.account(box.servers[name].origin()) for name in names}
        chosen = [{"capability": {"missing": missing}}] if policies is None else policies
        route = {"deployments": list(deployments), "policies": chosen}
        async with serving({"providers": accounts, "routes": {"r": route}, **sections}) as served:
            yield Bed(box, served)
            await served.at_rest()


def text_of(answer: Answer) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


# ---------------------------------------------------------------------- several choices
async def test_choices_are_parallel_calls_whose_usage_is_summed() -> None:
    async with bed(GROQ) as on:
        one = (await on.say()).json()["usage"]
        answer = await on.say(n=3)
        assert answer.headers["x-arriero-degraded"] == "n=emulated"
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
        assert answer.json()["usage"]["completion_tokens"] == 3 * one["completion_tokens"]
        assert answer.json()["usage"]["prompt_tokens"] == 3 * one["prompt_tokens"]
        assert ["n" in body for body in on.bodies()] == [False] * 4
        (lane,) = on.served.gateway.fleet.routes["r"].lanes.values()
        assert lane.facts.room.requests_left < 1, "rate-limit headers are still read"


async def test_choices_of_a_stream_come_when_all_are_whole() -> None:
    async with bed(GROQ) as on:
        answer = await on.say(n=2, stream=True, stream_options={"include_usage": True})
        assert answer.headers["x-arriero-degraded"] == "n=emulated,stream=emulated"
        assert answer.done
        assert {choice["index"] for chunk in answer.chunks for choice in chunk["choices"]} == {0, 1}
        assert answer.finishes == ["length", "length"]
        assert answer.chunks[-1]["usage"]["completion_tokens"] == 24
        assert not any(body.get("stream") or "stream_options" in body for body in on.bodies())


async def test_more_choices_than_are_sensible_are_refused() -> None:
    async with bed(GROQ) as on:
        answer = await on.say(n=17)
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "n", "unsupported_feature")
        assert on.bodies() == []


async def test_who_cannot_take_it_is_passed_over_without_a_word_against_it() -> None:
    only_one = {"max": 1, "retry_budget": 0, "retry_floor_per_s": 0}
    async with bed(GROQ, {"account": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct"}, attempts=only_one) as on:
        answer = await on.say(n=17)
        assert answer.headers["x-arriero-deployment"] == "vllm"
        lanes = on.served.gateway.fleet.routes["r"].lanes
        assert lanes["groq"].facts.failures == 0
        kept = on.served.decisions()[0]
        assert [(a.deployment, a.outcome) for a in kept.attempts] == [("groq", "unfit"), ("vllm", "ok")]
        assert {"policy": "capability", "note": "n emulated at groq"} in kept.notes


async def test_what_nobody_offers_is_refused_in_the_name_of_all() -> None:
    body = {"model": "r", "input": "x"}
    async with bed(GROQ, {"account": "groq", "model": "llama-3.1-8b-instant", "name": "second"}, policies=[]) as on:
        answer = await ask(on.served, json.dumps(body).encode(), "/v1/embeddings")
        assert (answer.status, answer.error["code"]) == (400, "unsupported_feature")
        assert "by groq;" in answer.error["message"]
        assert "by second;" in answer.error["message"]


# ---------------------------------------------------------------------- stop strings
@pytest.mark.parametrize("stream", [False, True])
async def test_a_fifth_stop_string_is_watched_for_here(stream: bool) -> None:
    async with bed(GROQ) as on:
        whole = text_of(await on.say())
        stop = whole.split()[5]
        stops = ["@1", "@2", "@3", "@4", stop]
        options = {"stream_options": {"include_usage": True}} if stream else {}
        answer = await on.say(stop=stops, stream=stream, **options)
        assert answer.headers["x-arriero-degraded"] == "stop=emulated"
        assert on.bodies()[1]["stop"] == stops[:4]
        cut = whole[: whole.index(stop)]
        if stream:
            assert on.bodies()[1]["stream"] is True
            assert "".join(answer.deltas) == cut
            assert answer.finishes == ["stop"]
            assert answer.done
            assert answer.chunks[-1]["usage"]["completion_tokens"] == 12, "what was made is what is billed"
        else:
            assert text_of(answer) == cut
            assert answer.json()["choices"][0]["finish_reason"] == "stop"


def events(*pieces: str) -> bytes:
    return b"".join([*(delta(piece) for piece in pieces), delta(None, "length"), sse.DONE])


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
@pytest.mark.parametrize(
    ("pieces", "text", "finish"),
    [
        (("one ", "two ", "three"), "one ", "stop"),
        (("one t", "w", "o three"), "one ", "stop"),
        (("one t", "w"), "one tw", "length"),
        (("é🦙t", "wx"), "é🦙twx", "length"),
    ],
)
def test_a_stream_is_cut_however_it_comes(pieces: tuple[str, ...], text: str, finish: str, size: int) -> None:
    cut, data = Cut(["two"]), events(*pieces)
    out = b"".join(cut.feed(data[at : at + size]) for at in range(0, len(data), size)) + cut.end()
    assert out.endswith(sse.DONE)
    chunks = [json.loads(sse.payload(event)) for event in sse.events(out) if event != sse.DONE]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == text
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [finish]


def test_what_is_no_chunk_passes_a_cut_stream_as_it_is() -> None:
    error = b'data: {"error":{"message":"x"}}\n\n'
    assert Cut(["two"]).feed(b": hello\n\n" + error) == b": hello\n\n" + error


# ---------------------------------------------------------------------- log probabilities
GPT = {"account": "openai", "model": "gpt-4o"}
RANKED = {"logprobs": True, "top_logprobs": 2}


def tokens_of(choice: Any) -> str:
    return "".join(token["token"] for token in choice["logprobs"]["content"])


async def test_log_probabilities_come_through_what_is_stood_in_for() -> None:
    async with bed({**GPT, "features": ["-n"]}) as on:
        answer = await on.say(n=2, **RANKED)
        assert answer.headers["x-arriero-degraded"] == "n=emulated"
        for choice in answer.json()["choices"]:
            assert tokens_of(choice) == choice["message"]["content"]
        streamed = await on.say(n=2, stream=True, **RANKED)
        for index in (0, 1):
            found = [c for chunk in streamed.chunks for c in chunk["choices"] if c["index"] == index]
            text = "".join(c["delta"].get("content") or "" for c in found)
            assert text == "".join(tokens_of(c) for c in found if c["logprobs"])


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_end_where_the_text_is_cut(stream: bool) -> None:
    async with bed(GPT) as on:
        stop = " " + text_of(await on.say()).split()[5]
        answer = await on.say(stop=["@1", "@2", "@3", "@4", stop], stream=stream, **RANKED)
        assert answer.headers["x-arriero-degraded"] == "stop=emulated"
        if stream:
            told = "".join(tokens_of(c) for chunk in answer.chunks for c in chunk["choices"] if c.get("logprobs"))
            assert told == "".join(answer.deltas)
        else:
            assert tokens_of(answer.json()["choices"][0]) == text_of(answer)


def ranked(*tokens: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({"content": [{"token": token, "logprob": -0.5} for token in tokens]}))


@pytest.mark.parametrize(
    ("found", "whole", "shown", "left"),
    [
        (ranked("Sure: ", '{"a"', ":1}", "!"), 'Sure: {"a":1}!', '{"a":1}', ['{"a"', ":1}"]),
        (ranked("ab", "cd"), "abcd", "abc", ["ab"]),
        (ranked("ab", "cd"), "abcd", "", []),
        (ranked("ab"), "abcd", "ab", None),  # not of this text: nothing is made up
        (msgspec.Raw(b"null"), "ab", "a", None),
        (msgspec.Raw(b'{"tokens":["a"]}'), "ab", "a", None),
    ],
)
def test_log_probabilities_are_of_what_is_shown_or_none(
    found: msgspec.Raw, whole: str, shown: str, left: list[str] | None
) -> None:
    kept = json.loads(bytes(fitted(found, whole, shown)))
    assert (kept and [token["token"] for token in kept["content"]]) == left


# ---------------------------------------------------------------------- JSON
async def test_a_schema_is_asked_for_in_words_and_checked() -> None:
    async with bed(VERTEX) as on:
        answer = await on.say(response_format=AS_SCHEMA, max_tokens=100)
        assert answer.headers["x-arriero-degraded"] == "response_format=emulated"
        assert isinstance(json.loads(text_of(answer))["name"], str)
        assert "response_format" not in on.bodies()[0]
        assert '"required":["name"]' in on.bodies()[0]["messages"][0]["content"].replace(" ", "")


# ---------------------------------------------------------------------- dropped
async def test_a_dropped_parameter_leaves_a_stream_a_stream() -> None:
    async with bed(VERTEX, missing="lossy") as on:
        answer = await on.say(seed=7, logprobs=True, top_logprobs=2, stream=True)
        assert answer.headers["x-arriero-degraded"] == "logprobs=dropped,top_logprobs=dropped,seed=dropped"
        assert answer.done
        assert not {"seed", "logprobs", "top_logprobs"} & on.bodies()[0].keys()
        assert on.bodies()[0]["stream"] is True
        assert answer.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert not any(choice.get("logprobs") for chunk in answer.chunks for choice in chunk["choices"])


@pytest.mark.parametrize("missing", ["strict", "emulate"])
async def test_log_probabilities_are_never_made_up(missing: str) -> None:
    async with bed(VERTEX, missing=missing) as on:
        answer = await on.say(logprobs=True)
        assert (answer.status, answer.error["param"]) == (400, "logprobs")
        assert on.bodies() == []


# ---------------------------------------------------------------------- answers of another shape
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty"),
        (b"<html>", "not_json"),
        (b'{"error":{"message":"x"}}', "error_body"),
        (b'{"choices":[]}', "empty"),
        (b'{"choices":[{"message":{"content":7}}]}', "shape"),
    ],
)
def test_an_answer_that_is_none_is_the_clouds_fault(body: bytes, kind: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        completion(body, "application/json")
    assert caught.value.kind == kind


def test_no_tool_calls_in_any_way_to_say_so_are_none() -> None:
    for said in (b"[]", b"null"):
        found = completion(b'{"choices":[{"message":{"content":"x","tool_calls":%b}}]}' % said, "application/json")
        assert found.choices[0].message.tool_calls is msgspec.UNSET


# ---------------------------------------------------------------------- usage that nobody tells
@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_that_a_cloud_does_not_tell_is_estimated_in_a_stream_and_marked(wanted: bool) -> None:
    async def silent_of_usage(conn: Connection) -> None:
        while await conn.request():
            await conn.send(STREAM_HEAD + chunk(events("one ", "two ")) + chunk(b""))

    async with upstream(silent_of_usage) as cloud:
        account = {"type": "openai", "url": cloud.url, "api_key": "k"}
        route = {"deployments": [{"account": "a", "model": "m"}], "policies": []}
        async with serving({"providers": {"a": account}, "routes": {"r": route}}) as served:
            answer = await ask(served, chat(stream=True, stream_options={"include_usage": wanted}))
            assert answer.done
            told = [found for found in answer.chunks if found.get("usage")]
            if wanted:
                assert told == [answer.chunks[-1]]
                assert told[0]["choices"] == []
                assert (told[0]["id"], told[0]["model"]) == (answer.chunks[0]["id"], "r")
                usage = told[0]["usage"]
                assert usage["estimated"] is True
                assert usage["completion_tokens"] in (2, 3), "by events, of which the last holds no text"
                assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            else:
                assert told == []
            assert served.decisions()[0].attempts[0].cost_estimated


# ---------------------------------------------------------------------- an error in a 200
@pytest.mark.parametrize("stream", [False, True])
async def test_a_rate_limit_told_in_a_200_is_one_also_where_something_is_stood_in_for(stream: bool) -> None:
    async def refused(connection: Connection) -> None:
        while await connection.request():
            body = b'{"error":{"message":"slow down","code":429}}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            await connection.send(head + body)

    async with upstream(refused) as cloud:
        lacking = {"account": "a", "model": "m", "features": ["chat", "stream"]}
        route = {"deployments": [lacking], "policies": [{"capability": {"missing": "emulate"}}]}
        document = {"providers": {"a": {"type": "openai", "url": f"{cloud.url}/v1"}}, "routes": {"r": route}}
        async with serving(document) as served:
            answer = await ask(served, chat(n=2, stream=stream))
            assert answer.status == 429
            assert [a.outcome for a in served.decisions()[0].attempts] == ["rate_limited"]


# ---------------------------------------------------------------------- who knows better than the catalogue
@pytest.mark.parametrize("policies", [[], None, [{"capability": {"missing": "emulate"}}]])
@pytest.mark.parametrize("features", [None, ["+tools"]])
async def test_features_of_the_config_overrule_the_catalogue_with_and_without_the_policy(
    policies: list[Any] | None, features: list[str] | None
) -> None:
    deployment = {**VERTEX, "features": features} if features else VERTEX
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        accounts = {"vertex": box.servers["vertex"].cloud.account(box.servers["vertex"].origin())}
        route = {"deployments": [deployment], **({} if policies is None else {"policies": policies})}
        async with serving({"providers": accounts, "routes": {"r": route}}) as served:
            answer = await ask(served, chat(tools=[{"type": "function", "function": {"name": "f"}}]))
            if features:
                assert answer.status == 200
                assert json.loads(box.calls()[0]["body"])["tools"] == [{"type": "function", "function": {"name": "f"}}]
            else:
                assert (answer.status, answer.error["code"], box.calls()) == (400, "unsupported_feature", [])
            if features is None and policies == []:
                assert answer.error["message"] == (
                    "'tools' is not offered by vertex; if it is there, the config says so: features: [+tools]."
                )
