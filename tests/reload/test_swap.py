"""Failure catalogue E6, E7, I4: one gateway goes on on another config, and nobody on the way notices."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trustme

from gateway.config import loading
from gateway.errors import ConfigError
from gateway.parts import Parts
from tests.harness import (
    STREAM_HEAD,
    Answer,
    Connection,
    Served,
    Upstream,
    answer_bytes,
    ask,
    chat,
    chunk,
    config,
    delta,
    eventually,
    json_answer,
    route,
    serving,
    upstream,
)

DONE = b"data: [DONE]\n\n"


class Stand(NamedTuple):
    """A gateway whose route `r` is at the cloud `a`; `b` is another one. Streams end when `released` is set."""

    served: Served
    a: Upstream
    b: Upstream
    released: asyncio.Event

    def document(self, *accounts: str, **more: Any) -> dict[str, Any]:
        """A config of these accounts, the route `r` over them in this order."""
        urls = {"a": self.a.url, "b": self.b.url}
        return config({"r": route(*accounts)}, **{name: urls[name] for name in accounts}) | more

    def begin(self, **headers: str) -> "asyncio.Task[Answer]":
        """A stream."""
        return asyncio.create_task(ask(self.served, chat(stream=True), **headers))


@contextlib.asynccontextmanager
async def stand(**more: Any) -> AsyncIterator[Stand]:
    released = asyncio.Event()

    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD + chunk(delta("first ")))
            await released.wait()
            await connection.send(chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b""))
        await connection.closed()

    async with upstream(script) as a, upstream(script) as b:
        async with serving(config({"r": route("a")}, a=a.url) | more) as served:
            yield Stand(served, a, b, released)
        assert not [record for record in served.log() if record["event"] == "bug"]


async def test_a_stream_ends_at_the_provider_that_is_gone_and_then_its_connections_close() -> None:
    async with stand() as on:
        await ask(on.served)  # leaves an idle connection
        old: Any = on.served.gateway.fleet.providers["a"]
        stream = on.begin()
        await eventually(lambda: len(on.a.requests) == 2, "the stream did not begin")
        await on.served.reload(on.document("b"))
        assert (await ask(on.served)).headers["x-arriero-deployment"] == "b"
        assert not stream.done()
        assert old.client.open_connections == 1
        on.released.set()
        answer = await stream
        assert answer.done
        assert "".join(answer.deltas) == "first last"
        await eventually(lambda: old.client.open_connections == 0, "its connection stayed open")
        assert [call["status"] for call in on.served.calls()] == [200, 200, 200]


async def test_calls_under_way_finish_through_twenty_configs_and_none_fails() -> None:
    async with stand() as on:
        on.released.set()

        async def load() -> list[int]:
            return [(await ask(on.served, chat(stream=bool(i % 2)))).status for i in range(25)]

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for i in range(20):
            await on.served.reload(on.document("a", "b") if i % 2 else on.document("b"))
            await asyncio.sleep(0)
        assert [status for found in await asyncio.gather(*loads) for status in found] == [200] * 100
        await on.served.at_rest()


async def test_the_connections_of_an_account_that_did_not_change_are_kept() -> None:
    async with stand() as on:
        await ask(on.served)
        provider = on.served.gateway.fleet.providers["a"]
        await on.served.reload(on.document("a", "b"))
        await ask(on.served)
        assert on.served.gateway.fleet.providers["a"] is provider
        assert on.a.connections == 1


async def test_an_account_that_changed_is_opened_anew_and_the_old_one_closed() -> None:
    async with stand() as on:
        await ask(on.served)
        document = on.document("a")
        document["providers"]["a"]["api_key"] = "another-key"
        await on.served.reload(document)
        await ask(on.served)
        assert b"Bearer another-key" in on.a.requests[1]
        assert on.a.connections == 2
        await on.a.gone.wait()


async def test_what_is_known_of_a_deployment_that_stays_is_kept() -> None:
    async with stand() as on:
        for _ in range(3):
            await ask(on.served)
        before = on.served.gateway.fleet.routes["r"].lanes["a"].facts
        document = on.document("b", "a")
        document["routes"]["r"]["deployments"][1]["price"] = {"in": 1, "out": 1}
        document["providers"]["a"]["timeouts"] = {"connect_s": 2}
        await on.served.reload(document)
        lane = on.served.gateway.fleet.routes["r"].lanes["a"]
        assert lane.facts is before
        assert lane.look(0.0).plain.ttft is not None
        assert lane.deployment.price is not None


async def test_an_account_that_moved_keeps_its_spend_and_nothing_else() -> None:
    async with stand() as on:
        document = on.document("a")
        document["routes"]["r"]["deployments"][0]["price"] = {"in": 1, "out": 1}
        await on.served.reload(document)
        await ask(on.served)
        document["providers"]["a"]["url"] = on.b.url
        await on.served.reload(document)
        found = on.served.gateway.fleet.routes["r"].lanes["a"].look(0.0)
        assert found.plain.ttft is None
        assert found.spent.day == found.spent_account.day > 0


async def test_a_price_that_changes_mid_flight_is_paid_from_the_next_call_on() -> None:
    async with stand() as on:
        document = on.document("a")
        document["routes"]["r"]["deployments"][0]["price"] = {"in": 1, "out": 1}
        await on.served.reload(document)
        stream = on.begin()
        await eventually(lambda: len(on.a.requests) == 1, "the stream did not begin")
        document["routes"]["r"]["deployments"][0]["price"] = {"in": 1000, "out": 1000}
        await on.served.reload(document)
        on.released.set()
        await stream
        later = await ask(on.served)
        first = next(call for call in on.served.calls() if call["stream"])
        assert float(first["cost_usd"]) < 0.0001
        assert float(later.headers["x-arriero-cost-usd"]) == pytest.approx(0.004)


async def test_the_pause_of_a_refused_credential_ends_with_that_credential() -> None:
    async def picky(connection: Connection) -> None:
        while data := await connection.request():
            good = b"Bearer good" in data
            await connection.send(answer_bytes() if good else json_answer({"error": {"message": "no"}}, 401))

    async with upstream(picky) as cloud:
        document = config({"r": route("a", policies=["breaker"])}, a={"url": cloud.url, "api_key": "bad"})
        async with serving(document) as served:
            assert (await ask(served)).status == 502
            facts = served.gateway.fleet.routes["r"].lanes["a"].facts
            assert facts.cooling_until > 0
            assert facts.account.cooling_until > 0
            document["providers"]["a"]["api_key"] = "good"
            await served.reload(document)
            assert facts.cooling_until == facts.account.cooling_until == facts.failures == 0
            assert (await ask(served)).status == 200


async def test_keys_and_limits_of_the_server_are_those_of_the_new_config() -> None:
    async with stand(keys=[{"name": "one", "key": "key-one"}]) as on:
        assert (await ask(on.served, authorization="Bearer key-one")).status == 200
        new = on.document("a", keys=[{"name": "two", "key": "key-two"}], server={"max_body_bytes": 10})
        await on.served.reload(new)
        assert (await ask(on.served, authorization="Bearer key-one")).status == 401
        assert (await ask(on.served, authorization="Bearer key-two")).status == 413


async def test_the_series_of_what_is_gone_go_with_its_last_call() -> None:
    async with stand(keys=[{"name": "one", "key": "key-one"}]) as on:
        await ask(on.served, authorization="Bearer key-one")
        stream = on.begin(authorization="Bearer key-one")
        await eventually(lambda: len(on.a.requests) == 2, "the stream did not begin")
        await on.served.reload(on.document("b", keys=[{"name": "two", "key": "key-two"}]))
        assert 'deployment="a"' in on.served.metrics()
        on.released.set()
        await stream
        await eventually(lambda: 'deployment="a"' not in on.served.metrics(), "{}", on.served.metrics)
        page = on.served.metrics()
        assert 'key="one"' not in page
        assert 'arriero_attempts_total{deployment="b",outcome="ok",route="r"} 0.0' in page
        assert 'arriero_deployment_in_flight{deployment="b",route="r"} 0.0' in page


async def test_counters_of_what_stays_count_on() -> None:
    async with stand() as on:
        await ask(on.served)
        await on.served.reload(on.document("a", "b"))
        await on.served.reload(on.document("a"))
        await ask(on.served)
        await eventually(lambda: 'deployment="b"' not in on.served.metrics(), "{}", on.served.metrics)
        assert 'arriero_attempts_total{deployment="a",outcome="ok",route="r"} 2.0' in on.served.metrics()


def _broken() -> dict[str, dict[str, Any]]:
    good = {"providers": {"a": {"type": "openai", "url": "http://127.0.0.1:9/v1"}}}
    other = {"b": {"type": "openai", "url": "http://127.0.0.1:9/v1"}}
    fine = {"deployments": [{"account": "b", "model": "m"}]}
    twice = [{"name": "k", "key": "one"}, {"name": "k", "key": "two"}]
    return {
        "a policy about nobody": {
            "providers": other,
            "routes": {"new": fine, "r": {**fine, "policies": [{"sensitivity": {"restricted": ["nobody"]}}]}},
        },
        "an unknown baseline": {"providers": other, "routes": {"new": fine}, "baseline": {"model": "nothing"}},
        "an alias twice": {"providers": other, "routes": {"x": {**fine, "aliases": ["y"]}, "y": fine}},
        "a key's name twice": {"providers": other, "routes": {"new": fine}, "keys": twice},
        "no such CA": {
            "providers": {"b": {"type": "openai", "url": "https://127.0.0.1:9", "ca_file": "/nowhere"}},
            "routes": {"new": fine},
        },
        "no weights": {**good, "routes": {"new": {"deployments": ["a"]}}},
    }


@pytest.mark.parametrize("mistake", sorted(_broken()))
async def test_a_config_that_cannot_run_leaves_no_trace(mistake: str) -> None:
    async with stand() as on:
        await ask(on.served)
        parts, page = on.served.gateway.current.parts, _ours(on.served.metrics())
        with pytest.raises(ConfigError):
            await on.served.reload(_broken()[mistake])
        assert on.served.gateway.current.parts is parts
        assert _ours(on.served.metrics()) == page
        assert (await ask(on.served)).status == 200


def _ours(page: str) -> list[str]:
    """The metrics but for those of the process, which breathes."""
    breath = ("process_", "arriero_event_loop_lag", "arriero_memory_used", "python_gc")
    return [line for line in page.splitlines() if not line.startswith(breath)]


async def test_what_the_caller_of_reload_refuses_is_refused() -> None:
    def refuse(parts: Parts) -> None:
        raise ConfigError("x", "not here")

    async with stand() as on:
        with pytest.raises(ConfigError):
            await on.served.gateway.reload(loading.build(on.document("b")), refuse)
        assert (await ask(on.served)).headers["x-arriero-deployment"] == "a"


async def test_two_configs_at_once_come_one_after_the_other() -> None:
    async with stand() as on:
        await asyncio.gather(*(on.served.reload(on.document(*names)) for names in ("b", "ab", "a", "b")))
        assert (await ask(on.served)).headers["x-arriero-deployment"] == "b"
        assert list(on.served.gateway.fleet.providers) == ["b"]


async def test_a_ca_file_that_was_renewed_opens_its_accounts_anew(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    async with stand() as on:
        document = on.document("a")
        document["providers"]["a"]["ca_file"] = str(file)
        await on.served.reload(document)
        first = on.served.gateway.fleet.providers["a"]
        await on.served.reload(document)
        assert on.served.gateway.fleet.providers["a"] is first
        trustme.CA().cert_pem.write_to_path(file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)
        await on.served.reload(document)
        assert on.served.gateway.fleet.providers["a"] is not first


async def test_the_admin_api_tells_of_the_config_in_force() -> None:
    async with stand(admin={"tokens": [{"name": "ops", "token": "old"}]}) as on:
        await on.served.reload(on.document("b", admin={"tokens": [{"name": "ops", "token": "new"}]}))
        async with httpx.AsyncClient(base_url=on.served.admin_url) as admin:
            statuses = [
                (await admin.get("/admin/decisions", headers={"authorization": f"Bearer {token}"})).status_code
                for token in ("old", "new")
            ]
        assert statuses == [401, 200]
