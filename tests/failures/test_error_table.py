"""The error table of the contract with clients, row by row, as the official SDK raises it.

The rows of limits and budgets of keys are not here: this version refuses those words in its config."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from tests.failures.stage import Stage, answering, hanging_up, refusing, resetting, silent, stage, streaming, timeouts
from tests.harness import Script, chat

STATUS, SERVER = openai.APIStatusError, openai.InternalServerError
BAD, LIMIT = openai.BadRequestError, openai.RateLimitError


class Row(NamedTuple):
    """What is sent to a gateway before these clouds, and what the SDK raises."""

    kind: type[openai.APIStatusError]
    status: int
    code: str | None
    words: str = ""
    body: bytes = chat()
    headers: dict[str, str] = {}  # noqa: RUF012  (never changed)
    clouds: tuple[Script, ...] = (answering(),)
    asked: int = 0
    retry_after: str | None = None
    param: str | None = None


class Swapping(httpx.AsyncHTTPTransport):
    """Sends other bytes than the SDK wrote: it could not be brought to write them itself."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.body, self.headers = body, headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        kept = {name: value for name, value in request.headers.items() if name not in ("content-length", "host")}
        headers = {name: value for name, value in {**kept, **self.headers}.items() if value}
        swapped = httpx.Request(request.method, request.url, headers=headers, content=self.body)
        return await super().handle_async_request(swapped)


@contextlib.asynccontextmanager
async def sdk(on: Stage, body: bytes, headers: dict[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx.AsyncClient(transport=Swapping(body, headers))
    async with openai.AsyncOpenAI(
        base_url=on.served.base_url, api_key="team-key", max_retries=0, http_client=http
    ) as client:
        yield client


async def raised(on: Stage, row: Row) -> openai.APIStatusError:
    """What the SDK raises."""
    on.calls += 1
    async with sdk(on, row.body, row.headers) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="r", messages=[{"role": "user", "content": "x"}])
    return caught.value


def assert_row(row: Row, error: openai.APIStatusError) -> None:
    assert type(error) is row.kind
    assert error.status_code == row.status
    found = error.response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert (error.code, error.type) == (row.code, found["type"])
    assert found["type"]
    assert row.words in found["message"]
    assert found["message"].endswith((".", "?", ".]"))  # a sentence
    assert row.param is None or error.param == row.param
    assert error.response.headers.get("retry-after") == row.retry_after
    assert error.request_id
    assert error.response.headers["content-type"] == "application/json"


NO_KEY = {"authorization": ""}
WRONG_KEY = {"authorization": "Bearer nobody"}
LABEL = {"x-arriero-labels": "region=us"}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}

FULL = refusing(503, retry_after="9"), refusing(429, retry_after="8")

ROWS: dict[str, Row] = {
    # body is not JSON, wrong types, too deep, duplicate keys at top level, NaN
    "not JSON": Row(BAD, 400, "invalid_json", "not valid JSON", b"{"),
    "empty": Row(BAD, 400, "invalid_json", "not valid JSON", b""),
    "not an object": Row(BAD, 400, "invalid_json", "must be an object", b"[1]"),
    "wrong type": Row(BAD, 400, "invalid_request", "'stream' must be", chat(stream="yes"), param="stream"),
    "no model": Row(BAD, 400, "invalid_request", "'model'", b'{"messages":[{}]}', param="model"),
    "no messages": Row(BAD, 400, "invalid_request", "'messages'", b'{"model":"r"}', param="messages"),
    "too deep": Row(BAD, 400, "invalid_json", "deep", b'{"model":"r","x":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
    "doubled field": Row(BAD, 400, "invalid_json", "'model' stands twice", b'{"model":"r","model":"q"}'),
    "NaN": Row(BAD, 400, "invalid_json", "not valid JSON", b'{"model":"r","temperature":NaN}'),
    "base_url": Row(BAD, 400, "invalid_request", "'base_url'", chat(base_url="http://x"), param="base_url"),
    "bad deadline": Row(BAD, 400, "invalid_request", "x-arriero-timeout-s", headers={"x-arriero-timeout-s": "soon"}),
    "bad labels": Row(BAD, 400, "invalid_request", "x-arriero-labels", headers={"x-arriero-labels": "="}),
    # body over the limit, content-encoding not supported
    "too large": Row(STATUS, 413, "request_too_large", "10000 bytes", chat(user="x" * 10_001)),
    "encoded": Row(STATUS, 415, "unsupported_encoding", "content-encoding", headers={"content-encoding": "gzip"}),
    # no key, unknown key: indistinguishable; key may not use this route or label
    "no key": Row(openai.AuthenticationError, 401, "invalid_api_key", "Bearer", headers=NO_KEY),
    "unknown key": Row(openai.AuthenticationError, 401, "invalid_api_key", "Bearer", headers=WRONG_KEY),
    "basic auth": Row(openai.AuthenticationError, 401, "invalid_api_key", headers={"authorization": "Basic team-key"}),
    "other's route": Row(openai.PermissionDeniedError, 403, "not_allowed", "'private'", chat("private"), param="model"),
    "fixed label": Row(openai.PermissionDeniedError, 403, "not_allowed", "'region'", headers=LABEL),
    # unknown model; does not fit; nobody offers; refused by policy
    "unknown model": Row(openai.NotFoundError, 404, "model_not_found", "mean small", chat("smal"), param="model"),
    "too long": Row(BAD, 400, "context_length_exceeded", "small", chat("small", max_tokens=9000)),
    "feature": Row(BAD, 400, "unsupported_feature", "'tools'", chat("small", **TOOLS)),
    "by policy": Row(SERVER, 503, "no_deployment_available", "(residency)", chat("abroad"), retry_after="5"),
    # the upstream's own 400-class fault of the caller: the same status
    "their 400": Row(BAD, 400, None, "said 400", clouds=(refusing(400), answering()), asked=1),
    "their 404": Row(openai.NotFoundError, 404, None, "said 404", clouds=(refusing(404), answering()), asked=1),
    "their 422": Row(openai.UnprocessableEntityError, 422, None, "said 422", clouds=(refusing(422),), asked=1),
    "their 413": Row(STATUS, 413, None, "said 413", clouds=(refusing(413), answering()), asked=1),
    # our credential refused
    "their 401": Row(SERVER, 502, "upstream_auth", "answered 401", clouds=(refusing(401),), asked=1),
    "their 403": Row(SERVER, 502, "upstream_auth", "answered 403", clouds=(refusing(403), refusing(401)), asked=2),
    # all attempts failed
    "all 500": Row(SERVER, 502, "upstream_error", "All 2 attempts", clouds=(refusing(500), refusing(500)), asked=2),
    "broken": Row(SERVER, 502, "upstream_error", "closed", clouds=(hanging_up,), asked=1),
    "reset": Row(SERVER, 502, "upstream_error", "broke", clouds=(resetting,), asked=1),
    "redirect": Row(SERVER, 502, "upstream_error", "answered 302", clouds=(refusing(302),), asked=1),
    "all 503": Row(SERVER, 503, "upstream_error", clouds=(FULL[0], refusing(529)), asked=2, retry_after="9"),
    "all silent": Row(SERVER, 504, "upstream_timeout", "no answer", clouds=(silent, silent), asked=2),
    "504": Row(SERVER, 504, "upstream_timeout", "answered 504", clouds=(refusing(504),), asked=1),
    "all 429": Row(LIMIT, 429, "upstream_rate_limited", clouds=(FULL[1], FULL[1]), asked=2, retry_after="8"),
    "mixed": Row(SERVER, 502, "upstream_error", clouds=(refusing(429), refusing(503), silent), asked=3),
}  # fmt: skip


def sections() -> dict[str, Any]:
    """A gateway with keys, a small body limit, and routes that refuse."""
    here = {"account": "a", "model": "m"}
    small = {**here, "name": "small", "context_tokens": 8192, "features": ["-tools"]}
    abroad = {**here, "name": "abroad", "region": "us"}
    return {
        "keys": [{"name": "team", "key": "team-key", "routes": ["r", "small", "abroad"], "labels": {"region": "eu"}}],
        "server": {"max_body_bytes": 10_000},
        "more_routes": {
            "private": {"deployments": [here], "policies": []},
            "small": {"deployments": [small], "policies": ["capability", "context_window"]},
            "abroad": {"deployments": [abroad], "policies": [{"residency": {"label": "region"}}]},
        },
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_each_row_of_the_error_table_is_the_sdks_own_exception(row: Row) -> None:
    more = sections() if row.code != "invalid_json" or len(row.body) < 10_000 else {}
    async with stage(*row.clouds, account=timeouts(first_byte_s=0.1), **more) as on:
        error = await raised(on, row)
        assert_row(row, error)
        assert sum(on.asked()) == row.asked
        assert [line["status"] for line in on.served.calls()] == [row.status]
        assert on.served.calls()[0]["code"] == row.code


async def test_revoked_unknown_and_missing_keys_cannot_be_told_apart() -> None:
    async with stage(answering(), **sections()) as on:
        rows = [ROWS["no key"], ROWS["unknown key"], ROWS["basic auth"]]
        errors = [await raised(on, row) for row in rows]
        assert len({error.response.content for error in errors}) == 1


async def test_a_gateway_that_takes_leave_says_503_overloaded() -> None:
    async with stage(answering()) as on:
        on.served.gateway.live.drain()
        assert (await on.ask()).status == 200
        on.served.gateway.live.close()
        row = Row(SERVER, 503, "overloaded", "taking leave", retry_after="1")
        assert_row(row, await raised(on, row))
        assert on.asked() == [1]


async def test_an_error_before_the_first_word_of_a_stream_is_raised_by_the_call_itself() -> None:
    async with stage(streaming(b'data: {"error":{"message":"x","code":429}}\n\n')) as on:
        on.calls += 1
        async with openai.AsyncOpenAI(base_url=on.served.base_url, api_key="x", max_retries=0) as client:
            with pytest.raises(LIMIT) as caught:
                await client.chat.completions.create(
                    model="r", messages=[{"role": "user", "content": "x"}], stream=True
                )
        assert caught.value.code == "upstream_rate_limited"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/responses", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/chat/completions/", 404, "not_found"),
        ("GET", "/admin/decisions", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_unknown_paths_and_wrong_methods_are_openai_errors(
    method: str, path: str, status: int, code: str
) -> None:
    async with stage(answering()) as on, httpx.AsyncClient(base_url=on.served.url) as client:
        response = await client.request(method, path)
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (response.status_code, error["code"]) == (status, code)
