"""A clock that is wrong (row E8): Oracle's Date sets it, for one retry and all calls after."""

import time
from typing import Any

import pytest

from providers.credentials.skew import CloudClock
from tests.oci.conftest import Stage, staged

CHAT = "/20231130/actions/chat"


def credentials(stage: Stage) -> list[str]:
    return [call["credential"] for call in stage.box.calls("oci") if call["path"] == CHAT]


def runtime(stage: Stage) -> Any:
    return stage.served.gateway.fleet.providers["oci"]


@pytest.mark.parametrize("off_s", [-3600.0, 310.0, 3600.0])
async def test_a_clock_that_is_wrong_costs_one_retry_and_then_nothing(off_s: float) -> None:
    async with staged() as stage:
        runtime(stage).wall = CloudClock(lambda: time.time() + off_s)
        assert (await stage.ask()).choices[0].message.content
        assert credentials(stage) == ["bad", "ok"]
        assert await stage.stream()
        assert credentials(stage) == ["bad", "ok", "ok"]
        assert stage.attempts() == [("oci", "ok")]


async def test_a_refusal_by_a_clock_that_is_right_is_not_tried_again() -> None:
    async with staged({"account": "groq", "model": "llama-3.1-8b-instant"}, user="ocid1.user.oc1..nobody") as stage:
        assert (await stage.ask()).choices[0].message.content
        assert credentials(stage) == ["bad"]
        assert [name for name, _ in stage.attempts()] == ["oci", "groq"]
