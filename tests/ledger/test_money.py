"""Every way a cloud may bill: cached and long prompts, batches, characters, own GPUs; new prices change no old row."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import charges
from gateway.app import Gateway
from gateway.catalog import Catalog
from gateway.config.loading import build
from gateway.ledger.place import MEMORY, Storage
from gateway.types import Call, Candidate, Deployment, Price, Quantiles, Speed, Tenant, Usage
from tests.harness import CATALOG, Connection, ask, config, json_answer, route, serving, upstream
from tests.ledger.test_calls import rows

MILLION = 1_000_000


def priced(price: dict[str, Any], **fields: Any) -> Deployment:
    """The deployment that a config with that price makes."""
    document = config({"r": route({"account": "a", "model": "m", "price": price, **fields})}, a="http://127.0.0.1:1/v1")
    return Gateway(build(document), catalog=CATALOG).fleet.routes["r"].lanes["a"].deployment


def cost(price: Price | None, prompt: int, output: int, cached: int = 0) -> int:
    candidate = Candidate(deployment=Deployment(name="d", account="d", cloud="c", model="m"), price=price)
    return charges.nano(candidate, Usage(prompt, output, cached))


def test_cached_prompt_tokens_cost_their_own_price_or_the_full_one() -> None:
    dear, cheap = priced({"in": 1, "out": 2}).price, priced({"in": 1, "out": 2, "cached_in": "0.1"}).price
    assert cost(dear, MILLION, MILLION, 400_000) == 3 * 10**9
    assert cost(cheap, MILLION, MILLION, 400_000) == 600_000_000 + 40_000_000 + 2 * 10**9
    assert cost(cheap, 10, 0, 10**12) == cost(cheap, 10, 0, 10)  # a cloud's slip is no credit
    free = priced({"in": 1, "out": 2, "cached_in": 0}).price
    assert cost(free, MILLION, 0, MILLION) == 0


def test_a_long_prompt_costs_the_long_price_as_a_whole() -> None:
    price = priced({"in": 1, "out": 2, "long": {"above_tokens": 1000, "in": 3, "out": 5, "cached_in": 1}}).price
    assert cost(price, 1000, 100) == 1000 * 1000 + 100 * 2000
    assert cost(price, 1001, 100) == 1001 * 3000 + 100 * 5000
    assert cost(price, 2000, 0, 500) == 1500 * 3000 + 500 * 1000


def test_a_batch_deployment_takes_the_catalogues_batch_price() -> None:
    row = next(row for row in CATALOG.rows() if row.batch is not None and row.cloud == "openai")
    assert row.list_price("batch") == row.batch
    assert row.list_price() != row.batch


def test_the_catalogues_price_of_cached_tokens_is_used() -> None:
    row = CATALOG.by_id("openai", "gpt-4o")
    assert row is not None
    assert row.list_price() == Price(2_500_000_000, 10_000_000_000, cached=1_250_000_000)


def test_characters_are_billed_where_the_cloud_bills_those() -> None:
    deployment = Deployment(
        name="d", account="d", cloud="oci", model="m", per_character=Price(180_000_000, 180_000_000)
    )
    candidate = Candidate(deployment=deployment, price=Price(720_000_000, 720_000_000))
    used = Usage(100, 50, prompt_characters=410, output_characters=190)
    assert charges.nano(candidate, used) == 600 * 180
    assert charges.nano(candidate, Usage(100, 50)) == 150 * 720  # it did not count them: by tokens


@given(
    st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**12), st.integers(0, 10**12)
)
def test_a_cost_is_exact_and_rounded_once(prompt: int, output: int, cached: int, price_in: int, price_out: int) -> None:
    found = Price(price_in, price_out, cached=price_in // 4).cost(prompt, output, cached)
    hit = min(cached, prompt)
    exact = price_in * (prompt - hit) + (price_in // 4) * hit + price_out * output
    assert abs(found * MILLION - exact) * 2 <= MILLION


def test_what_never_came_is_estimated_by_the_time_it_had() -> None:
    deployment = Deployment(name="d", account="d", cloud="c", model="m")
    known = Candidate(deployment=deployment, plain=Speed(tpot=Quantiles(0.02, 0.03, 9, 0.0)))
    call = Call(
        id="c", tenant=Tenant("k"), route="r", model="r", endpoint="chat/completions", prompt_tokens=9,
        expected_output_tokens=100,
    )  # fmt: skip
    assert charges.undelivered(call, known, 1.0) == Usage(9, 50, estimated=True)
    assert charges.undelivered(call, known, 60.0) == Usage(9, 100, estimated=True)
    assert charges.undelivered(call, Candidate(deployment=deployment), 0.1) == Usage(9, 20, estimated=True)


async def test_a_new_price_changes_no_row_that_is_there(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": 1}
            await connection.send(
                json_answer({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})
            )

    def document(url: str, price: int) -> dict[str, Any]:
        deployment = {"account": "a", "model": "m", "price": {"in": price, "out": price}}
        return config({"r": route(deployment)}, a=url) | {"store": {"ledger": MEMORY}}

    async with upstream(script) as cloud, serving(document(cloud.url, 1), storage=Storage(tmp_path)) as served:
        await ask(served)
        await served.reload(document(cloud.url, 7))
        await ask(served)
        found = await rows(served, "arriero_attempts")
    assert [row["cost_nano"] for row in found] == [11_000, 77_000]
    assert [json.loads(row["price"])["tokens"]["input"] for row in found] == [10**9, 7 * 10**9]


async def test_own_gpus_have_their_loaded_cost_and_what_the_call_added(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if data.startswith(b"GET"):
                metrics = b"vllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.1\n"
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(metrics)
                await connection.send(head + metrics)
                continue
            choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": 10}
            await connection.send(
                json_answer({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})
            )

    async with upstream(script) as cloud:
        own = {"type": "vllm", "url": cloud.url, "gpu_usd_per_hour": 3.6}
        document = config({"r": route("own")}, own=own) | {"store": {"ledger": MEMORY}}
        async with serving(document, storage=Storage(tmp_path)) as served:
            facts = served.gateway.fleet.routes["r"].lanes["own"].facts
            facts.see_load(0, 0.1)
            await ask(served)
            (row,) = await rows(served, "arriero_attempts")
    assert row["cost_nano"] > 0
    assert row["marginal_nano"] == 0  # it had room


@pytest.mark.parametrize("cloud", sorted({row.cloud for row in Catalog.load().rows()}))
def test_no_cached_or_batch_price_of_the_catalogue_is_dearer_than_the_list(cloud: str) -> None:
    for row in CATALOG.rows(cloud):
        if row.price and row.cached_input is not None:
            assert row.cached_input <= row.price.input, row.id
        if row.price and row.batch:
            assert row.batch.input <= row.price.input, row.id
