"""The box's Bedrock: judged by botocore's own client, and as strict with signatures as AWS."""

import base64
import datetime
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.session
import pytest

from sandbox import _bedrock_auth as auth
from sandbox.bedrock import _ARN, CLOUD, GUARDED_WORD, GUARDRAIL
from sandbox.behaviour import BINARY_FRAMES
from sandbox.run import Sandbox
from tests.sandbox.wire import Seen, call, send

MODEL = "us.meta.llama3-1-8b-instruct-v1:0"
MESSAGES: list[Any] = [{"role": "user", "content": [{"text": "Tell me of llamas."}]}]
BODY: dict[str, Any] = {"messages": MESSAGES, "inferenceConfig": {"maxTokens": 12}}
TOOLS = {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}]}


@pytest.fixture(scope="module")
def threaded() -> Iterator[Sandbox]:
    with Sandbox.in_thread(clouds=["bedrock", "vllm"]) as box:
        yield box


@pytest.fixture(autouse=True)
def _fresh(threaded: Sandbox) -> None:
    threaded.reset()


def client(box: Sandbox, **options: Any) -> Any:
    """botocore's own client, without retries of its own."""
    said = {"region_name": auth.REGION, "aws_access_key_id": auth.ACCESS_KEY_ID}
    said |= {"aws_secret_access_key": auth.SECRET_ACCESS_KEY, **options}
    once = botocore.config.Config(retries={"total_max_attempts": 1})
    session = botocore.session.Session()
    return session.create_client("bedrock-runtime", endpoint_url=box.origins["bedrock"], config=once, **said)


def refused(box: Sandbox, **fields: Any) -> tuple[str, str]:
    """The code and message of a refusal, as botocore reads them."""
    stream = fields.pop("stream", False)
    made = client(box)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        (made.converse_stream if stream else made.converse)(**{"modelId": MODEL, **BODY, **fields})
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# ---------------------------------------------------------------------- botocore as the client
def test_botocore_reads_whole_and_streamed_answers_as_the_same(threaded: Sandbox) -> None:
    made = client(threaded)
    whole = made.converse(modelId=MODEL, **BODY)
    text = whole["output"]["message"]["content"][0]["text"]
    assert (whole["stopReason"], whole["usage"]["outputTokens"]) == ("max_tokens", 12)
    events = list(made.converse_stream(modelId=MODEL, **BODY)["stream"])
    kinds = [next(iter(event)) for event in events]
    assert kinds == ["messageStart", *["contentBlockDelta"] * 12, "contentBlockStop", "messageStop", "metadata"]
    assert "".join(e["contentBlockDelta"]["delta"]["text"] for e in events[1:13]) == text
    assert events[-1]["metadata"]["usage"] == whole["usage"]
    assert [record["credential"] for record in threaded.calls()] == ["ok", "ok"]
    assert [record["sent_tokens"] for record in threaded.calls()] == [12, 12]


async def test_it_says_the_same_as_the_other_clouds(threaded: Sandbox) -> None:
    theirs = await call(threaded, "vllm", messages=[{"role": "user", "content": "Tell me of llamas."}])
    ours = client(threaded).converse(modelId=MODEL, **BODY)["output"]["message"]["content"][0]["text"]
    assert ours == theirs.json()["choices"][0]["message"]["content"]


def test_botocore_reads_a_call_and_may_give_its_result(threaded: Sandbox) -> None:
    made = client(threaded)
    found = made.converse(modelId=MODEL, messages=MESSAGES, toolConfig=TOOLS)
    assert found["stopReason"] == "tool_use"
    use = found["output"]["message"]["content"][0]["toolUse"]
    assert use["name"] == "weather"
    result = {"role": "user", "content": [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": "12"}]}}]}
    talk = [*MESSAGES, found["output"]["message"], result]
    assert made.converse(modelId=MODEL, messages=talk, toolConfig=TOOLS)["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    "model", [*CLOUD.models, f"{_ARN}:inference-profile/{MODEL}", "meta.llama3-1-8b-instruct-v1:0"]
)
def test_every_model_is_found_by_its_id_and_arn(threaded: Sandbox, model: str) -> None:
    assert client(threaded).converse(modelId=model, **BODY)["stopReason"] == "max_tokens"


async def test_an_api_key_serves_in_the_place_of_a_signature(threaded: Sandbox) -> None:
    """By bytes: botocore sends a bearer only over TLS."""
    path = f"/model/{quote(MODEL, safe='')}/converse"
    good = await posted(threaded, path, {"authorization": f"Bearer {auth.API_KEY}"}, RAW)
    assert good.json()["stopReason"] == "max_tokens"
    bad = await posted(threaded, path, {"authorization": "Bearer another"}, RAW)
    assert said(bad)[:2] == (403, "AccessDeniedException")


def test_a_guardrail_speaks_in_the_models_place(threaded: Sandbox) -> None:
    guardrail = {"guardrailIdentifier": GUARDRAIL, "guardrailVersion": "1", "trace": "enabled"}
    talk = [{"role": "user", "content": [{"text": f"Sell me {GUARDED_WORD}"}]}]
    found = client(threaded).converse(modelId=MODEL, messages=talk, guardrailConfig=guardrail)
    assert found["stopReason"] == "guardrail_intervened"
    assert found["trace"]["guardrail"]["actionReason"] == "GUARDRAIL_INTERVENED"
    assert client(threaded).converse(modelId=MODEL, **BODY, guardrailConfig=guardrail)["stopReason"] == "max_tokens"


# ---------------------------------------------------------------------- what Bedrock refuses of a Llama
def test_tools_in_a_stream(threaded: Sandbox) -> None:
    wanted = ("ValidationException", "This model doesn't support tool use in streaming mode.")
    assert refused(threaded, toolConfig=TOOLS, stream=True) == wanted


@pytest.mark.parametrize("choice", [{"any": {}}, {"tool": {"name": "weather"}}])
def test_a_tool_that_must_be_called(threaded: Sandbox, choice: Any) -> None:
    field = f"toolConfig.toolChoice.{next(iter(choice))}"
    words = f"This model doesn't support the {field} field. Remove {field} and try again."
    assert refused(threaded, toolConfig={**TOOLS, "toolChoice": choice}) == ("ValidationException", words)


FORM = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}"}}}}
PNG = {"image": {"format": "png", "source": {"bytes": b"x"}}}
USE = {"toolUse": {"toolUseId": "t", "name": "weather", "input": {}}}
GIVEN = {"toolResult": {"toolUseId": "t", "content": [{"text": "x"}]}}


def turn(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


UNANSWERED = [*MESSAGES, turn("assistant", USE), turn("user", {"text": "b"})]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"modelId": "meta.llama3-3-70b-instruct-v1:0"}, "with on-demand throughput isn't supported"),
        ({"modelId": "nobody.model-v1:0"}, "model identifier is invalid"),
        ({"modelId": f"{_ARN}:imported-model/000000000000"}, "Could not find"),
        ({"inferenceConfig": {"maxTokens": 4097}}, "exceeds the model limit of 4096"),
        ({"messages": [turn("user", PNG)]}, "doesn't support the image field"),
        ({"messages": [turn("user", {"text": " "})]}, "at messages.0.content.0 is blank"),
        ({"messages": [turn("user")]}, "at messages.0 is empty"),
        ({"messages": [turn("assistant", {"text": "a"})]}, "must start with a user message"),
        ({"messages": [turn("user", {"text": "a"}), turn("user", {"text": "b"})]}, "must alternate"),
        ({"messages": UNANSWERED}, "toolConfig field must be defined"),
        ({"messages": UNANSWERED, "toolConfig": TOOLS}, "toolResult"),
        (
            {"messages": [*MESSAGES, turn("assistant", {"text": "a"}, USE)], "toolConfig": TOOLS},
            "messages.1.content: Conversation blocks and tool use blocks cannot be provided in the same turn.",
        ),
        (
            {"messages": [*MESSAGES, turn("assistant", USE), turn("user", GIVEN, {"text": "b"})], "toolConfig": TOOLS},
            "messages.2.content: Conversation blocks and tool result blocks cannot be provided in the same turn.",
        ),
        ({"outputConfig": FORM}, "outputConfig"),
        ({"guardrailConfig": {"guardrailIdentifier": "other", "guardrailVersion": "1"}}, "guardrail identifier"),
    ],
)
def test_what_else_it_refuses(threaded: Sandbox, fields: Any, word: str) -> None:
    assert word in refused(threaded, **fields)[1]


def test_limits_are_worded_by_what_ran_out(threaded: Sandbox) -> None:
    threaded.set("bedrock", limits={"requests": 1})
    client(threaded).converse(modelId=MODEL, **BODY)
    wanted = ("ThrottlingException", "Too many requests, please wait before trying again.")
    assert refused(threaded) == wanted
    threaded.set("bedrock", limits={"tokens": 1})
    client(threaded).converse(modelId=MODEL, **BODY)
    assert refused(threaded)[1] == "Too many tokens, please wait before trying again."
    threaded.set("bedrock", limits={"tokens": 1, "tokens_period_s": 86_400})
    client(threaded).converse(modelId=MODEL, **BODY)
    assert refused(threaded)[1] == "Too many tokens per day, please wait before trying again."


def test_too_long_a_prompt_is_refused_with_the_limit_or_if_it_is_far_beyond_without(threaded: Sandbox) -> None:
    threaded.set("bedrock", context_tokens=10)
    assert refused(threaded)[1].startswith("This model's maximum context length is 10 tokens.")
    long = [turn("user", {"text": "llama " * 50})]
    assert refused(threaded, messages=long)[1] == "Input is too long for requested model."


# ---------------------------------------------------------------------- signatures
def signed(box: Sandbox, body: bytes, **changes: Any) -> tuple[str, dict[str, str]]:
    """The path and headers of a request signed by botocore; `changes` are of the signer."""
    path = f"/model/{quote(MODEL, safe='')}/converse"
    request = botocore.awsrequest.AWSRequest("POST", box.origins["bedrock"] + path, data=body)
    request.headers["content-type"] = "application/json"
    keys = changes.get("keys", (auth.ACCESS_KEY_ID, auth.SECRET_ACCESS_KEY, changes.get("token")))
    signer = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials(*keys), changes.get("service", "bedrock"), changes.get("region", auth.REGION)
    )
    request.context["timestamp"] = _now(changes.get("later_s", 0))
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    if keys[2]:
        request.headers["X-Amz-Security-Token"] = keys[2]
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(request, signer.signature(to_sign, request))
    host = box.origins["bedrock"].removeprefix("http://")
    return path, {"host": host, **{name.lower(): value for name, value in request.headers.items()}}


def _now(later_s: int) -> str:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=later_s)
    return now.strftime("%Y%m%dT%H%M%SZ")


async def posted(box: Sandbox, path: str, headers: dict[str, str], body: bytes) -> Seen:
    return await send(box, "bedrock", "POST", path, body, headers)


def said(seen: Seen) -> tuple[int, str, str]:
    return seen.status, seen.headers["x-amzn-errortype"].partition(":")[0], seen.json()["message"]


RAW = json.dumps(BODY).encode()


async def test_a_good_signature_passes(threaded: Sandbox) -> None:
    path, headers = signed(threaded, RAW)
    assert (await posted(threaded, path, headers, RAW)).status == 200
    for seconds in (-290, 290):
        path, headers = signed(threaded, RAW, later_s=seconds)
        assert (await posted(threaded, path, headers, RAW)).status == 200


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        ({"later_s": -400}, "InvalidSignatureException", "Signature expired"),
        ({"later_s": 400}, "InvalidSignatureException", "Signature not yet current"),
        ({"region": "us-east-1"}, "InvalidSignatureException", "scoped to a valid region"),
        ({"service": "bedrock-runtime"}, "InvalidSignatureException", "correct service: 'bedrock'"),
        ({"keys": (auth.ACCESS_KEY_ID, "wrong", None)}, "InvalidSignatureException", "does not match"),
        ({"keys": ("AKIANOBODY", "x", None)}, "UnrecognizedClientException", "invalid"),
        ({"token": "made-up"}, "UnrecognizedClientException", "invalid"),
    ],
)
async def test_a_signature_of_another_time_place_or_hand_is_refused(
    threaded: Sandbox, changes: Any, name: str, word: str
) -> None:
    path, headers = signed(threaded, RAW, **changes)
    status, found, message = said(await posted(threaded, path, headers, RAW))
    assert (status, found) == (403, name)
    assert word in message


@pytest.mark.parametrize("what", ["body", "path", "content-type", "x-amz-date", "host", "signature", "unsigned"])
async def test_a_request_that_was_changed_on_the_way_is_refused(threaded: Sandbox, what: str) -> None:
    path, headers = signed(threaded, RAW)
    body = RAW
    match what:
        case "body":
            body = RAW.replace(b"12}", b"13}")
        case "path":
            path = path.replace("8b", "70b")
        case "x-amz-date":
            headers["x-amz-date"] = headers["x-amz-date"][:-2] + ("0Z" if headers["x-amz-date"][-2] != "0" else "1Z")
        case "signature":
            headers["authorization"] = headers["authorization"][:-1] + (
                "0" if headers["authorization"][-1] != "0" else "1"
            )
        case "unsigned":
            headers["x-amz-target"] = "smuggled"
        case _:
            headers[what] = "text/plain"
    status, name, _ = said(await posted(threaded, path, headers, body))
    assert status == 403
    assert name == ("AccessDeniedException" if what == "unsigned" else "InvalidSignatureException")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, "MissingAuthenticationTokenException"),
        ("Bearer nobody", "AccessDeniedException"),
        ("AWS4-HMAC-SHA256 Credential=a/b", "IncompleteSignatureException"),
        ("Basic eDp5", "IncompleteSignatureException"),
    ],
)
async def test_what_is_no_signature_is_refused(threaded: Sandbox, header: str | None, name: str) -> None:
    path, headers = signed(threaded, RAW)
    headers.pop("authorization")
    seen = await posted(threaded, path, {**headers, **({"authorization": header} if header else {})}, RAW)
    assert said(seen)[1] == name
    assert threaded.calls()[-1]["credential"] == ("bad" if header else "none")


async def test_keys_that_expire_are_refused_after_their_time(threaded: Sandbox) -> None:
    site = threaded.servers["bedrock"].site
    site.tokens["session-1"] = site.now() + 60
    keys = auth.keys_of("session-1")
    path, headers = signed(threaded, RAW, keys=keys)
    assert (await posted(threaded, path, headers, RAW)).status == 200
    site.tokens["session-1"] = site.now() - 1
    assert said(await posted(threaded, path, headers, RAW))[1] == "ExpiredTokenException"


async def test_a_body_that_is_no_json_is_a_serialization_exception(threaded: Sandbox) -> None:
    for body in (b"", b"{", b"[]", b'{"messages":7}'):
        path, headers = signed(threaded, body)
        assert said(await posted(threaded, path, headers, body))[:2] == (400, "SerializationException")


# ---------------------------------------------------------------------- faults on the frames
def frames(data: bytes) -> int:
    """How many whole frames there are, by their lengths alone."""
    count = 0
    while len(data) >= 4 and len(data) >= (size := struct.unpack(">I", data[:4])[0]):
        data, count = data[size:], count + 1
    return count


@pytest.mark.parametrize("status", [400, 424, 429, 500, 503])
def test_an_exception_in_mid_stream_reaches_botocore_by_its_name(threaded: Sandbox, status: int) -> None:
    threaded.set("bedrock", fault={"kind": "error_event", "after_tokens": 3, "status": status})
    seen = []
    with pytest.raises(botocore.exceptions.EventStreamError) as caught:
        seen.extend(client(threaded).converse_stream(modelId=MODEL, **BODY)["stream"])
    assert [next(iter(event)) for event in seen] == ["messageStart", *["contentBlockDelta"] * 3]
    names = {
        400: "validation",
        424: "modelStreamError",
        429: "throttling",
        500: "internalServer",
        503: "serviceUnavailable",
    }
    assert caught.value.response["Error"]["Code"] == f"{names[status]}Exception"


@pytest.mark.parametrize("variant", BINARY_FRAMES)
def test_a_bad_frame_is_one_to_botocore_too(threaded: Sandbox, variant: str) -> None:
    threaded.set("bedrock", fault={"kind": "bad_frame", "variant": variant})
    events: list[Any] = []
    try:
        for event in client(threaded).converse_stream(modelId=MODEL, **BODY)["stream"]:
            events.append(event)  # noqa: PERF402  (what came before the fault counts)
        whole = any("messageStop" in event for event in events)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, ValueError) as error:
        whole, events = False, [*events, error]
    except Exception as error:  # noqa: BLE001  (eventstream.ParserError is no BotoCoreError)
        whole, events = False, [*events, error]
    assert not whole
    assert "messageStart" in events[0]


@pytest.mark.parametrize("kind", ["no_usage", "neither", "usage_twice", "drift", "empty", "no_done", "crlf"])
def test_faults_that_leave_the_frames_good(threaded: Sandbox, kind: str) -> None:
    variant = {"drift": "unknown_fields", "empty": "content"}.get(kind)
    threaded.set("bedrock", fault={"kind": kind, **({"variant": variant} if variant else {})})
    kinds = [next(iter(event)) for event in client(threaded).converse_stream(modelId=MODEL, **BODY)["stream"]]
    assert kinds.count("metadata") == {"no_usage": 0, "neither": 0, "usage_twice": 2}.get(kind, 1)
    assert ("messageStop" in kinds) == (kind != "neither")
    assert ("contentBlockDelta" in kinds) == (kind != "empty")


async def test_a_plain_answer_may_be_spoilt_as_well(threaded: Sandbox) -> None:
    for fault, gone in (
        ({"kind": "neither"}, "stopReason"),
        ({"kind": "no_usage"}, "usage"),
        ({"kind": "empty", "variant": "choices"}, "output"),
    ):
        threaded.set("bedrock", fault=fault)
        path, headers = signed(threaded, RAW)
        assert gone not in (await posted(threaded, path, headers, RAW)).json()


def test_the_demo_key_is_base64_as_bedrocks_are() -> None:
    assert base64.b64decode(auth.API_KEY + "==")
