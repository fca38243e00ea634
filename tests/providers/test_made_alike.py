"""What a cloud of OpenAI's shape does otherwise is made alike: parameters it refuses, tools it wants whole, roles."""

import json
from typing import Any

import pytest

from gateway.errors import Detail, UpstreamError
from gateway.outcome import judge
from providers._passed import prepared
from providers.vertex import WithRole
from tests.providers.test_dialects import account, call, deployment

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
DATABRICKS = "type: databricks\napi_key: s3cret\nurl: https://w.cloud.databricks.com"


@pytest.mark.parametrize("text", ["type: nim", DATABRICKS])
@pytest.mark.parametrize("missing", ["strict", "emulate", "lossy"])
def test_what_changes_no_answer_and_is_refused_by_the_cloud_is_left_out_and_said(text: str, missing: Any) -> None:
    asked = call({**HELLO, "user": "u", "metadata": {"a": "b"}, "store": None})
    made = prepared(asked, deployment(missing=missing), account(text).takes("llama"))
    assert json.loads(made.call.body) == HELLO
    assert made.plan.degraded == {"metadata": "dropped", "user": "dropped"}
    assert account("type: openai").takes("gpt") is None


@pytest.mark.parametrize("field", [{"reasoning_effort": "low"}, {"verbosity": "low"}])
def test_what_changes_the_answer_is_refused_with_its_name_or_dropped_where_that_is_wanted(field: Any) -> None:
    asked, takes = call({**HELLO, **field}), account("type: nim").takes("llama")
    assert json.loads(prepared(asked, deployment(missing="lossy"), takes).call.body) == HELLO
    for missing in ("strict", "emulate"):
        with pytest.raises(UpstreamError) as caught:
            prepared(asked, deployment(missing=missing), takes)
        assert [caught.value.detail.param] == list(field)
        assert judge(caught.value).name == "unfit"


def test_a_vendors_own_field_passes_a_closed_list() -> None:
    asked = call({**HELLO, "nvext": {"a": 1}, "user": "u"})
    made = prepared(asked, deployment(), account("type: nim").takes("llama"))
    assert json.loads(made.call.body) == {**HELLO, "nvext": {"a": 1}}


def test_what_asks_for_nothing_is_left_out_unsaid() -> None:
    nothing = {"n": 1, "logprobs": False, "parallel_tool_calls": True, "frequency_penalty": 0, "modalities": ["text"]}
    made = prepared(call({**HELLO, **nothing}), deployment(), account(DATABRICKS).takes("llama"))
    assert json.loads(made.call.body) == {**HELLO, "n": 1}
    assert not made.plan.degraded


def test_a_feature_that_the_config_says_is_there_is_passed_whatever_the_list_says() -> None:
    made = prepared(call({**HELLO, "logit_bias": {"1": 2}}), deployment(), account("type: nim").takes("llama"))
    assert json.loads(made.call.body) == {**HELLO, "logit_bias": {"1": 2}}


def test_databricks_gets_the_output_limit_by_its_old_name() -> None:
    changes = account(DATABRICKS).changes(call({**HELLO, "max_completion_tokens": 9}), deployment())
    assert (changes["max_completion_tokens"], changes["max_tokens"]) == (None, b"9")


def test_databricks_gets_parameters_for_every_tool() -> None:
    bare = {"type": "function", "function": {"name": "ping", "description": "p"}}
    whole = {"type": "function", "function": {"name": "pong", "parameters": {"type": "object", "x": 2**60}}}
    found = account(DATABRICKS).changes(call({**HELLO, "tools": [bare, whole]}), deployment())["tools"]
    assert found is not None
    first, second = json.loads(found)
    assert first["function"] == {**bare["function"], "parameters": {"type": "object", "properties": {}}}
    assert second == whole
    for tools in ([whole], [], "nonsense", [{}], [{"function": 7}]):
        assert "tools" not in account(DATABRICKS).changes(call({**HELLO, "tools": tools}), deployment())


def test_databricks_says_in_plain_text_what_it_does_not_know() -> None:
    found = account(DATABRICKS).detail(b'Bad request: json: unknown field "x"\n')
    assert found.message == 'Bad request: json: unknown field "x"'
    assert account(DATABRICKS).detail(b"<html>") == Detail()


def test_too_long_a_prompt_is_known_in_databricks_words() -> None:
    detail = Detail("BAD_REQUEST: Input of 906 tokens exceeds the maximum of 400 tokens.", None, None, "BAD_REQUEST")
    assert judge(UpstreamError("status", "", status=400, detail=detail)).name == "context_overflow"
    other = Detail("max_tokens exceeds the maximum of 4096", None, None, "BAD_REQUEST")
    assert judge(UpstreamError("status", "", status=400, detail=other)).name == "caller_error"


class Pieces:
    """A response in pieces."""

    status, headers = 200, {"content-type": "text/event-stream"}

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def chunk(self, _first: float | None = None) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def alive(self) -> None: ...

    def close(self) -> None: ...


EVENTS = b': x\n\ndata: {"choices":[{"delta":{"content":"a \\"role\\""}}]}\n\ndata: {"choices":[{"delta":{}}]}\n\n'
WHOLE = EVENTS.replace(b'{"content"', b'{"role":"assistant","content"', 1)


@pytest.mark.parametrize("size", [1, 2, 7, 30, 1000])
@pytest.mark.parametrize(
    ("sent", "comes"),
    [
        (EVENTS, WHOLE),
        (WHOLE, WHOLE),
        (b'data: {"choices":[{"delta":{}}]}\n\n', b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'),
        (b'data: [{"error":{}}]\n\n', b'data: [{"error":{}}]\n\n'),
        (b"data: half", b"data: half"),
        (b"", b""),
    ],
)
async def test_vertexs_first_delta_gets_a_role_however_it_was_cut(sent: bytes, comes: bytes, size: int) -> None:
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    reply = WithRole(Pieces(pieces), 1.0, {})  # type: ignore[arg-type]
    came = b""
    while piece := await reply.chunk():
        came += piece
    assert came == comes
