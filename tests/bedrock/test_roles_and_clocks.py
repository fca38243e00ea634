"""A role of the account's own, and a clock that is wrong: against the box's STS and its signatures' five minutes."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.outcome import judge
from gateway.secret import Secret
from providers.bedrock import Bedrock
from providers.credentials import aws
from providers.credentials.sigv4 import Keys
from providers.credentials.skew import CloudClock
from sandbox import _bedrock_auth as box_auth
from sandbox import _bedrock_tokens as box_tokens
from sandbox.run import Sandbox
from tests.bedrock.test_account import refused
from tests.forward_proxy import forward_proxy
from tests.harness import Clock, ask, chat, route, serving

HOUR_S = 3600.0
MODEL = "us.meta.llama3-1-8b-instruct-v1:0"
BASE = {"access_key_id": box_auth.ACCESS_KEY_ID, "secret_access_key": box_auth.SECRET_ACCESS_KEY}
ROLE = {"role_arn": box_tokens.ROLE_ARN, "external_id": box_tokens.EXTERNAL_ID}


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, clouds=["bedrock"]) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", made.origins["bedrock"])
        yield made


def account(box: Sandbox, **fields: Any) -> dict[str, Any]:
    return {"type": "bedrock", "region": box_auth.REGION, "url": box.origins["bedrock"], **fields}


def one(account: dict[str, Any]) -> dict[str, Any]:
    return {"providers": {"b": account}, "routes": {"r": route({"account": "b", "model": MODEL})}}


# ---------------------------------------------------------------------- roles
@pytest.mark.parametrize("where", ["the config", "the environment", "a profile"])
async def test_a_role_is_taken_on_with_keys_of(
    where: str, box: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own: dict[str, str] = {}
    if where == "the config":
        own = BASE
    elif where == "the environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", BASE["access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", BASE["secret_access_key"])
    else:
        lines = [f"aws_{name} = {value}" for name, value in BASE.items()]
        (tmp_path / "credentials").write_text("\n".join(["[work]", *lines, ""]))
        own = {"profile": "work"}
    async with serving(one(account(box, **own, **ROLE))) as served:
        assert (await ask(served, chat("r"))).status == 200
        assert (await ask(served, chat("r"))).status == 200
    asked = [call["path"] for call in box.calls()]
    assert asked.count("/") == 1
    assert [call["credential"] for call in box.calls()][-2:] == ["ok", "ok"]


async def test_a_role_that_may_not_be_taken_on_is_named_and_no_key_is_told(box: Sandbox) -> None:
    async with serving(one(account(box, **BASE, role_arn=box_tokens.ROLE_ARN, external_id="another"))) as served:
        answer = await ask(served, chat("r"))
        assert answer.status == 502
        assert answer.error["code"] == "upstream_auth"
        why = str(served.decisions()[0].attempts[0].message)
    assert f"(ClientError AccessDenied); looked at the account's keys, for the role {box_tokens.ROLE_ARN}" in why
    assert BASE["secret_access_key"] not in why + answer.body.decode()


async def test_a_wrong_key_is_no_key_to_a_role(box: Sandbox) -> None:
    wrong = Bedrock(
        region=box_auth.REGION,
        access_key_id=Secret("AKIAX"),
        secret_access_key=Secret("x"),
        **ROLE,  # type: ignore[arg-type]
    )
    with pytest.raises(UpstreamError, match="SignatureDoesNotMatch") as caught:
        await wrong.source(Clock()).get()
    assert judge(caught.value).fault == "credential"


async def test_a_roles_keys_are_taken_anew_at_80_percent_of_their_life(box: Sandbox) -> None:
    await box.change("bedrock", {"token_ttl_s": 1000.0})
    clock = Clock()
    role = aws.Role(box_tokens.ROLE_ARN, box_auth.REGION, box_tokens.EXTERNAL_ID, keys=lambda: Keys(*BASE.values()))
    source = aws.Chain(None, clock, role=role)
    first = await source.get()
    clock.advance(790)
    assert await source.get() == first
    clock.advance(20)
    assert await source.get() == first
    other = await source.renew(first)
    assert other not in (None, first)
    await source.aclose()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"external_id": "x"}, "'external_id' needs 'role_arn'"),
        ({"role_arn": "arn:aws:iam::123456789012:user/x", "api_key": None}, "'role_arn' must be a role's"),
        ({"role_arn": box_tokens.ROLE_ARN}, "needs one of 'api_key' and 'role_arn'"),
    ],
)
def test_a_role_that_is_none_is_refused(fields: dict[str, Any], word: str) -> None:
    assert word in refused(region="us-east-1", **fields)


async def test_sts_is_asked_through_the_accounts_proxy(box: Sandbox) -> None:
    async with (
        forward_proxy("me:pw") as proxy,
        serving(one(account(box, **BASE, **ROLE, proxy=proxy.url("me:pw@")))) as served,
    ):
        assert (await ask(served, chat("r"))).status == 200
        assert proxy.asked[0] == f"POST {box.origins['bedrock']}/ HTTP/1.1"
        assert proxy.asked[1].startswith(f"POST {box.origins['bedrock']}/model/")


# ---------------------------------------------------------------------- clocks (row E8)
@pytest.mark.parametrize("off_s", [-HOUR_S, -310.0, 310.0, HOUR_S])
async def test_a_clock_that_is_wrong_costs_one_retry_and_then_nothing(box: Sandbox, off_s: float) -> None:
    async with serving(one(account(box, **BASE)), wall=lambda: time.time() + off_s) as served:
        runtime: Any = served.gateway.fleet.providers["b"]
        runtime.wall = CloudClock(lambda: time.time() + off_s)
        assert (await ask(served, chat("r"))).status == 200
        assert [call["credential"] for call in box.calls()] == ["bad", "ok"]
        assert (await ask(served, chat("r", stream=True))).done
        assert [call["credential"] for call in box.calls()] == ["bad", "ok", "ok"]
        assert abs(runtime.wall.offset_s + off_s) < 60
        assert len(served.decisions()[0].attempts) == 1
        runtime.wall.offset_s = HOUR_S * 2  # the clock is set right, or wrong again
        assert (await ask(served, chat("r"))).status == 200


async def test_a_wrong_key_is_not_tried_again_by_another_clock(box: Sandbox) -> None:
    async with serving(one(account(box, **{**BASE, "secret_access_key": "wrong"}))) as served:
        assert (await ask(served, chat("r"))).error["code"] == "upstream_auth"
        assert [call["credential"] for call in box.calls()] == ["bad"]


def test_only_a_date_that_explains_the_refusal_is_believed() -> None:
    clock = CloudClock(lambda: 1_000_000_000.0)
    for date in ({}, {"date": "now"}, {"date": "Sun, 09 Sep 2001 01:47:40 GMT"}, {"date": "Sun, 99 Sep 2001 01:47:40"}):
        assert not clock.learn(date, clock())
    assert clock() == 1_000_000_000.0
    assert clock.learn({"date": "Sun, 09 Sep 2001 02:46:40 GMT"}, clock())
    assert clock() == 1_000_003_600.0
    assert not clock.learn({"date": "Sun, 09 Sep 2001 02:46:40 GMT"}, clock())
    assert clock.learn({"date": "Sun, 09 Sep 2001 01:46:40 GMT"}, clock())
    assert clock.offset_s == 0.0
