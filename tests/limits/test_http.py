"""Limits and budgets as callers meet them, over real sockets."""

import asyncio
import json
from typing import Any

import pytest

from gateway.config import loading
from gateway.outcome import go_duration_s
from tests.harness import Clock, caller, chat, eventually, json_answer, request
from tests.harness import Connection as Peer
from tests.limits.stage import Gate, answering, call, limited, stage

NOON = 1_795_348_800.0
"""2026-11-22 12:00 UTC."""


async def test_requests_beyond_the_limit_wait_for_their_turn():
    clock = Clock()
    async with stage({"limits": {"rpm": 3}}, clock=clock) as (served, up):
        for left in (2, 1, 0):
            found = await call(served)
            assert found.status == 200
            assert found.headers["x-ratelimit-limit-requests"] == "3"
            assert found.headers["x-ratelimit-remaining-requests"] == str(left)
        refused = await call(served)
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.error["type"] == "requests"
        assert "limit of 3 requests per minute" in refused.error["message"]
        assert refused.headers["retry-after"] == "20"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert go_duration_s(refused.headers["x-ratelimit-reset-requests"]) == 60
        assert len(up.requests) == 3
        clock.advance(19.9)
        assert (await call(served)).status == 429
        clock.advance(0.1)
        assert (await call(served)).status == 200


async def test_tokens_are_reserved_as_asked_for_and_given_back_when_less_was_used():
    async with stage({"limits": {"tpm": 1000}}, script=answering(output=7), clock=Clock()) as (served, _):
        found = await call(served, max_tokens=900)
        assert found.status == 200
        assert int(found.headers["x-ratelimit-remaining-tokens"]) < 100
        after = await call(served, max_tokens=900)
        assert after.status == 200, "10 of the 1000 tokens are used"
        assert after.headers["x-ratelimit-limit-tokens"] == "1000"


async def test_tokens_that_are_not_there_are_waited_for():
    clock = Clock()
    async with stage({"limits": {"tpm": 1000}}, clock=clock) as (served, _):
        assert (await call(served, max_tokens=800)).status == 200
        refused = await call(served, max_tokens=500)
        assert refused.status == 429
        assert refused.error["type"] == "tokens"
        clock.advance(float(refused.headers["retry-after"]))
        assert (await call(served, max_tokens=500)).status == 200


@pytest.mark.parametrize("fields", [{"max_tokens": 1001}, {"max_tokens": 300, "n": 4}])
async def test_a_request_larger_than_the_limit_can_never_pass(fields: dict[str, Any]):
    async with stage({"limits": {"tpm": 1000}}) as (served, up):
        refused = await call(served, **fields)
        assert refused.status == 400
        assert refused.error["code"] == "request_exceeds_limit"
        assert refused.error["param"] == "max_tokens"
        assert "more than the 1000 per minute of the key 'a'" in refused.error["message"]
        assert not up.requests


async def test_the_larger_of_two_output_limits_counts():
    async with stage({"limits": {"tpm": 1000}}) as (served, _):
        assert (await call(served, max_tokens=1, max_completion_tokens=1200)).status == 400


async def test_no_more_calls_at_once_than_allowed():
    gate = Gate()
    async with stage({"limits": {"concurrent": 2}}, script=answering(gate)) as (served, _):
        calls = [asyncio.create_task(call(served)) for _ in range(2)]
        await eventually(lambda: gate.came == 2, "came: {}", lambda: gate.came)
        refused = await call(served)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "1"
        gate.open()
        assert [found.status for found in await asyncio.gather(*calls)] == [200, 200]
        assert (await call(served)).status == 200


async def test_who_calls_one_at_a_time_is_never_one_too_many():
    async with stage({"limits": {"concurrent": 1}}) as (served, _), caller(served) as client:
        for _ in range(20):
            await client.send(request(chat(), authorization="Bearer key-a"))
            assert (await client.answer()).status == 200


async def test_a_hundred_at_once_on_a_hard_budget_for_ten_are_ten():
    gate = Gate()
    budget = {"usd": "0.001", "per": "day", "hard": True}  # 10 x 100 tokens
    async with stage({"budget": budget}, script=answering(gate)) as (served, up):
        calls = [asyncio.create_task(call(served, max_tokens=100)) for _ in range(100)]
        refused = []
        for done in asyncio.as_completed(calls):
            refused.append(await done)
            if len(refused) == 90:
                gate.open()
        found = sorted(answer.status for answer in refused)
        assert found == [200] * 10 + [429] * 90
        assert {a.error["code"] for a in refused if a.status == 429} == {"insufficient_quota"}
        assert {a.error["type"] for a in refused if a.status == 429} == {"insufficient_quota"}
        assert len(up.requests) == 10
        assert 'arriero_budget_left_usd{owner="a",per="day",scope="key"} 0.0' in served.metrics()
        assert 'arriero_limit_rejections_total{limit="budget",scope="key"} 90.0' in served.metrics()


async def test_a_soft_budget_is_passed_by_one_call_at_most():
    gate = Gate()
    async with stage({"budget": {"usd": "0.00095", "per": "day"}}, script=answering(gate)) as (served, up):
        calls = [asyncio.create_task(call(served, max_tokens=100)) for _ in range(50)]
        for ended, done in enumerate(asyncio.as_completed(calls), 1):
            await done
            if ended == 40:
                gate.open()
        assert len(up.requests) == 10


async def test_a_spent_budget_says_when_it_is_whole_again():
    wall = Clock(NOON)
    async with stage({"budget": {"usd": "0.0001", "per": "day", "hard": True}}, wall=wall) as (served, _):
        assert (await call(served, max_tokens=100)).status == 200
        refused = await call(served, max_tokens=100)
        assert refused.status == 429
        assert refused.error["message"] == "The key 'a' has used its budget of 0.0001 USD a day."
        assert refused.headers["retry-after"] == str(12 * 3600)
        assert refused.headers["x-should-retry"] == "false"
        wall.advance(12 * 3600)
        assert (await call(served, max_tokens=100)).status == 200


async def test_a_call_for_which_too_little_is_left_is_told_what_would_pass():
    async with stage({"budget": {"usd": "0.0001", "per": "day", "hard": True}}) as (served, _):
        assert (await call(served, max_tokens=60)).status == 200
        refused = await call(served, max_tokens=50)
        assert refused.error["message"] == (
            "This request may cost up to 0.00005 USD, and 0.00004 USD are left of the budget of the key 'a', "
            "0.0001 USD a day. Ask for fewer tokens with max_tokens."
        )
        assert (await call(served, max_tokens=40)).status == 200


async def test_a_call_over_midnight_is_counted_on_the_day_it_began():
    wall, gate = Clock(NOON), Gate()
    async with stage({"budget": {"usd": "0.0001", "per": "day", "hard": True}}, wall=wall, script=answering(gate)) as (
        served,
        _,
    ):
        late = asyncio.create_task(call(served, max_tokens=100))
        await eventually(lambda: gate.came == 1, "it never came")
        wall.advance(12 * 3600)
        gate.open()
        assert (await late).status == 200
        assert (await call(served, max_tokens=100)).status == 200


async def test_a_call_that_may_cost_more_than_the_whole_budget_can_never_pass():
    async with stage({"budget": {"usd": "0.0001", "per": "month", "hard": True}}) as (served, up):
        refused = await call(served, max_tokens=101)
        assert refused.status == 400
        assert "up to 0.000101 USD" in refused.error["message"]
        assert not up.requests


async def test_a_hard_budget_caps_what_the_cloud_may_give():
    async with stage({"budget": {"usd": 1, "per": "total", "hard": True}}) as (served, up):
        for fields in ({}, {"max_tokens": None}, {"max_completion_tokens": 20}, {"max_tokens": 30}):
            assert (await call(served, **fields)).status == 200
        assert [json.loads(body)["max_tokens"] for body in up.bodies()] == [1000, 1000, 20, 30]


async def test_a_soft_budget_leaves_the_request_as_it_is():
    async with stage({"budget": {"usd": 1, "per": "total"}}) as (served, up):
        await call(served)
        assert b"max_tokens" not in up.bodies()[0]


async def test_what_the_keys_of_a_team_spend_is_the_teams():
    keys = [{"team": "t"}, {"name": "b", "key": "key-b", "team": "t"}, {"name": "c", "key": "key-c"}]
    async with stage(*keys, teams=[{"name": "t", "limits": {"rpm": 2}}], clock=Clock()) as (served, _):
        assert (await call(served)).status == 200
        assert (await call(served, "key-b")).status == 200
        refused = await call(served)
        assert refused.status == 429
        assert "The team 't' has reached its limit" in refused.error["message"]
        assert (await call(served, "key-c")).status == 200


async def test_a_limit_of_a_key_at_a_route_leaves_other_routes_alone():
    async with stage({"limits": {"models": {"r": {"rpm": 1}}}}, clock=Clock()) as (served, _):
        assert (await call(served)).status == 200
        refused = await call(served)
        assert refused.status == 429
        assert "The key 'a' at 'r'" in refused.error["message"]
        assert (await call(served, model="other")).status == 200


async def test_a_limit_of_a_route_is_for_all_its_callers():
    async with stage(limits={"rpm": 1}, clock=Clock()) as (served, _):
        assert (await call(served)).status == 200
        assert (await call(served)).status == 429
        assert (await call(served, model="other")).status == 200


async def test_a_call_refused_by_one_limit_takes_nothing_of_the_others():
    async with stage({"limits": {"rpm": 2, "tpm": 100}}, clock=Clock()) as (served, _):
        assert (await call(served, max_tokens=80)).status == 200
        assert (await call(served, max_tokens=80)).status == 429
        found = await call(served, max_tokens=1)
        assert found.status == 200
        assert found.headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_call_that_fails_gives_back_all_but_its_turn():
    async def failing(peer: Peer) -> None:
        while await peer.request():
            await peer.send(json_answer({"error": {"message": "no"}}, 500))

    budget = {"usd": "0.0001", "per": "day", "hard": True}
    async with stage(
        {"limits": {"rpm": 10, "tpm": 200, "concurrent": 1}, "budget": budget}, script=failing, clock=Clock()
    ) as (served, _):
        for left in (9, 8, 7):
            found = await call(served, max_tokens=100)
            assert found.status == 502
            assert found.headers["x-ratelimit-remaining-requests"] == str(left)
        assert len(served.gateway.limiter.book) == 0


async def test_a_client_that_leaves_gives_its_hold_back():
    gate = Gate()
    async with stage({"limits": {"concurrent": 1}}, script=answering(gate)) as (served, _):
        async with caller(served) as client:
            await client.send(request(chat(), authorization="Bearer key-a"))
            await eventually(lambda: gate.came == 1, "it never came")
            assert len(served.gateway.limiter.book) == 1
        await eventually(lambda: not len(served.gateway.limiter.book), "still held")
        gate.open()
        assert (await call(served)).status == 200


async def test_who_has_no_limits_costs_one_look():
    async with stage({}) as (served, _):
        found = await call(served)
        assert not [name for name in found.headers if name.startswith("x-ratelimit")]
        tenant = served.gateway.keyring.tenant(b"Bearer key-a")
        assert served.gateway.limiter.rules(tenant, "r") is None


async def test_a_budget_that_is_set_anew_keeps_what_was_spent():
    async with stage({"budget": {"usd": "0.0001", "per": "day", "hard": True}}) as (served, up):
        assert (await call(served, max_tokens=100)).status == 200
        more = limited(up.url, {"budget": {"usd": "0.0002", "per": "day", "hard": True}})
        await served.gateway.reload(loading.build(more))
        assert (await call(served, max_tokens=101)).status == 429
        assert (await call(served, max_tokens=100)).status == 200
