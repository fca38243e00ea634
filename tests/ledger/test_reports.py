"""Spend and savings add up what the ledger holds, exactly, by command and by admin API; `explain` finds old calls."""

import asyncio
import contextlib
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from gateway.commands.spend import savings_found, savings_text, spend_text, to_csv
from gateway.ledger.place import MEMORY, Storage
from gateway.ledger.reports import DAY_MS, Period, Saved, period
from tests.harness import Connection, Served, ask, chat, config, json_answer, route, serving, upstream

NOW_S = 1_795_000_000.0  # 2026-11-18
DEAR = {"account": "dear", "model": "d", "price": {"in": 3, "out": 4}}
CHEAP = {"account": "cheap", "model": "c", "price": {"in": 1, "out": 2}}
KEYS = [{"name": "one", "key": "key-of-one", "team": "blue"}, {"name": "two", "key": "key-of-two"}]


def answer() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return json_answer({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


@contextlib.asynccontextmanager
async def three_calls(url: str, folder: Path) -> AsyncIterator[Served]:
    """A gateway that answered: `one` at the cheap cloud, after the dear one broke; `two` twice at the cheap one."""

    async def works(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer())

    async def breaks(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    async with upstream(works) as good, upstream(breaks) as bad:
        routes = {"first": route(DEAR, CHEAP), "second": route(CHEAP)}
        document = config(routes, dear=bad.url, cheap=good.url) | {
            "keys": KEYS, "teams": [{"name": "blue"}], "store": {"ledger": url}, "baseline": {"model": "gpt-4o"},
        }  # fmt: skip
        async with serving(document, storage=Storage(folder), wall=lambda: NOW_S) as served:
            await ask(served, chat("first"), authorization="Bearer key-of-one")
            await ask(served, chat("second"), authorization="Bearer key-of-two")
            await ask(served, chat("second"), authorization="Bearer key-of-two")
            yield served


async def asked(served: Served, path: str, **query: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        found = await client.get(f"{served.admin_url}{path}", params={"since": "2026-11-01", **query})
        assert found.status_code == 200, found.text
        return dict(found.json())


CALL = 1000 * 1000 + 100 * 2000
"""Nano-dollars of each call at the cheap cloud."""


async def test_spend_by_who_called_and_by_who_answered(url: str, tmp_path: Path) -> None:
    async with three_calls(url, tmp_path) as served:
        by_key = await asked(served, "/admin/spend", by="key")
        by_team = await asked(served, "/admin/spend", by="team")
        by_cloud = await asked(served, "/admin/spend", by="cloud")
        by_deployment = await asked(served, "/admin/spend", by="deployment")
        by_day = await asked(served, "/admin/spend", by="day")
    one, two = {line["name"]: line for line in by_key["lines"]}["one"], by_key["lines"][0]
    lost = one["spent_nano"] - CALL  # the attempt at the dear cloud, estimated by its prompt
    assert two["name"] == "two"
    assert (two["count"], two["charged_nano"], two["spent_nano"]) == (2, 2 * CALL, 2 * CALL)
    assert (one["count"], one["charged_nano"], one["prompt_tokens"]) == (1, CALL, 1000)
    assert 0 < lost < CALL
    assert one["estimated_share"] == 1.0  # of the call as a whole
    assert [line["name"] for line in by_team["lines"]] == ["-", "blue"]
    assert [(line["name"], line["count"]) for line in by_cloud["lines"]] == [("openai", 4)]
    found = {line["name"]: line for line in by_deployment["lines"]}
    words = ("count", "charged_nano", "spent_nano")
    assert [found["cheap"][word] for word in words] == [3, 3 * CALL, 3 * CALL]
    assert [found["dear"][word] for word in words] == [1, 0, lost]
    assert [line["name"] for line in by_day["lines"]] == ["2026-11-18"]
    for found in (by_key, by_team, by_cloud, by_deployment, by_day):
        assert found["total"]["spent_nano"] == 3 * CALL + lost
        assert found["total"]["charged_nano"] == 3 * CALL


async def test_savings_against_the_baseline(url: str, tmp_path: Path) -> None:
    async with three_calls(url, tmp_path) as served:
        (line,) = (await asked(served, "/admin/savings"))["lines"]
        spent = (await asked(served, "/admin/spend"))["total"]["spent_usd"]
        compared = [row for row in served.metrics().splitlines() if row.startswith("arriero_baseline_usd_total")]
    assert [(row.partition("{")[2].partition("}")[0], float(row.split()[1])) for row in compared] == [
        ('route="first"', 0.0035),
        ('route="second"', 0.007),
    ]
    assert (line["baseline"], line["calls"], line["spent_usd"]) == ("gpt-4o", 3, spent)
    assert line["baseline_usd"] == "0.0105"  # 3 * (1000 * 2.50 + 100 * 10.00) / 1M
    assert 0.6 < line["saved_share"] < 0.7


async def test_what_a_key_a_team_and_a_route_were_charged(url: str, tmp_path: Path) -> None:
    async with three_calls(url, tmp_path) as served:
        ledger = served.gateway.ledger
        assert ledger is not None
        tenants = {name: served.gateway.keyring.tenant(f"Bearer key-of-{name}".encode()) for name in ("one", "two")}
        assert await ledger.spent("key", tenants["two"].id, NOW_S - 1) == 2 * CALL
        assert await ledger.spent("key", tenants["two"].id, NOW_S + 1) == 0
        assert await ledger.spent("team", "blue", NOW_S - 1) == CALL
        assert await ledger.spent("route", "second", 0) == 2 * CALL


async def test_a_period_holds_what_is_in_it(tmp_path: Path) -> None:
    async with three_calls(MEMORY, tmp_path) as served:
        before = await asked(served, "/admin/spend", since="2026-11-01", until="2026-11-17")
        after = await asked(served, "/admin/spend", since="2026-11-19T00:00:00Z", until="2027-01-01")
        assert before["lines"] == after["lines"] == []
        assert before["total"]["spent_nano"] == 0
        async with httpx.AsyncClient() as client:
            for query in ("since=yesterday", "since=2026-11-02&until=2026-11-01", "by=prompt"):
                found = await client.get(f"{served.admin_url}/admin/spend?{query}")
                assert found.status_code == 400, query
                assert found.json()["error"]["message"]


async def test_explain_finds_in_the_ledger_what_memory_has_forgotten(url: str, tmp_path: Path) -> None:
    async with three_calls(url, tmp_path) as served:
        got = await ask(served, chat("first"), authorization="Bearer key-of-one", x_request_id="mine")
        id_ = got.headers["x-arriero-decision"]
        fresh = await asked(served, f"/admin/decisions/{id_}")
        served.gateway.decisions._lines.clear()
        old = await asked(served, f"/admin/decisions/{id_}")
        by_request = await asked(served, "/admin/decisions/mine")
        async with httpx.AsyncClient() as client:
            unknown = await client.get(f"{served.admin_url}/admin/decisions/nobody")
    assert old == by_request
    assert old == fresh
    assert [attempt["outcome"] for attempt in old["attempts"]] == ["reset", "ok"]
    assert unknown.status_code == 404
    assert "in the ledger" in unknown.json()["error"]["message"]


async def command(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def test_the_commands_ask_the_gateway(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async with three_calls(MEMORY, tmp_path) as served:
        at = ("--admin-url", served.admin_url, "--since", "2026-11-01")
        assert await command("spend", "--by", "route", *at) == 0
        table = capsys.readouterr().out
        assert await command("spend", "--by", "route", "--csv", *at) == 0
        lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert await command("savings", *at) == 0
        saved = capsys.readouterr().out
        assert await command("savings", "--json", *at) == 0
        assert json.loads(capsys.readouterr().out)["lines"][0]["calls"] == 3
    assert "Spend by route since 2026-11-01 00:00 UTC, in US dollars" in table
    assert [line.split()[:2] for line in table.splitlines() if line.startswith(("second", "first", "total"))] == [
        ["second", "2"],
        ["first", "1"],
        ["total", "3"],
    ]
    assert [(line["name"], line["charged_usd"]) for line in lines] == [("second", "0.0024"), ("first", "0.0012")]
    assert "3 calls since 2026-11-01" in saved
    assert "at gpt-4o" in saved


async def test_without_a_gateway_the_commands_read_the_ledger(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str
) -> None:
    async with three_calls(url, tmp_path):
        pass
    file = tmp_path / "arriero.yaml"
    address = url.replace("sqlite:///", f"sqlite:///{tmp_path}/")
    file.write_text(
        "providers: {a: {type: openai}}\nroutes: {r: {deployments: [{account: a, model: m}]}}\n"
        f"store: {{ledger: '{address}'}}\n"
    )
    nobody = ("--admin-url", "http://127.0.0.1:1", "--config", str(file), "--since", "2026-11-01")
    assert await command("spend", "--json", *nobody) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["total"]["charged_nano"] == 3 * CALL
    assert "no gateway answers at http://127.0.0.1:1: read from" in said.err


async def test_commands_that_cannot_work_say_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nobody = ("--admin-url", "http://127.0.0.1:1", "--config", str(tmp_path / "arriero.yaml"))
    assert await command("spend", *nobody) == 2
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "arriero.yaml").write_text(
        "providers: {a: {type: openai}}\nroutes: {r: {deployments: [{account: a, model: m}]}}\n"
        f"store: {{ledger: 'sqlite:///{tmp_path}/none.db'}}\n"
    )
    assert await command("savings", *nobody) == 1
    assert "there is no ledger at" in capsys.readouterr().err
    assert await command("spend", "--since", "soon", *nobody) == 2
    assert "'soon' must be like 2026-11-01" in capsys.readouterr().err


def test_periods_are_read_as_people_write_them() -> None:
    def wall() -> float:
        return NOW_S

    assert period(None, None, wall) == Period(1_793_491_200_000, int(NOW_S * 1000) + DAY_MS)  # 2026-11-01
    assert period("2026-11-17", "2026-11-18", wall) == Period(1_794_873_600_000, 1_794_960_000_000)
    assert period("2026-11-17T12:00:00+02:00", None, wall).since_ms == 1_794_909_600_000
    assert period("24h", None, wall).since_ms == period("1d", None, wall).since_ms == int(NOW_S * 1000) - DAY_MS


def test_a_name_is_no_formula_in_a_spreadsheet() -> None:
    assert to_csv({"lines": [{"name": "=1+1", "count": 2}]}) == "name,count\n'=1+1,2\n"


def test_what_cost_more_than_the_baseline_is_a_number_below_zero() -> None:
    found = savings_found(Period(0, 1), [Saved("gpt-4o", 2, 10, 20, 3_000_000, 1_000_000, 0)])
    assert to_csv(found).splitlines()[1] == "gpt-4o,2,10,20,0.003,0.001,-0.002,-2.0,0.0"
    assert "saved                   -$0.002  (-200.0%)" in savings_text(found)


def test_nothing_is_said_in_words() -> None:
    nothing = {"by": "key", "since": "2026-11-01T00:00:00Z", "lines": [], "total": {}}
    assert savings_text(nothing).startswith("Nothing to compare since 2026-11-01 00:00 UTC: say `baseline")
    assert spend_text(nothing) == "No calls since 2026-11-01 00:00 UTC."
