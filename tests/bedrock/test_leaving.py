"""A client that leaves a cloud which bills to the end: the answer is read on, within bounds, and counted."""

from typing import Any

import pytest

from gateway import live
from sandbox import _bedrock_auth as auth
from sandbox.run import Sandbox
from tests.bedrock.calls import WEATHER
from tests.bedrock.test_gateway import BEDROCK, GROQ, World, world
from tests.harness import Caller, caller, chat, eventually, request, serving

KEYS = {"access_key_id": auth.ACCESS_KEY_ID, "secret_access_key": auth.SECRET_ACCESS_KEY}
FORMS: list[dict[str, Any]] = [{"stream": True}, {"stream": True, "tools": [WEATHER]}, {"n": 2}, {}]


async def asked(w: World, client: Caller, **fields: Any) -> None:
    """A call that Bedrock has taken."""
    before = len(w.box.calls("bedrock"))
    await client.send(request(chat(max_tokens=30, **fields)))
    wanted = before + fields.get("n", 1)
    await eventually(lambda: len(w.box.calls("bedrock")) == wanted, "Bedrock was not asked")


@pytest.mark.parametrize("fields", FORMS)
async def test_c4_what_bedrock_says_to_nobody_is_read_to_its_end_and_counted_as_it_counts_it(fields: Any) -> None:
    async with world() as w:
        w.box.set("bedrock", fault={"kind": "silent", "stall_s": 0.3})
        async with caller(w.served) as client:
            await asked(w, client, **fields)
            client.reset()
            await w.served.at_rest()
        assert {ended for _, ended in w.asked()} == {"done"}
        (line,) = w.served.calls()
        assert (line["status"], line["code"], line["attempts"]) == (499, "client_gone", 1)
        assert line["prompt_tokens"] == sum(call["prompt_tokens"] for call in w.box.calls())
        assert line["output_tokens"] == sum(call["answer_tokens"] for call in w.box.calls())
        (kept,) = w.served.decisions()
        assert (kept.attempts[0].outcome, kept.attempts[0].cost_estimated) == ("ok", False)
        assert kept.notes == [{"policy": "client", "note": "left; the answer is read on, for it is paid to its end"}]


async def test_c4_a_stream_whose_client_leaves_in_its_midst_is_read_to_its_end() -> None:
    async with world() as w:
        w.box.set("bedrock", fault={"kind": "stall", "after_tokens": 4, "stall_s": 0.3})
        async with caller(w.served) as client:
            await asked(w, client, stream=True)
            assert await client.head() == 200
            assert await client.piece()
            client.reset()
            await w.served.at_rest()
        assert w.asked() == [("converse-stream", "done")]
        (line,) = w.served.calls()
        assert (line["status"], line["output_tokens"]) == (499, 30)


@pytest.mark.parametrize("fields", FORMS)
async def test_c4_no_longer_than_the_cap(monkeypatch: pytest.MonkeyPatch, fields: Any) -> None:
    monkeypatch.setattr(live, "HEARD_S", 0.1)
    async with world() as w:
        w.box.set("bedrock", fault={"kind": "silent"})
        async with caller(w.served) as client:
            await asked(w, client, **fields)
            client.reset()
            await w.served.at_rest()
        await eventually(lambda: {c["ended"] for c in w.box.calls()} == {"client_closed"}, "{}", w.box.calls)
        (line,) = w.served.calls()
        assert (line["status"], line["code"]) == (499, "client_gone")


async def test_c4_no_more_of_them_than_may_go_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_HEARD", 1)
    async with world() as w:
        w.box.set("bedrock", fault={"kind": "silent"})
        for ended in (0, 1, 2):
            async with caller(w.served) as client:
                await asked(w, client)
                client.reset()
                gone = lambda: [c["ended"] for c in w.box.calls()].count("client_closed")  # noqa: E731
                await eventually(lambda: gone() == ended, "{} are closed", gone)  # noqa: B023
        assert len(w.served.gateway.live) == 1
        w.served.gateway.live.cut()  # as at the end of the grace period
        await w.served.at_rest()
        assert [line["status"] for line in w.served.calls()] == [499] * 3


async def test_c4_who_left_gets_no_further_attempt() -> None:
    account = {"timeouts": {"first_byte_s": 0.3}}
    async with world(BEDROCK, GROQ, account=KEYS | account) as w:
        w.box.set("bedrock", fault={"kind": "silent"})
        async with caller(w.served) as client:
            await asked(w, client)
            client.reset()
            await w.served.at_rest()
        assert w.box.calls("groq") == []
        (line,) = w.served.calls()
        assert (line["status"], line["code"], line["attempts"]) == (499, "client_gone", 1)


@pytest.mark.parametrize("fields", FORMS)
async def test_who_would_rather_not_pay_for_it_closes_at_once(fields: Any) -> None:
    async with world(account=KEYS | {"on_disconnect": "cancel"}) as w:
        w.box.set("bedrock", fault={"kind": "silent"})
        async with caller(w.served) as client:
            await asked(w, client, **fields)
            client.reset()
            await eventually(lambda: {c["ended"] for c in w.box.calls()} == {"client_closed"}, "{}", w.box.calls)


async def test_any_cloud_may_be_told_to_be_heard_out() -> None:
    async with Sandbox(port=0, clouds=["groq"]) as box:
        box.set("groq", fault={"kind": "stall", "after_tokens": 4, "stall_s": 0.3})
        account = {**box.servers["groq"].cloud.account(box.origins["groq"]), "on_disconnect": "drain"}
        document = {"providers": {"groq": account}, "routes": {"r": {"deployments": [GROQ], "policies": []}}}
        async with serving(document) as served:
            async with caller(served) as client:
                await client.send(request(chat(stream=True, max_tokens=30)))
                assert await client.head() == 200
                client.reset()
                await served.at_rest()
            (line,) = served.calls()
            assert (line["status"], line["output_tokens"]) == (499, 30)
        assert [call["ended"] for call in box.calls()] == ["done"]
