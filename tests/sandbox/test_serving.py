"""Connections, time, the record, and the control port."""

import asyncio
import contextlib
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
import yaml

import sandbox
from sandbox.behaviour import Behaviour
from sandbox.cloud import clouds
from sandbox.run import Sandbox
from tests.sandbox.wire import OPENAI_SHAPED, PATIENCE_S, Seen, call, connect, read_answer, request_bytes

FIRST_TOKEN = b'"content":"k'


async def control(box: Sandbox, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with httpx.AsyncClient(base_url=box.control_url) as client:
        content = body if isinstance(body, bytes | None) else json.dumps(body)
        seen = await client.request(method, path, content=content)
        return seen.status_code, seen.json()


# ---------------------------------------------------------------------- connections
async def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(box: Sandbox) -> None:
    reader, writer = await connect(box, "groq")
    writer.write(request_bytes(box, "groq", {"max_tokens": 3}) + request_bytes(box, "groq", {"max_tokens": 5}))
    first = await reader.readuntil(b"\r\n\r\n")
    length = int(Seen(first, "open").headers["content-length"])
    one = json.loads(await reader.readexactly(length))
    two = (await read_answer(reader)).json()
    assert [one["usage"]["completion_tokens"], two["usage"]["completion_tokens"]] == [3, 5]
    writer.close()
    assert len({record["connection"] for record in box.calls()}) == 1


async def test_a_body_in_pieces_and_chunks_and_expect_100_are_understood(box: Sandbox) -> None:
    raw = request_bytes(box, "vllm", {})
    reader, writer = await connect(box, "vllm")
    for place in range(0, len(raw), 7):
        writer.write(raw[place : place + 7])
        await asyncio.sleep(0)
    assert (await read_answer(reader)).status == 200
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    chunked = b"\r\n".join([*lines, b"transfer-encoding: chunked", b"expect: 100-continue"]) + b"\r\n\r\n"
    writer.write(chunked)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_idle_connections_are_closed_after_keep_alive(box: Sandbox) -> None:
    assert clouds()["vllm"].keep_alive_s == 5.0
    box.set("vllm", keep_alive_s=0.1)
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {}))
    assert (await read_answer(reader)).status == 200
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.read() == b""
    writer.close()


async def test_connection_close_is_honoured(box: Sandbox) -> None:
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {}, {"connection": "close"}))
    seen = Seen(await reader.read(), "fin")
    assert (seen.headers["connection"], seen.status) == ("close", 200)
    writer.close()


async def test_what_is_no_http_is_refused(box: Sandbox) -> None:
    reader, writer = await connect(box, "vllm")
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
    assert Seen(await reader.read(), "fin").status == 400
    writer.close()


# ---------------------------------------------------------------------- the record
async def test_the_record_has_everything_but_the_key(box: Sandbox) -> None:
    await call(box, "groq", {"x-mine": "1"}, stream=True)
    (record,) = box.calls("groq")
    assert json.loads(record["body"])["stream"] is True
    assert record["headers"]["x-mine"] == "1"
    assert record["headers"]["authorization"].startswith("sha256:")
    assert "gsk_sandbox" not in json.dumps(record)
    facts = {name: record[name] for name in ("cloud", "model", "stream", "credential", "status", "ended", "fault")}
    assert facts == {
        "cloud": "groq", "model": "llama-3.1-8b-instant", "stream": True, "credential": "ok", "status": 200,
        "ended": "done", "fault": "",
    }  # fmt: skip
    assert record["sent_tokens"] == record["answer_tokens"] == 12
    assert record["began"] <= record["first_byte"] <= record["finished"]


async def test_a_client_that_leaves_is_seen_at_once(box: Sandbox) -> None:
    box.set("vllm", ttft_s=0.0, tpot_s=30.0)
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {"stream": True}))
    await reader.readuntil(FIRST_TOKEN)
    left = time.monotonic()
    writer.close()
    record = (await box.until(lambda calls: bool(calls[-1]["closed"] and calls[-1]["finished"])))[-1]
    assert (record["ended"], record["sent_tokens"]) == ("client_closed", 1)
    assert record["closed"] >= left - 0.001
    assert box.servers["vllm"].site.running == 0


async def test_a_client_that_half_closes_counts_as_gone(box: Sandbox) -> None:
    box.set("vllm", ttft_s=30.0)
    _, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {}))
    writer.write_eof()
    assert (await box.until(lambda calls: bool(calls and calls[-1]["ended"])))[-1]["ended"] == "client_closed"
    writer.close()


# ---------------------------------------------------------------------- time
async def test_the_first_token_and_the_next_ones_take_their_time(box: Sandbox) -> None:
    box.set("vllm", ttft_s=0.08, tpot_s=0.02)
    began = time.monotonic()
    plain = await call(box, "vllm", max_tokens=6)
    assert plain.status == 200
    assert time.monotonic() - began >= 0.08 + 5 * 0.02 - 0.005
    began = time.monotonic()
    assert (await call(box, "vllm", max_tokens=6, stream=True)).done
    assert time.monotonic() - began >= 0.08 + 5 * 0.02 - 0.005


async def test_vllm_sends_its_headers_before_the_first_token_and_groq_does_not(box: Sandbox) -> None:
    for cloud, early in (("vllm", True), ("groq", False)):
        box.set(cloud, ttft_s=30.0)
        reader, writer = await connect(box, cloud)
        writer.write(request_bytes(box, cloud, {"stream": True}))
        if early:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
        writer.close()


async def test_a_model_may_have_a_pace_of_its_own_and_jitter_is_repeatable(box: Sandbox) -> None:
    slow = "meta-llama/Llama-3.1-70B-Instruct"
    box.set("vllm", jitter=0.5, models={slow: {"ttft_s": 0.1, "jitter": 0.0}})
    behaviour = box.servers["vllm"].site.behaviour
    assert behaviour.at(slow) == (0.1, 0.0, 0.0)
    assert behaviour.at("another") == (0.0, 0.0, 0.5)


# ---------------------------------------------------------------------- many at a time
def room_for_files(wanted: int) -> None:
    """Raises this process's soft limit of open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def test_five_hundred_streams_at_a_time(box: Sandbox) -> None:
    async def begun() -> asyncio.StreamWriter:
        reader, writer = await connect(box, "vllm")
        writer.write(request_bytes(box, "vllm", {"stream": True}))
        await reader.readuntil(FIRST_TOKEN)
        return writer

    room_for_files(4096)
    box.set("vllm", fault={"kind": "stall"})
    writers = await asyncio.gather(*(begun() for _ in range(500)))
    assert box.servers["vllm"].site.running == 500
    for writer in writers:
        writer.close()
    await box.until(lambda calls: all(record["closed"] and record["finished"] for record in calls))
    assert box.servers["vllm"].site.running == 0
    box.reset()
    box.set("vllm", tpot_s=0.01)
    seen = await asyncio.gather(*(call(box, "vllm", stream=True, max_tokens=10) for _ in range(500)))
    assert {s.done for s in seen} == {True}
    assert len({s.text() for s in seen}) == 1
    assert {record["sent_tokens"] for record in box.calls("vllm")} == {10}


async def test_a_slow_reader_holds_its_own_stream_only(box: Sandbox) -> None:
    reader, writer = await connect(box, "vllm")
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(request_bytes(box, "vllm", {"stream": True, "max_tokens": 60_000}))
    await reader.readuntil(b"w0001")
    assert (await call(box, "vllm")).status == 200
    sent = box.calls()[0]["sent_tokens"]
    assert 0 < sent < 60_000
    writer.transport.abort()


# ---------------------------------------------------------------------- the control port
async def test_control_sets_shows_and_resets(box: Sandbox) -> None:
    fault = {"kind": "status", "status": 429, "headers": {"retry-after": "3"}, "share": 1.0, "times": 5}
    status, shown = await control(box, "PUT", "/_sandbox/groq", {"ttft_s": 0.0, "fault": fault})
    assert (status, shown["fault"]["times"], shown["cloud"]) == (200, 5, "groq")
    seen = await call(box, "groq")
    assert (seen.status, seen.headers["retry-after"]) == (429, "3")
    assert (await control(box, "GET", "/_sandbox/groq"))[1]["struck"] == 1
    status, calls = await control(box, "GET", "/_sandbox/calls?cloud=groq&after=0")
    assert (status, len(calls["calls"]), calls["calls"][0]["fault"]) == (200, 1, "status")
    await control(box, "PUT", "/_sandbox/groq", {"fault": None})
    assert (await call(box, "groq")).status == 200
    assert (await control(box, "DELETE", "/_sandbox"))[1]["reset"] == list(box.servers)
    assert (await control(box, "GET", "/_sandbox/calls"))[1]["calls"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/_sandbox/nowhere", {}, 404, "clouds are: vllm, groq"),
        ("PUT", "/_sandbox/groq", {"fault": {"kind": "explode"}}, 400, "kinds are: status"),
        ("PUT", "/_sandbox/groq", {"tftt_s": 1}, 400, "fields are: ttft_s"),
        ("PUT", "/_sandbox/groq", b"{", 400, "JSON object"),
        ("POST", "/_sandbox/groq", {}, 405, "use GET or PUT or DELETE"),
        ("GET", "/_sandbox/calls?after=x", None, 400, "number"),
        ("GET", "/_sandbox/calls?cloud=x", None, 404, "clouds are"),
        ("GET", "/elsewhere", None, 404, "GET /_sandbox"),
    ],
)
async def test_control_says_what_is_wrong(
    box: Sandbox, method: str, path: str, body: Any, status: int, words: str
) -> None:
    seen, value = await control(box, method, path, body)
    assert seen == status
    assert words in value["error"]


async def test_a_refused_change_changes_nothing(box: Sandbox) -> None:
    box.set("groq", ttft_s=0.5)
    with pytest.raises(sandbox.BehaviourError):
        box.set("groq", ttft_s=1.0, fault={"kind": "nothing"})
    assert box.servers["groq"].site.behaviour.ttft_s == 0.5
    box.set("groq", tpot_s=0.1)
    assert box.servers["groq"].site.behaviour.ttft_s == 0.5  # named fields only
    box.set("groq", ttft_s=None)
    assert box.servers["groq"].site.behaviour == Behaviour(tpot_s=0.1)


async def test_the_overview_lists_clouds_and_faults(box: Sandbox) -> None:
    _, seen = await control(box, "GET", "/_sandbox")
    assert seen["clouds"] == dict(box.urls)
    assert "after_tokens" in seen["faults"]["stall"]["takes"]


# ---------------------------------------------------------------------- the box
def test_a_box_in_a_thread_is_governed_from_outside() -> None:
    with sandbox.Sandbox.in_thread(clouds=["groq"]) as box:
        assert list(box.urls) == ["groq"]
        body = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "x"}]}
        headers = {"authorization": "Bearer gsk_sandbox"}
        box.set("groq", fault={"kind": "refuse"})
        with pytest.raises(httpx.ConnectError):
            httpx.post(box.urls["groq"] + "/chat/completions", json=body, headers=headers)
        box.reset()
        assert httpx.post(box.urls["groq"] + "/chat/completions", json=body, headers=headers).status_code == 200
        assert len(box.calls()) == 1


async def started(clouds: list[str]) -> tuple[int, Sandbox]:
    """A box on the first free block of ports below those that the system gives away."""
    for base in range(20_000, 32_000, 20):
        box = Sandbox(port=base, clouds=clouds)
        with contextlib.suppress(OSError):
            await box.__aenter__()
            return base, box
    raise AssertionError("no free ports")


async def test_fixed_ports_are_the_control_port_and_the_ones_after_it() -> None:
    base, box = await started(["vllm", "groq"])
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(box.__aexit__)
        assert box.control_url == f"http://127.0.0.1:{base}"
        assert box.urls == {"vllm": f"http://127.0.0.1:{base + 1}/v1", "groq": f"http://127.0.0.1:{base + 2}/openai/v1"}
        with pytest.raises(OSError, match="in use"):
            async with Sandbox(port=base):
                pass


async def test_an_unknown_cloud_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="clouds are: vllm"):
        async with Sandbox(port=0, clouds=["moon"]):
            pass


def test_every_cloud_has_its_own_port_and_a_demo_credential() -> None:
    found = clouds()
    assert [name for name in found if name in OPENAI_SHAPED] == list(OPENAI_SHAPED)
    assert len({cloud.order for cloud in found.values()}) == len(found)
    assert sandbox.DEMO["groq"] == {"api_key": "gsk_sandbox"}


async def test_the_config_names_every_cloud_at_its_url(box: Sandbox) -> None:
    found = yaml.safe_load(box.config_text())
    assert list(found["providers"]) == list(box.urls)
    for cloud in OPENAI_SHAPED:
        assert found["providers"][cloud]["url"] == box.urls[cloud]
    served = {row["account"] for row in found["routes"]["llama-3.1-8b"]["deployments"]}
    assert served >= set(OPENAI_SHAPED) - {"openai"}
    fixed = yaml.safe_load(sandbox.config_text(9100))
    assert fixed["providers"]["groq"]["url"] == "http://127.0.0.1:9102/openai/v1"
    assert fixed["routes"] == found["routes"]


async def test_every_route_of_the_config_is_answered(box: Sandbox) -> None:
    for route in yaml.safe_load(box.config_text())["routes"].values():
        for row in [row for row in route["deployments"] if row["account"] in OPENAI_SHAPED]:
            assert (await call(box, row["account"], model=row["model"])).status == 200, row


def test_the_command_prints_the_config_and_its_table() -> None:
    config = subprocess.run(
        [sys.executable, "-m", "sandbox", "--print-config", "--port", "9300"], capture_output=True, check=True
    )
    assert yaml.safe_load(config.stdout)["providers"]["vllm"]["url"] == "http://127.0.0.1:9301/v1"
    started = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--cloud", "groq"], stderr=subprocess.PIPE
    )
    assert started.stderr is not None
    table = [started.stderr.readline().split() for _ in range(2)]
    started.send_signal(signal.SIGTERM)
    assert [row[0] for row in table] == [b"control", b"groq"]
    assert started.wait(PATIENCE_S) == 0
    started.stderr.close()
