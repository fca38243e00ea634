"""Gateways and their database are killed under load: no call is lost, none is counted twice, every cost is the cloud's.

`make soak` runs a million calls; ARRIERO_SOAK_CALLS says how many."""

import asyncio
import contextlib
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.database import connect
from gateway.ledger.place import place
from gateway.types import Price
from sandbox.run import Sandbox
from tests import postgres, process
from tests.harness import PATIENCE_S, Answer, Caller, eventually, request

CALLS = int(os.environ.get("ARRIERO_SOAK_CALLS", "800"))
EVERY = max(CALLS // 40, 200)
"""How many calls go by between two kills."""
AT_ONCE = 16
Rows = list[tuple[Any, ...]]
PRICES = {"vllm": Price(123_457_000, 456_789_000), "groq": Price(98_765_000, 432_101_000)}
CONFIG = """
providers:
  own: {{type: vllm, url: {vllm}, api_key: {vllm_key}, metrics_every_s: 0}}
  spare: {{type: groq, url: {groq}, api_key: {groq_key}}}
routes:
  llama:
    deployments:
      - {{account: own, model: meta-llama/Llama-3.1-8B-Instruct, price: {{in: '0.123457', out: '0.456789'}}}}
      - {{account: spare, model: llama-3.1-8b-instant, price: {{in: '0.098765', out: '0.432101'}}}}
    policies: []
attempts: {{retry_budget: 1}}
store: {{ledger: '{ledger}'}}
"""


class Fleet:
    """Two gateways as processes, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.urls = ["", ""]
        self._running: list[process.Running | None] = [None, None]
        self._stacks = [contextlib.ExitStack(), contextlib.ExitStack()]

    def start(self, which: int) -> None:
        stack = self._stacks[which] = contextlib.ExitStack()
        running = stack.enter_context(process.serving(folder=self.folder))
        self._running[which], self.urls[which] = running, running.url

    def kill(self, which: int) -> None:
        """As the kernel does when memory is out: nothing is said to anybody."""
        running = self._running[which]
        assert running is not None
        self.urls[which] = ""
        running.process.kill()
        running.process.wait()
        self._stacks[which].close()

    def stop(self) -> None:
        for stack in self._stacks:
            stack.close()


class Load:
    """Clients that ask once each, at whichever gateway is up. `answered` are the calls whose whole answer came."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.sent = 0
        self.answered: set[int] = set()
        self.broken: set[int] = set()

    async def run(self) -> None:
        numbers = iter(range(CALLS))
        await asyncio.gather(*(self._client(which % 2, numbers) for which in range(AT_ONCE)))

    async def _client(self, which: int, numbers: Iterator[int]) -> None:
        client: Caller | None = None
        for n in numbers:
            while client is None:
                client = await self._connected(which)
            self.sent += 1
            try:
                answer = await self._asked(client, n)
                (self.answered if answer.whole and answer.status == 200 else self.broken).add(n)
            except (OSError, asyncio.IncompleteReadError):
                self.broken.add(n)
                client.close()
                client = None
        if client is not None:
            client.close()

    async def _connected(self, which: int) -> Caller | None:
        url = self.fleet.urls[which]
        try:
            port = int(url.rpartition(":")[2])
            return Caller(*await asyncio.open_connection("127.0.0.1", port))
        except (OSError, ValueError):
            await asyncio.sleep(0.02)  # it is being started again
            return None

    async def _asked(self, client: Caller, n: int) -> Answer:
        stream = ',"stream":true' if n % 2 else ""
        body = f'{{"model":"llama","max_tokens":4,"messages":[{{"role":"user","content":"call {n} ."}}]{stream}}}'
        await client.send(request(body.encode(), x_request_id=f"n{n}"))
        async with asyncio.timeout(PATIENCE_S * 3):
            return await client.answer()


class Record:
    """What the clouds themselves say was asked and what it costs: read while it goes on, for they forget."""

    def __init__(self, box: Sandbox) -> None:
        self._box, self._seen = box, 0
        self.costs: dict[int, list[int]] = {}
        self.asked: set[int] = set()

    async def follow(self) -> None:
        while True:
            await asyncio.to_thread(self.read, 200)
            await asyncio.sleep(0.5)

    def read(self, behind: int = 0) -> None:
        """Takes in what is over; the last ones may still be going on."""
        calls = self._box.log.listed(after=self._seen)
        for call in calls[: len(calls) - behind]:
            self._seen = call["n"]
            if found := re.search(r"call (\d+) \.", call["body"]):
                n = int(found[1])
                self.asked.add(n)
                if call["ended"] == "done" and call["status"] == 200:
                    cost = PRICES[call["cloud"]].cost(call["prompt_tokens"], call["answer_tokens"])
                    self.costs.setdefault(n, []).append(cost)


async def reap(fleet: Fleet, load: Load, server: postgres.Postgres | None, chance: random.Random) -> int:
    """Kills something every now and then until the load is over: how many gateways."""
    kills = 0
    for goal in range(EVERY, CALLS - EVERY // 2, EVERY):
        while load.sent < goal:  # noqa: ASYNC110  (it may take an hour)
            await asyncio.sleep(0.01)
        if server is not None and kills % 3 == 1:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        which = chance.randrange(2)
        await asyncio.to_thread(fleet.kill, which)
        await asyncio.to_thread(fleet.start, which)
        kills += 1
    return kills


def read(url: str, folder: Path) -> tuple[Rows, Rows]:
    database = connect(place(url, folder))
    calls = database.rows("SELECT request_id, id, outcome, estimated, cost_nano, spent_nano FROM arriero_calls")
    attempts = database.rows("SELECT call_id, n, delivered, estimated, cost_nano FROM arriero_attempts")
    database.close()
    return calls, attempts


@pytest.mark.soak
@pytest.mark.timeout(300 + CALLS // 50)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_killed_gateways_and_databases_lose_and_double_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: postgres.Postgres | None = None
    url = "sqlite:///arriero.db"
    if kind == "postgresql":
        server = request.getfixturevalue("own_server")
        url = server.database()
    with Sandbox.in_thread(clouds=["vllm", "groq"]) as box:
        box.set("vllm", fault={"kind": "status", "status": 500, "share": 0.05})
        keys = {f"{name}_key": next(iter(box.demo[name].values())) for name in ("vllm", "groq")}
        text = CONFIG.format(**box.urls, **keys, ledger=url)
        (tmp_path / "arriero.yaml").write_text(text)
        fleet, record = Fleet(tmp_path), Record(box)
        load = Load(fleet)
        try:
            await asyncio.gather(*(asyncio.to_thread(fleet.start, which) for which in (0, 1)))
            following = asyncio.create_task(record.follow())
            reaping = asyncio.create_task(reap(fleet, load, server, random.Random(7)))
            await load.run()
            kills = await reaping
            following.cancel()
            await asyncio.to_thread(fleet.stop)
            await asyncio.to_thread(fleet.start, 0)  # takes in what the last one left
            folder = tmp_path / ("arriero.journal")
            await eventually(lambda: len(list(folder.glob("*.calls"))) == 1, "not taken in: {}", lambda: {})
        finally:
            await asyncio.to_thread(fleet.stop)
        record.read()
    judge(*read(url, tmp_path), load, record, kills)


def judge(calls: Rows, attempts: Rows, load: Load, record: Record, kills: int) -> None:
    """What the rows must say, whatever happened."""
    by_request: Mapping[str, tuple[Any, ...]] = {row[0]: row for row in calls}
    assert len(by_request) == len(calls), "a call has two rows"
    assert len({row[:2] for row in attempts}) == len(attempts)
    lost = [n for n in record.asked | load.answered if f"n{n}" not in by_request]
    assert not lost, f"{len(lost)} calls have no row"
    exact = {int(row[0][1:]): row[4] for row in calls if not row[3]}
    costs = {n: sum(record.costs.get(n, ())) for n in exact}
    assert exact == costs
    assert sum(exact.values()) == sum(costs.values())
    spent: dict[str, int] = {}
    for call_id, _, _, _, cost in attempts:
        spent[call_id] = spent.get(call_id, 0) + cost
    assert all(spent.get(row[1], 0) == row[5] for row in calls)
    estimated = [row for row in calls if row[3]]
    assert len(estimated) <= kills * (AT_ONCE + 150), "more is estimated than was under way"
    assert len(load.answered) >= CALLS - kills * AT_ONCE
    print(f"{len(calls)} rows, {kills} gateways killed, {len(estimated)} estimated, {sum(exact.values())} nano-dollars")
