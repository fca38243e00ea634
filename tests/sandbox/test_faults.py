"""Every fault kind is seen on the bytes, plain and streamed, and the record tells the truth about it."""

import asyncio
import contextlib
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from sandbox.behaviour import FRAMES, KINDS, BehaviourError
from sandbox.run import Sandbox
from tests.sandbox.wire import OPENAI_SHAPED, PATIENCE_S, Seen, call, connect, read_answer, request_bytes

FIRST = {"kind": "reset_before"}


async def whole(box: Sandbox, stream: bool = True) -> Seen:
    """The answer without any fault."""
    box.set("vllm", fault=None)
    return await call(box, "vllm", stream=stream)


async def with_fault(box: Sandbox, stream: bool = True, cloud: str = "vllm", **fault: Any) -> Seen:
    box.set(cloud, fault=fault)
    return await call(box, cloud, stream=stream)


def last(box: Sandbox) -> dict[str, Any]:
    return box.calls()[-1]


async def until_ended(box: Sandbox) -> dict[str, Any]:
    """The last record once the cloud is through with it and the socket is closed."""
    return (await box.until(lambda calls: bool(calls[-1]["ended"] and calls[-1]["closed"])))[-1]


def test_every_kind_has_a_test_here() -> None:
    source = Path(__file__).read_text()
    assert [kind for kind in KINDS if f'kind="{kind}"' not in source and f'"kind": "{kind}"' not in source] == []


# ---------------------------------------------------------------------- instead of an answer
async def test_status_has_the_clouds_own_words_or_those_given(box: Sandbox) -> None:
    seen = await with_fault(box, cloud="groq", kind="status", status=429)
    assert (seen.status, seen.json()["error"]["code"], seen.headers["retry-after"]) == (429, "rate_limit_exceeded", "6")
    own = await with_fault(box, kind="status", status=529, headers={"retry-after": "3"}, body={"busy": True})
    assert (own.status, own.headers["retry-after"], own.json()) == (529, "3", {"busy": True})
    assert (last(box)["ended"], last(box)["fault"], last(box)["status"]) == ("fault", "status", 529)


async def test_refuse_closes_the_port_and_opens_the_same_one_again(box: Sandbox) -> None:
    before = box.origins["vllm"]
    box.set("vllm", fault={"kind": "refuse"})
    with pytest.raises(ConnectionRefusedError):
        await call(box, "vllm")
    box.set("vllm", fault=None)
    assert (await call(box, "vllm")).status == 200
    assert box.origins["vllm"] == before


async def test_refuse_drops_the_connections_that_were_open(box: Sandbox) -> None:
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {}))
    assert (await read_answer(reader)).status == 200
    box.set("vllm", fault={"kind": "refuse"})
    assert await reader.read() == b""
    writer.close()


async def test_blackhole_never_takes_a_connection(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "blackhole"})
    waiting = asyncio.create_task(connect(box, "vllm"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    waiting.cancel()
    box.set("vllm", fault=None)
    assert (await call(box, "vllm")).status == 200


async def test_silent_takes_the_request_and_never_answers(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "silent"})
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {"stream": True}))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    writer.close()
    record = await until_ended(box)
    assert (record["ended"], record["sent_bytes"], record["fault"]) == ("client_closed", 0, "silent")


async def test_silent_for_a_while_answers_after_all(box: Sandbox) -> None:
    seen = await with_fault(box, kind="silent", stall_s=0.01)
    assert (seen.status, seen.done) == (200, True)


@pytest.mark.parametrize("stream", [True, False])
async def test_headers_then_silence(box: Sandbox, stream: bool) -> None:
    box.set("vllm", fault={"kind": "headers_then_silence"})
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {"stream": stream}))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    writer.close()
    assert (await with_fault(box, stream=stream, kind="headers_then_silence", stall_s=0.01)).whole


@pytest.mark.parametrize("at", ["request", "accept"])
async def test_reset_before_is_a_reset_without_a_byte(box: Sandbox, at: str) -> None:
    seen = await with_fault(box, kind="reset_before", at=at)
    assert (seen.end, seen.raw) == ("reset", b"")


@pytest.mark.parametrize("at", ["request", "accept"])
async def test_close_before_is_an_end_without_a_byte(box: Sandbox, at: str) -> None:
    box.set("vllm", fault={"kind": "close_before", "at": at})
    reader, writer = await connect(box, "vllm")
    if at == "request":
        writer.write(request_bytes(box, "vllm", {}))
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_empty_in_three_ways(box: Sandbox, stream: bool) -> None:
    body = await with_fault(box, stream, kind="empty")
    assert (body.status, body.body, body.whole) == (200, b"", True)
    choices = await with_fault(box, stream, kind="empty", variant="choices")
    values = choices.data() if stream else [choices.json()]
    assert values
    assert all(value["choices"] == [] for value in values)
    content = await with_fault(box, stream, kind="empty", variant="content")
    assert content.text() == "" if stream else content.json()["choices"][0]["message"]["content"] == ""
    assert content.whole


async def test_error_body_is_a_200_with_an_error(box: Sandbox) -> None:
    seen = await with_fault(box, stream=False, kind="error_body", status=503)
    assert (seen.status, seen.json()["error"]["code"]) == (200, 503)
    assert (await with_fault(box, cloud="vertex", kind="error_body")).json()[0]["error"]["status"] == "INTERNAL"


async def test_html_is_a_page(box: Sandbox) -> None:
    seen = await with_fault(box, kind="html")
    assert (seen.status, seen.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"Sign in" in seen.body


async def test_redirect_points_at_the_metadata_service(box: Sandbox) -> None:
    seen = await with_fault(box, kind="redirect")
    assert (seen.status, seen.headers["location"][:23]) == (302, "http://169.254.169.254/")
    assert (await with_fault(box, kind="redirect", status=307, location="/x")).headers["location"] == "/x"


# ---------------------------------------------------------------------- in mid answer
@pytest.mark.parametrize("tokens", [1, 5, 12])
async def test_reset_after_tokens_sends_exactly_these(box: Sandbox, tokens: int) -> None:
    text = (await whole(box)).text()
    seen = await with_fault(box, kind="reset_after_tokens", after_tokens=tokens)
    assert (seen.end, seen.whole, seen.done) == ("reset", False, False)
    assert text.startswith(seen.text())
    record = await until_ended(box)
    assert (record["sent_tokens"], record["answer_tokens"], record["ended"]) == (tokens, 12, "fault")
    assert len(seen.data()) == tokens + 1  # and the opening event


@pytest.mark.parametrize("stream", [True, False])
async def test_close_after_tokens_is_a_truncated_answer(box: Sandbox, stream: bool) -> None:
    seen = await with_fault(box, stream, kind="close_after_tokens", after_tokens=3)
    assert (seen.end, seen.whole, seen.done) == ("fin", False, False)
    assert seen.body
    if stream:
        assert last(box)["sent_tokens"] == 3


async def test_close_after_finish_has_the_reason_and_no_done(box: Sandbox) -> None:
    seen = await with_fault(box, kind="close_after_tokens", after_finish=True)
    assert (seen.finish(), seen.done, seen.whole, seen.end) == ("length", False, False, "fin")


async def test_stall_after_tokens_then_nothing(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "stall", "after_tokens": 4})
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {"stream": True}))
    came = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            while more := await reader.read(65536):
                came += more
            pytest.fail("the connection was closed")
    assert last(box)["sent_tokens"] == 4
    assert Seen(came, "open").finish() is None
    writer.close()
    assert (await until_ended(box))["ended"] == "client_closed"


@pytest.mark.parametrize("stream", [True, False])
async def test_stall_for_a_while_loses_nothing(box: Sandbox, stream: bool) -> None:
    text = (await whole(box)).text()
    seen = await with_fault(box, stream, kind="stall", after_tokens=4, stall_s=0.01)
    assert seen.whole
    assert (seen.text() if stream else seen.json()["choices"][0]["message"]["content"]) == text


async def test_comments_only_keeps_talking_without_data(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "comments_only", "every_s": 0.005, "after_tokens": 2})
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {"stream": True}))
    came = b""
    async with asyncio.timeout(PATIENCE_S):
        while came.count(b": x\n\n") < 5:
            came += await reader.read(65536)
    seen = Seen(came, "open")
    assert len(seen.text().split()) == 2
    assert not seen.done
    writer.close()


@pytest.mark.parametrize(("tokens", "done"), [(0, True), (3, False)])
async def test_error_event_first_or_in_mid_answer(box: Sandbox, tokens: int, done: bool) -> None:
    seen = await with_fault(box, kind="error_event", after_tokens=tokens, status=503, done=done)
    assert (seen.status, seen.whole, seen.done) == (200, True, done)
    assert [("error" in value) for value in seen.data()] == [False] * (tokens + 1 if tokens else 0) + [True]
    assert seen.finish() is None


async def test_error_event_in_each_clouds_words(box: Sandbox) -> None:
    for cloud in OPENAI_SHAPED:
        seen = await with_fault(box, cloud=cloud, kind="error_event")
        assert seen.data() == [box.servers[cloud].cloud.failure(500).body], cloud
        assert seen.done == (cloud == "vllm"), cloud


@pytest.mark.parametrize("stream", [True, False])
async def test_bad_json_does_not_parse(box: Sandbox, stream: bool) -> None:
    seen = await with_fault(box, stream, kind="bad_json", after_tokens=2)
    assert seen.whole
    with pytest.raises(json.JSONDecodeError):
        seen.data() if stream else seen.json()


async def test_bad_chunk_has_a_size_that_is_no_number(box: Sandbox) -> None:
    for stream in (True, False):
        seen = await with_fault(box, stream, kind="bad_chunk")
        assert b"zz\r\n" in seen.rest
        assert (seen.whole, seen.end) == (False, "fin")


@pytest.mark.parametrize("stream", [True, False])
async def test_short_body_promises_more_than_comes(box: Sandbox, stream: bool) -> None:
    seen = await with_fault(box, stream, kind="short_body")
    assert (seen.whole, seen.end) == (False, "fin")
    if not stream:
        assert int(seen.headers["content-length"]) > len(seen.rest)


async def test_long_body_sends_more_than_promised(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "long_body"})
    reader, writer = await connect(box, "vllm")
    writer.write(request_bytes(box, "vllm", {}))
    seen = Seen(await reader.read(-1), "fin")
    assert int(seen.headers["content-length"]) < len(seen.rest)
    writer.close()
    stream = await with_fault(box, kind="long_body")
    assert (stream.whole, stream.end) == (False, "fin")


async def test_neither_ends_cleanly_without_any_marker(box: Sandbox) -> None:
    for tokens in (None, 3):
        seen = await with_fault(box, kind="neither", after_tokens=tokens)
        assert (seen.whole, seen.finish(), seen.done) == (True, None, False)
        assert last(box)["sent_tokens"] == (tokens or 12)
    plain = await with_fault(box, stream=False, kind="neither")
    assert plain.json()["choices"][0]["finish_reason"] is None


async def test_no_done_has_the_reason_only(box: Sandbox) -> None:
    seen = await with_fault(box, kind="no_done")
    assert (seen.whole, seen.finish(), seen.done, last(box)["ended"]) == (True, "length", False, "done")


async def test_big_event_is_as_big_as_asked(box: Sandbox) -> None:
    for stream in (True, False):
        seen = await with_fault(box, stream, kind="big_event", size_bytes=300_000)
        assert len(seen.body) > 300_000
        assert seen.whole


# ---------------------------------------------------------------------- the form only
@pytest.mark.parametrize("cloud", ["vllm", "groq", "azure", "databricks", "openai"])
@pytest.mark.parametrize("stream", [True, False])
async def test_no_usage_leaves_no_trace_of_it(box: Sandbox, cloud: str, stream: bool) -> None:
    box.set(cloud, fault={"kind": "no_usage"})
    seen = await call(box, cloud, stream=stream)
    assert seen.whole
    assert b"completion_tokens" not in seen.body
    assert seen.text() if stream else seen.json()["choices"][0]["message"]["content"]


async def test_usage_twice_repeats_the_event(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "usage_twice"})
    seen = await call(box, "vllm", stream=True, stream_options={"include_usage": True})
    assert seen.body.count(b'"completion_tokens":12') == 2
    assert seen.text() == (await whole(box)).text()


async def test_drift_in_three_ways(box: Sandbox) -> None:
    plain = await with_fault(box, stream=False, kind="drift")
    assert plain.json()["new_number"] == 2**53 + 1
    assert plain.json()["choices"][0]["new_choice_field"] == "x"
    wrong = await with_fault(box, kind="drift", variant="wrong_types")
    assert isinstance(wrong.data()[0]["choices"], dict)
    missing = await with_fault(box, kind="drift", variant="missing_fields")
    assert {key for value in missing.data() for key in value} <= {"choices", "usage"}


async def test_crlf_no_space_and_slow_bytes_lose_nothing(box: Sandbox) -> None:
    good = (await whole(box)).body
    with_ids = await with_fault(box, kind="crlf")
    assert with_ids.body.count(b"\r\n\r\n") == good.count(b"\n\n")
    tight = await with_fault(box, kind="no_space")
    assert tight.body.count(b"data:{") == good.count(b"data: {")
    slow = await with_fault(box, kind="slow_bytes")
    assert (slow.text(), slow.done) == ((await whole(box)).text(), True)


@pytest.mark.parametrize("variant", FRAMES)
async def test_bad_frame_variants(box: Sandbox, variant: str) -> None:
    text = (await whole(box)).text()
    seen = await with_fault(box, kind="bad_frame", variant=variant)
    assert (seen.status, seen.whole) == (200, True)
    signs = {
        "cr": b"\r\r", "mixed": b"\r\n\r\n", "multi_line": b",\ndata: ", "bom": b"\xef\xbb\xbfdata",
        "fields": b"retry: 3000\n", "comments": b": keep-alive\n\n", "no_last_blank": b"[DONE]", "no_colon": b"data {",
        "junk": b"<<<junk>>>", "bad_utf8": b"\xff\xfe", "lone_surrogate": rb"\ud800",
    }  # fmt: skip
    assert signs[variant] in seen.body
    if variant == "no_last_blank":
        assert seen.body.endswith(b"[DONE]")
    if variant in ("fields", "comments", "no_last_blank"):
        lines = [line[6:] for line in seen.body.split(b"\n") if line.startswith(b"data: {")]
        assert "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines) == text


async def test_gzip_whole_truncated_and_bomb(box: Sandbox) -> None:
    good = (await whole(box)).text()
    seen = await with_fault(box, kind="gzip")
    assert seen.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(seen.body).split(b"\n\n")[1][6:])["choices"][0]["delta"]["content"] in good
    cut = await with_fault(box, stream=False, kind="gzip", variant="truncated")
    with pytest.raises((EOFError, zlib.error)):
        gzip.decompress(cut.body)
    bomb = await with_fault(box, stream=False, kind="gzip", variant="bomb", size_bytes=5_000_000)
    assert len(bomb.body) < 10_000 < len(gzip.decompress(bomb.body))


# ---------------------------------------------------------------------- which calls are hit
async def test_share_hits_by_counting_and_times_counts_down(box: Sandbox) -> None:
    box.set("groq", fault={"kind": "status", "status": 503, "share": 0.25})
    assert [(await call(box, "groq")).status for _ in range(8)] == [200, 200, 200, 503] * 2
    box.set("groq", fault={"kind": "status", "status": 500, "times": 2})
    assert [(await call(box, "groq")).status for _ in range(4)] == [500, 500, 200, 200]


async def test_a_fault_may_be_for_one_model_or_one_path(box: Sandbox) -> None:
    hit = {"meta-llama/Llama-3.1-70B-Instruct": {"fault": {"kind": "status", "status": 500}}}
    box.set("vllm", models=hit)
    assert (await call(box, "vllm")).status == 200
    assert (await call(box, "vllm", model="meta-llama/Llama-3.1-70B-Instruct")).status == 500


async def test_a_fault_does_not_hide_a_bad_key_or_an_unknown_model(box: Sandbox) -> None:
    box.set("vllm", fault={"kind": "status", "status": 500})
    assert (await call(box, "vllm", headers={"authorization": "Bearer no"})).status == 401
    assert (await call(box, "vllm", model="nope")).status == 404


def test_unknown_kinds_fields_and_variants_are_refused_with_the_list() -> None:
    from sandbox.behaviour import behaviour

    for fields, word in (
        ({"fault": {"kind": "explode"}}, "reset_after_tokens"),
        ({"fault": {"kind": "html", "after_tokens": 3}}, "takes no after_tokens"),
        ({"fault": {"kind": "refuse", "share": 0.5}}, "acts on the port"),
        ({"fault": {"kind": "drift", "variant": "x"}}, "unknown_fields"),
        ({"fault": {"kind": "status", "share": 2}}, "between 0 and 1"),
        ({"fault": {"kind": "reset_before", "at": "noon"}}, "accept or request"),
        ({"tftt_s": 1}, "ttft_s"),
        ({"ttft_s": "fast"}, "float"),
    ):
        with pytest.raises(BehaviourError, match=word):
            behaviour(fields)
