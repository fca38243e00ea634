"""Bodies both ways: what the gateway need not change arrives byte for byte, and `model` is what it should be."""

import json
from typing import Any

import pytest

from tests.failures.stage import DONE, GOOD, answering, stage, streaming
from tests.harness import Connection, answer_bytes, caller, chat, delta, json_answer

MESSAGES = b'"messages":[{"role":"user","content":"x"}]'
REQUESTS = [  # the value of `model` stands at the @
    (b'"r"', b'{"model":@,%b,"seed":9007199254740993}' % MESSAGES),
    (
        b'"r"',
        b'{ "z" : 1 ,\n\t"model" : @ ,  "a": null, "messages":[ {"role":"user" , "content" : "x"} ] , "m": {} }  ',
    ),
    (b'"r"', b'{"messages":[{"content":"\\u00e9\\/\\ud83d\\ude00\\n","role":"user"}],"model":@}'),
    (b'"r"', '{"messages":[{"role":"user","content":"Grüße 😀 \u2028 \u0080"}],"model":@,"ключ":"é"}'.encode()),
    (b'"r"', b'{"model":@,%b,"big":1e400,"exact":0.1000000000000000055511151231257827,"neg":-0.0}' % MESSAGES),
    (b'"r"', b'{"model":@,"messages":[{"role":"user","content":"the \\"model\\":\\"r\\" is r"}],"x":{"model":"r"}}'),
    (b'"r"', b'{"x":{"model":"r","model":"q"},%b,"model":@}' % MESSAGES),
    (b'"r"', b'{"mode\\u006c":@,%b}' % MESSAGES),
    (b'"\\u0072"', b'{"model":@,%b}' % MESSAGES),
    (b'"r"', b'{"model":@,%b,"digits":%b}' % (MESSAGES, b"7" * 5000)),
    (b'"r"', b'{"model":@,"messages":[{"role":"user","content":"%b"}],"tail":[]}' % (b"x" * 2_000_000)),
    (b'"r"', b'{"model":@,%b,"deep":%b}' % (MESSAGES, b"[" * 400 + b"]" * 400)),
]


async def test_a_request_arrives_byte_for_byte_but_for_its_model() -> None:
    async with stage(answering()) as on:
        for model, body in REQUESTS:
            assert (await on.ask(body.replace(b"@", model))).status == 200, body[:200]
        assert on.clouds[0].bodies() == [body.replace(b"@", b'"m"') for _, body in REQUESTS]


async def test_a_streamed_request_gains_its_stream_options_and_nothing_else() -> None:
    bodies = [(model, body.replace(b"{", b'{"stream":true,', 1)) for model, body in REQUESTS]
    async with stage(GOOD) as on:
        for model, body in bodies:
            assert (await on.ask(body.replace(b"@", model))).done
        added = b'"stream_options":{"include_usage":true},'
        for (_, body), got in zip(bodies, on.clouds[0].bodies(), strict=True):
            assert got.count(added) == 1
            assert got.replace(added, b"") == body.replace(b"@", b'"m"')


async def test_every_name_of_a_route_is_rewritten_and_comes_back_as_it_was_asked() -> None:
    names = ["r", "gpt-4o", "meta-llama/Llama-3.1-8B-Instruct", "a:b@c+d~e"]
    async with stage(answering(), route_fields={"aliases": names[1:]}) as on:
        for name in names:
            answer = await on.ask(chat(name))
            assert answer.json()["model"] == name
        assert {json.loads(body)["model"] for body in on.clouds[0].bodies()} == {"m"}


async def test_an_adapter_goes_in_the_place_of_the_model() -> None:
    deployments = [{"account": "a", "model": "m", "adapter": 'my "lora"'}]
    async with stage(answering(), route_fields={"deployments": deployments}) as on:
        assert (await on.ask()).status == 200
        assert json.loads(on.clouds[0].bodies()[0])["model"] == 'my "lora"'


CHOICES = b'"choices":[{"index":0,"message":{"role":"assistant","content":"x"}}]'
ANSWERS = [  # the value of `model` stands at the @
    (b'"m"', b'{"id":"1","model":@,%b,"big":9007199254740993}' % CHOICES),
    (b'"m"', b'{ "choices" : [ {"index":0, "message":{"content":"x","z":1e400}} ],\n "model" :  @ , "x":null}\n'),
    (
        b'"m"',
        b'{"choices":[{"message":{"content":"the \\"model\\":\\"m\\" is m"}}],"x":{"model":"m"},"model":@,"y":[{}]}',
    ),
    (b'"m"', b'{"x":{"model":"m"},"choices":[{"message":{"content":"\\u00e9\\/\\ud83d\\ude00"}}],"model":@}'),
    (b'"m"', b'{"mode\\u006c":@,%b}' % CHOICES),
    (b'"\\u006d"', b'{"model":@,%b}' % CHOICES),
    (b"null", b'{"model":@,%b}' % CHOICES),
    (b'"r"', b'{"model":@,%b}' % CHOICES),
    (b'"m"', b'{"model":@,%b,"digits":%b}' % (CHOICES, b"7" * 5000)),
    (b'"m"', '{"model":@,"choices":[{"message":{"content":"Grüße \u2028 😀"}}],"ключ":null}'.encode()),
    (b'"m"', b'{"model":@,"choices":[{"message":{"content":"%b"}}]}' % (b"x" * 3_000_000)),
]


async def test_an_answer_comes_back_byte_for_byte_but_for_its_model() -> None:
    answers = [json_answer(body.replace(b"@", model)) for model, body in ANSWERS]
    async with stage(answering(*answers)) as on:
        for _, body in ANSWERS:
            answer = await on.ask()
            assert (answer.status, answer.body) == (200, body.replace(b"@", b'"r"'))


async def test_an_answer_without_a_model_gets_one_and_loses_nothing() -> None:
    body = b'{"choices":[{"message":{"content":"x"}}], "x" : 1}'
    async with stage(answering(json_answer(body))) as on:
        answer = await on.ask()
        assert answer.json()["model"] == "r"
        assert answer.body.replace(b'"model":"r",', b"") == body


async def test_an_answer_in_chunks_without_a_length_comes_back_whole() -> None:
    body = ANSWERS[0][1].replace(b"@", b'"m"')
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = b"".join(b"1\r\n%b\r\n" % body[at : at + 1] for at in range(len(body)))
    async with stage(answering(head + pieces + b"0\r\n\r\n")) as on:
        answer = await on.ask()
        assert answer.body == ANSWERS[0][1].replace(b"@", b'"r"')


async def test_events_come_back_byte_for_byte_but_for_their_model() -> None:
    events = [
        delta("a"),
        delta("b", system_fingerprint=None, service_tier="é", x=2**64),
        b'data: {"model":"m","choices":[{"delta":{"content":"\\u00e9\\/"}}],"f":1e400,"g":-0.0,"h":0.10}\n\n',
        b'data: {"choices" : [{"index": 0, "delta":{"content": "\xc3\xa9"}}], "big":9007199254740993,"model":"m" }\n\n',
        b'data: {"z":null,"model":"m","x":{"model":"m"},"a":1,"choices":[{"delta":{"content":"c"}}],"z2":[]}\n\n',
        delta(None, "stop"),
    ]
    expected = b"".join(events).replace(b'"x":{"model":"m"}', b"@").replace(b'"model":"m"', b'"model":"r"')
    for pieces in (events, [b"".join(events)]):
        async with stage(streaming(*pieces, DONE)) as on:
            answer = await on.stream()
            assert answer.body == expected.replace(b"@", b'"x":{"model":"m"}') + DONE


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"r","model":"r","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"r","messages":[{"role":"user","content":"x"}],"mod\\u0065l":"q"}',
        b'{"model":"r","messages":[],"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"r","messages":[{"role":"user","content":"x"}],"x":1,"x":1}',
    ],
)
async def test_a_field_that_stands_twice_is_refused(body: bytes) -> None:
    async with stage(answering()) as on:
        answer = await on.ask(body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")
        assert "stands twice" in answer.error["message"]
        assert on.asked() == [0]


async def test_embeddings_and_completions_go_to_their_own_paths_and_come_back() -> None:
    vector = {
        "object": "list",
        "data": [{"index": 0, "embedding": [0.1, 1e-9]}],
        "model": "m",
        "usage": {"prompt_tokens": 2},
    }
    text = {"object": "text_completion", "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "model": "m"}
    features = ["embeddings", "completions", "chat", "stream"]
    deployments = [{"account": "a", "model": "m", "features": features}]
    bodies: list[tuple[str, Any, Any]] = [
        ("embeddings", {"model": "r", "input": ["a", "b"], "encoding_format": None}, vector),
        ("completions", {"model": "r", "prompt": [1, 2, 2**31], "echo": False}, text),
    ]
    async with stage(
        answering(json_answer(vector), json_answer(text)), route_fields={"deployments": deployments}
    ) as on:
        for path, body, back in bodies:
            answer = await on.ask(json.dumps(body).encode(), f"/v1/{path}")
            assert answer.json() == {**back, "model": "r"}
            assert on.clouds[0].requests[-1].startswith(f"POST /v1/{path} HTTP/1.1\r\n".encode())
            assert json.loads(on.clouds[0].bodies()[-1]) == {**body, "model": "m"}


async def test_calls_on_one_connection_each_get_their_own_answer() -> None:
    deployments = [{"account": "a", "model": "m"}]
    more = {"q": {"deployments": deployments, "policies": []}}
    bodies = [chat(model, user=f"u{n}") for n, model in enumerate(["r", "q", "r", "r", "q"])]

    async def echoing(connection: Connection) -> None:
        while data := await connection.request():
            user = json.loads(data.partition(b"\r\n\r\n")[2])["user"]
            await connection.send(answer_bytes(user))

    async with stage(echoing, more_routes=more) as on, caller(on.served) as client:
        for body in bodies:
            await client.send(on.request(body))
        for n, body in enumerate(bodies):  # sent all at once, answered in order
            answer = (await client.answer()).json()
            assert (answer["model"], answer["choices"][0]["message"]["content"]) == (json.loads(body)["model"], f"u{n}")
