"""Oracle's OpenAI-compatible path, signed: for who has an identity of Oracle's and no key of the service."""

import time
from typing import Any

import pytest

from gateway.errors import ConfigError
from providers.credentials.skew import CloudClock
from sandbox._oci_tokens import FEDERATION
from tests.oci.conftest import staged

PATH = "/openai/v1/chat/completions"


async def test_calls_are_passed_through_and_signed() -> None:
    async with staged(api="openai") as stage:
        answer = await stage.ask(max_tokens=6)
        assert answer.usage.completion_tokens == 6
        text = "".join(c.choices[0].delta.content or "" for c in await stage.stream(max_tokens=6) if c.choices)
        assert text == answer.choices[0].message.content
        asked = stage.box.calls("oci")
        assert [(call["path"], call["credential"]) for call in asked] == [(PATH, "ok")] * 2
        assert b"compartmentId" not in asked[0]["body"].encode()


async def test_who_pays_is_told_and_another_is_refused() -> None:
    async with staged(
        {"account": "groq", "model": "llama-3.1-8b-instant"}, api="openai", compartment="ocid1.x"
    ) as stage:
        await stage.ask()
        assert [call["credential"] for call in stage.box.calls("oci")] == ["bad"]
        assert [name for name, _ in stage.attempts()] == ["oci", "groq"]


async def test_an_instance_signs_with_its_own_token_and_has_it_anew_when_it_is_refused() -> None:
    own: dict[str, Any] = dict.fromkeys(("key", "tenancy", "user", "fingerprint"))
    where = {"metadata_url": "{origin}/opc/v2", "federation_url": "{origin}"}
    async with staged(api="openai", auth="instance_principal", **own, **where) as stage:
        assert (await stage.ask(max_tokens=4)).usage.completion_tokens == 4
        stage.box.set("oci", fault={"kind": "status", "status": 401, "path": PATH, "times": 1})
        assert (await stage.ask(max_tokens=4)).usage.completion_tokens == 4
        paths = [call["path"] for call in stage.box.calls("oci")]
        assert paths.count(FEDERATION) == 2
        assert paths.count(PATH) == 3


async def test_a_clock_that_is_wrong_is_set() -> None:
    async with staged(api="openai") as stage:
        runtime: Any = stage.served.gateway.fleet.providers["oci"]
        runtime.wall = CloudClock(lambda: time.time() - 3600)
        await stage.ask()
        await stage.ask()
        assert [call["credential"] for call in stage.box.calls("oci")] == ["bad", "ok", "ok"]


async def test_no_key_is_needed_but_who_pays() -> None:
    with pytest.raises(ConfigError, match="'compartment' is missing"):
        async with staged(api="openai", compartment=None):
            pass


async def test_oracle_is_told_of_no_trace_and_what_signs_is_never_shown() -> None:
    async with staged(api="openai") as stage:
        provider: Any = stage.served.gateway.fleet.providers["oci"]
        assert provider.account.trace_context is False
        assert provider.secrets
        assert provider.secrets == stage.served.gateway.config.accounts["oci"].secrets()
