"""The log from outside: one line a call, whatever is in it; and JSON or short words, never both."""

import io
import json
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.explain import text
from gateway.ledger.recall import told
from gateway.log import Log
from sandbox.run import Sandbox
from tests import process
from tests.harness import Connection, ask, caller, chat, config, request, route, serving, upstream

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
EVIL = "x\r\n\x1b[31m12:00:00 call id=fake status=200\u2028\u202e"


def written(human: bool, **fields: object) -> str:
    out = io.BytesIO()
    Log(out, human=human, wall=lambda: 0.0).write("call", **fields)
    return out.getvalue().decode()


@settings(deadline=None)
@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans())
def test_any_value_stays_within_one_line_of_json(value: object) -> None:
    line = written(False, code=value)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    json.loads(line)


@settings(deadline=None)
@given(st.text())
def test_any_text_stays_within_one_printable_line(value: str) -> None:
    line = written(True, code=value, status=200)
    assert line.count("\n") == 1
    assert not CONTROLS.search(line)


def test_a_text_cannot_pretend_to_be_another_field() -> None:
    line = written(True, code='a" status=200 id="b', status=400)
    assert re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line) == [
        ("code", '"a\\" status=200 id=\\"b"'),
        ("status", "400"),
    ]


@pytest.mark.parametrize("human", [True, False])
async def test_what_a_cloud_says_cannot_break_out_of_its_line(human: bool) -> None:
    async with Sandbox(port=0, clouds=["openai"]) as box:
        account = {"type": "openai", "url": box.urls["openai"], "api_key": "sk-sandbox"}
        document = {"providers": {"a": account}, "routes": {"r": route({"account": "a", "model": "gpt-4o"})}}
        async with serving(document) as served:
            served.gateway.log.human = human
            body = {"error": {"message": EVIL, "type": EVIL, "code": EVIL * 100, "param": EVIL}}
            box.set("openai", fault={"kind": "status", "status": 400, "body": body})
            answer = await ask(served, chat("r"), x_request_id="real")
            assert answer.status == 400
            await served.at_rest()
            served.gateway.log.flush()
            line = served._log.getvalue().decode()
    assert line.count("\n") == 1
    assert not CONTROLS.search(line)
    assert len(line) < 1000


async def test_what_a_cloud_says_cannot_move_the_terminal_of_who_asks_why() -> None:
    async def odd(connection: Connection) -> None:
        await connection.request()
        head = b"content-type: te\x9b31mxt/\xc2\x85x\r\ncontent-length: 2\r\n\r\nhi"
        await connection.send(b"HTTP/1.1 200 OK\r\n" + head)
        await connection.closed()

    async with upstream(odd) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        assert (await ask(served, chat("r", stream=True))).status == 502
        await served.at_rest()
        served.settled()
        (line,) = served.gateway.decisions.latest(9)
        shown = text(told(line))
        assert "with te?31mxt" in shown
        assert not CONTROLS.search(shown)
        assert not CONTROLS.search(served._log.getvalue().decode())


async def test_every_call_is_one_line_however_it_ended() -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.closed()

    async with Sandbox(port=0, clouds=["groq"]) as box, upstream(silent) as nobody:
        groq = {"type": "groq", "url": box.urls["groq"], "api_key": "gsk_sandbox"}
        routes = {
            "r": route({"account": "groq", "model": "llama-3.1-8b-instant"}),
            "silent": route("nobody"),
            "refused": route("closed"),
        }
        document = config(routes, nobody=nobody.url, closed="http://127.0.0.1:1/v1")
        document["providers"]["groq"] = groq
        document["keys"] = [{"name": "team", "key": "sk-team", "routes": ["r", "silent", "refused"]}]
        key = {"authorization": "Bearer sk-team"}
        async with serving(document) as served:
            await ask(served, chat("r", max_tokens=2), x_request_id="plain", **key)
            await ask(served, chat("r", max_tokens=2, stream=True), x_request_id="stream", **key)
            await ask(served, chat("r"), x_request_id="nokey")
            await ask(served, b"{", x_request_id="nojson", **key)
            await ask(served, chat("nothere"), x_request_id="nomodel", **key)
            await ask(served, chat("refused"), x_request_id="refused", **key)
            box.set("groq", fault={"kind": "close_after_tokens", "after_tokens": 2})
            await ask(served, chat("r", max_tokens=9, stream=True), x_request_id="broken", **key)
            async with caller(served) as client:
                await client.send(request(chat("silent"), x_request_id="left", **key))
                await nobody.asked.wait()
                client.reset()
                await nobody.gone.wait()
            await served.at_rest()
            calls = served.calls()
    assert [(call["id"], call["status"], call["code"]) for call in calls] == [
        ("plain", 200, None),
        ("stream", 200, None),
        ("nokey", 401, "invalid_api_key"),
        ("nojson", 400, "invalid_json"),
        ("nomodel", 404, "model_not_found"),
        ("refused", 502, "upstream_error"),
        ("broken", 200, "stream_incomplete"),
        ("left", 499, "client_gone"),
    ]


NONSENSE = (
    b"\x16\x03\x01\x00\xa5 canary",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"G\x00T /canary HTTP/1.1\r\n\r\n",
)


def test_nothing_but_json_is_said_after_the_screen_even_to_nonsense(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(
        "providers: {a: {type: openai, url: 'http://127.0.0.1:1/v1'}}\n"
        "routes: {r: {deployments: [{account: a, model: m}]}}\n"
    )
    with process.serving(folder=tmp_path) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        for nonsense in NONSENSE:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(nonsense)
                connection.settimeout(10)
                assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert gateway.stop() == 0
        said = gateway.lines[len(gateway.screen.splitlines()) :]
    for line in said:
        json.loads(line)
    assert "canary" not in "".join(said)
