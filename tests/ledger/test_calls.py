"""A call leaves one row, and one of each attempt: who, where, how much, how long, how it ended."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.database import connect
from gateway.ledger.place import Storage, place
from tests.harness import (
    STREAM_HEAD,
    Connection,
    Served,
    answer_bytes,
    ask,
    caller,
    chat,
    chunk,
    config,
    delta,
    json_answer,
    request,
    route,
    serving,
    upstream,
)

PRICED = {"account": "a", "model": "m", "price": {"in": 1, "out": 2, "cached_in": "0.25"}}


@contextlib.asynccontextmanager
async def with_ledger(document: dict[str, Any], url: str, folder: Path) -> AsyncIterator[Served]:
    """A gateway on the config with a ledger and a baseline."""
    document = document | {"store": {"ledger": url}, "baseline": {"model": "gpt-4o"}}
    async with serving(document, storage=Storage(folder)) as served:
        yield served


async def rows(served: Served, table: str) -> list[dict[str, Any]]:
    """The rows of a table as they are now, oldest first."""
    ledger = served.gateway.ledger
    assert ledger is not None
    columns = "id" if table == "arriero_calls" else "call_id, n"

    def ask_(database: Any) -> list[dict[str, Any]]:
        names = _names(database, table)
        found = database.rows(f"SELECT {', '.join(names)} FROM {table} ORDER BY at_ms, {columns}")
        return [dict(zip(names, row, strict=True)) for row in found]

    return await ledger.read(ask_)


def _names(database: Any, table: str) -> list[str]:
    if database.kind == "sqlite":
        return [name for (name,) in database.rows("SELECT name FROM pragma_table_info(?)", (table,))]
    sql = "SELECT column_name FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position"
    return [name for (name,) in database.rows(sql, (table,))]


def whole(usage: dict[str, Any] | None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}
    return json_answer(body | ({"usage": usage} if usage else {}))


async def test_a_call_and_its_attempt(url: str, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            usage = {"prompt_tokens": 1000, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 400}}
            await connection.send(whole(usage))

    async with upstream(script) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url)
        async with with_ledger(document, url, tmp_path) as served:
            answer = await ask(served, x_request_id="mine", x_arriero_labels="region=eu")
            (call,), (attempt,) = await rows(served, "arriero_calls"), await rows(served, "arriero_attempts")
    assert call["id"] == attempt["call_id"] == answer.headers["x-arriero-decision"]
    assert (call["request_id"], call["key_name"], call["route"]) == ("mine", "anonymous", "r")
    assert (call["deployment"], call["cloud"], call["model"]) == ("a", "openai", "m")
    assert (call["prompt_tokens"], call["cached_tokens"], call["output_tokens"]) == (1000, 400, 7)
    assert call["cost_nano"] == call["spent_nano"] == attempt["cost_nano"] == 600_000 + 100_000 + 14_000
    assert answer.headers["x-arriero-cost-usd"] == "0.000714"
    assert (call["baseline_model"], call["baseline_nano"]) == ("gpt-4o", 600 * 2500 + 400 * 1250 + 7 * 10_000)
    assert (call["outcome"], call["status"], call["attempts"], call["estimated"]) == ("ok", 200, 1, 0)
    assert json.loads(call["labels"]) == {"region": "eu"}
    assert json.loads(call["decision"])["order"] == ["a"]
    assert (attempt["outcome"], attempt["delivered"], attempt["n"]) == ("ok", 1, 1)
    price = json.loads(attempt["price"])
    assert (price["source"], price["tokens"]["input"], price["tokens"]["cached"]) == ("config", 10**9, 25 * 10**7)


async def test_who_is_refused_by_every_policy_leaves_a_row_without_attempts(url: str, tmp_path: Path) -> None:
    document = config({"r": route("a", policies=[{"sensitivity": {"x": ["a"]}}])}, a="http://127.0.0.1:1/v1")
    async with with_ledger(document, url, tmp_path) as served:
        await ask(served, x_arriero_labels="sensitivity=y")
        (call,) = await rows(served, "arriero_calls")
        assert await rows(served, "arriero_attempts") == []
    assert (call["outcome"], call["status"], call["attempts"], call["spent_nano"]) == ("failed", 503, 0, 0)


async def test_a_failed_attempt_that_may_be_billed_costs_us_and_not_the_client(url: str, tmp_path: Path) -> None:
    async def breaks(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    async def works(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer_bytes())

    second = {**PRICED, "account": "b"}
    async with upstream(breaks) as bad, upstream(works) as good:
        document = config({"r": route(PRICED, second)}, a=bad.url, b=good.url)
        async with with_ledger(document, url, tmp_path) as served:
            await ask(served)
            (call,), (first, last) = await rows(served, "arriero_calls"), await rows(served, "arriero_attempts")
    assert (first["outcome"], first["delivered"], first["estimated"]) == ("reset", 0, 1)
    assert first["cost_nano"] > 0
    assert (last["outcome"], last["delivered"], last["estimated"]) == ("ok", 1, 0)
    assert call["cost_nano"] == last["cost_nano"] == 3 * 1000 + 1 * 2000
    assert call["spent_nano"] == first["cost_nano"] + last["cost_nano"]


async def test_an_attempt_that_never_reached_the_cloud_or_that_it_refused_costs_nothing(
    url: str, tmp_path: Path
) -> None:
    async def refuses(connection: Connection) -> None:
        while await connection.request():
            await connection.send(json_answer({"error": {"message": "no"}}, 500))

    second = {**PRICED, "account": "b"}
    async with upstream(refuses) as bad:
        document = config({"r": route(PRICED, second)}, a="http://127.0.0.1:1/v1", b=bad.url)
        async with with_ledger(document, url, tmp_path) as served:
            await ask(served)
            (call,), attempts = await rows(served, "arriero_calls"), await rows(served, "arriero_attempts")
    assert [(a["outcome"], a["cost_nano"]) for a in attempts] == [("refused", 0), ("server_error", 0)]
    assert (call["outcome"], call["status"], call["cost_nano"], call["spent_nano"]) == ("failed", 502, 0, 0)


async def test_a_stream_that_breaks_costs_its_prompt_and_what_came(url: str, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD + b"".join(chunk(delta(word)) for word in ("a", "b", "c")))
        connection.close()

    async with upstream(script) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url)
        async with with_ledger(document, url, tmp_path) as served:
            await ask(served, chat(stream=True))
            (call,), (attempt,) = await rows(served, "arriero_calls"), await rows(served, "arriero_attempts")
    assert (call["outcome"], call["code"], call["estimated"]) == ("incomplete", "stream_incomplete", 1)
    assert (attempt["delivered"], attempt["output_tokens"]) == (1, 3)
    assert call["cost_nano"] == call["prompt_tokens"] * 1000 + 3 * 2000


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_call_whose_client_leaves_before_its_answer_is_estimated(
    url: str, tmp_path: Path, stream: bool
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.closed()

    async with upstream(script) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url)
        async with with_ledger(document, url, tmp_path) as served:
            async with caller(served) as client:
                await client.send(request(chat(stream=stream, max_tokens=50)))
                async with asyncio.timeout(20):
                    await cloud.asked.wait()
                client.reset()
            await served.at_rest()
            (call,), (attempt,) = await rows(served, "arriero_calls"), await rows(served, "arriero_attempts")
    assert (call["outcome"], call["status"], call["estimated"]) == ("client_gone", 499, 1)
    assert (attempt["outcome"], attempt["delivered"]) == ("client_gone", 0)
    tokens = attempt["output_tokens"]
    assert 0 <= tokens <= (0 if stream else 50)
    cost = attempt["prompt_tokens"] * 1000 + tokens * 2000
    assert call["cost_nano"] == call["spent_nano"] == attempt["cost_nano"] == cost > 0


async def test_rows_survive_a_restart(url: str, tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer_bytes())

    async with upstream(script) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url)
        for _ in range(2):
            async with with_ledger(document, url, tmp_path) as served:
                await ask(served)
        async with with_ledger(document, url, tmp_path) as served:
            assert len(await rows(served, "arriero_calls")) == 2
    assert list(place(url, tmp_path).journal.iterdir()) == []


async def test_a_gateway_without_a_ledger_keeps_none(tmp_path: Path) -> None:
    async with serving(config({"r": route("a")}, a="http://127.0.0.1:1/v1")) as served:
        assert served.gateway.ledger is None


def test_both_databases_have_the_same_columns(postgres_server: Any, tmp_path: Path) -> None:
    from gateway.ledger.migrations import migrate
    from gateway.ledger.rows import ATTEMPTS, CALLS

    for url in ("sqlite:///x.db", postgres_server.database()):
        database = connect(place(url, tmp_path))
        migrate(database)
        assert _names(database, "arriero_calls") == [name for name, _ in CALLS]
        assert _names(database, "arriero_attempts") == [name for name, _ in ATTEMPTS]
        database.close()


async def test_who_leaves_before_the_answer_is_held_to_a_budget_too() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.closed()

    async with upstream(script) as cloud:
        budget = {"usd": "0.000001", "per": "total"}
        document = config({"r": route(PRICED, budget=budget)}, a=cloud.url)
        async with serving(document) as served:
            async with caller(served) as client:
                await client.send(request(chat(max_tokens=50)))
                async with asyncio.timeout(20):
                    await cloud.asked.wait()
                client.reset()
            await served.at_rest()
            assert (await ask(served)).status == 429
