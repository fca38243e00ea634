"""The vLLM of the box against transcripts of a real vLLM 0.32: the same status, headers, framing, fields and order."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sandbox.run import Sandbox
from tests.sandbox.wire import Seen, send

FOLDER = Path(__file__).parent.parent / "golden" / "vllm-0.32.0"
NOT_OFFERED = {
    "messages",
    "messages_stream",
    "responses",
    "responses_stream",
}  # other APIs of vLLM; the gateway has none
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
FREE = {"bytes": ["int"], "stop_reason": "str or None"}
CHANGING_HEADERS = {"content-length", "date"}


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    body = found["request"]["body"]
    if isinstance(body, dict) and name == "error_context_length":
        body["messages"][0]["content"] = "word " * 3000  # the transcript only describes it
    return found


async def replay(box: Sandbox, name: str) -> tuple[Seen, dict[str, Any]]:
    """What our vLLM says to that request, and what the real one said."""
    box.set("vllm", context_tokens=2048)
    found = golden(name)
    request = found["request"]
    body = request["body"].encode() if isinstance(request["body"], str) else request["body"]
    seen = await send(box, "vllm", request["method"], request["path"], body, {"authorization": "Bearer sandbox-vllm"})
    return seen, found["response"]


def shape(value: Any) -> Any:
    """A JSON value without its contents: keys in order, kinds of leaves, each different item of a list once.

    A token may have no bytes, and a stop string may have been met or not."""
    if isinstance(value, dict):
        return {key: FREE[key] if key in FREE else shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        kinds = [shape(item) for item in value]
        return [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]
    return type(value).__name__


def ordered(value: Any) -> Any:
    """A shape as text, so that the order of keys counts."""
    return json.dumps(value)


def same_shape(ours: Any, theirs: Any) -> None:
    assert ordered(shape(ours)) == ordered(shape(theirs))


def events(body: str) -> list[str]:
    assert body.endswith("\n\n")
    return body[:-2].split("\n\n")


@pytest.mark.parametrize("name", [case for case in CASES if case not in NOT_OFFERED and case != "metrics"])
async def test_status_and_headers(box: Sandbox, name: str) -> None:
    seen, theirs = await replay(box, name)
    assert seen.status == theirs["status"]
    assert seen.headers.keys() - CHANGING_HEADERS == theirs["headers"].keys() - CHANGING_HEADERS
    for header in theirs["headers"].keys() - CHANGING_HEADERS:
        assert seen.headers[header] == theirs["headers"][header]


@pytest.mark.parametrize(
    "name", [case for case in CASES if case not in NOT_OFFERED | {"metrics", "health"} and "stream" not in case]
)
async def test_bodies_have_the_same_fields_in_the_same_order(box: Sandbox, name: str) -> None:
    seen, theirs = await replay(box, name)
    ours, expected = seen.json(), json.loads(theirs["body"])
    same_shape(ours, expected)


@pytest.mark.parametrize(
    "name", [case for case in CASES if "stream" in case and "error" not in case and case not in NOT_OFFERED]
)
async def test_streams_have_the_same_events(box: Sandbox, name: str) -> None:
    seen, theirs = await replay(box, name)
    ours, expected = events(seen.body.decode()), events(theirs["body"])
    assert ours[-1] == expected[-1] == "data: [DONE]"
    our_values = [json.loads(event.removeprefix("data: ")) for event in ours[:-1]]
    their_values = [json.loads(event.removeprefix("data: ")) for event in expected[:-1]]
    if "tool" in name:  # the noise of a random model stands for the arguments: compare each different event once
        our_values, their_values = distinct(our_values), distinct(their_values)
    assert len(our_values) == len(their_values)
    for our, their in zip(our_values, their_values, strict=True):
        same_shape(our, their)


def distinct(values: list[Any]) -> list[Any]:
    return [value for number, value in enumerate(values) if shape(value) not in [shape(v) for v in values[:number]]]


@pytest.mark.parametrize(
    "name", [case for case in CASES if case.startswith("error_") and case != "error_embeddings_unsupported"]
)
async def test_errors_say_the_same(box: Sandbox, name: str) -> None:
    seen, theirs = await replay(box, name)
    ours, expected = seen.json()["error"], json.loads(theirs["body"])["error"]
    assert {**ours, "message": ""} == {**expected, "message": ""}
    said, wanted = ours["message"], re.sub(r"Valid aliases: .*", "", expected["message"])
    assert re.sub(r"Valid aliases: .*", "", said) == wanted


async def test_usage_adds_up_as_in_the_transcripts(box: Sandbox) -> None:
    seen, theirs = await replay(box, "chat_n2_logprobs")
    ours, expected = seen.json(), json.loads(theirs["body"])
    assert ours["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"] == 6
    assert [choice["finish_reason"] for choice in ours["choices"]] == ["length", "length"]
    assert [len(choice["logprobs"]["content"]) for choice in ours["choices"]] == [3, 3]


async def test_metrics_have_names_and_labels_of_the_real_page(box: Sandbox) -> None:
    seen, theirs = await replay(box, "metrics")
    assert seen.headers["content-type"] == theirs["headers"]["content-type"]
    real = set(re.findall(r"^# HELP (\S+)", theirs["body"], re.M)) | set(
        re.findall(r"^(vllm:\w+)\{", theirs["body"], re.M)
    )
    base = {re.sub(r"_(count|sum|bucket)$", "", name) for name in real}
    for line in seen.body.decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.fullmatch(r"(vllm:\w+)\{(.*)\} \d+\.\d+(?:e[+-]\d+)?", line).groups()  # type: ignore[union-attr]
            assert name in real or re.sub(r"_(count|sum)$", "", name) in base, name
            assert labels.startswith('engine="0",model_name="')


async def test_load_header_as_asked(box: Sandbox) -> None:
    box.set("vllm", load={"num_requests_waiting": 3.0, "kv_cache_usage_perc": 0.25})
    body = golden("chat")["request"]["body"]
    wanted = {"authorization": "Bearer sandbox-vllm", "endpoint-load-metrics-format": "JSON"}
    seen = await send(box, "vllm", "POST", "/v1/chat/completions", body, wanted)
    said = '{"named_metrics":{"num_requests_waiting":3.0,"kv_cache_usage_perc":0.25}}'
    assert seen.headers["endpoint-load-metrics"] == f"JSON {said}"
    plain = await send(box, "vllm", "POST", "/v1/chat/completions", body, {"authorization": "Bearer sandbox-vllm"})
    assert "endpoint-load-metrics" not in plain.headers
    page = (await send(box, "vllm", "GET", "/metrics")).body.decode()
    assert 'num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0' in page


async def test_metrics_count_what_was_served(box: Sandbox) -> None:
    box.set("vllm", ttft_s=0.05)
    body = {**golden("chat")["request"]["body"], "max_tokens": 7, "stream": True}
    for _ in range(2):
        assert (
            await send(box, "vllm", "POST", "/v1/chat/completions", body, {"authorization": "Bearer sandbox-vllm"})
        ).done
    page = (await send(box, "vllm", "GET", "/metrics")).body.decode()
    found = dict(re.findall(r'^vllm:(\w+)\{engine="0",model_name="[^"]*"(?:,[^}]*)?\} (\S+)$', page, re.M))
    assert float(found["generation_tokens_total"]) == 14
    assert float(found["prompt_tokens_total"]) == 2 * box.calls()[0]["prompt_tokens"]
    assert float(found["num_requests_running"]) == 0
    assert float(found["time_to_first_token_seconds_count"]) == 2
    assert float(found["time_to_first_token_seconds_sum"]) >= 0.1
    assert (
        'request_success_total{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct",finished_reason="length"} 2.0'
        in page
    )
