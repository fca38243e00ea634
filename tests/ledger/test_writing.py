"""Nothing of a request waits for the ledger: database away or hanging, disk full, lines that no database takes."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.ledger import rows
from gateway.ledger.database import Database, connect
from gateway.ledger.insert import insert
from gateway.ledger.journal import Full, Journal, orphans
from gateway.ledger.migrations import MIGRATIONS, migrate
from gateway.ledger.place import Place, Storage, place
from gateway.ledger.retention import DAY_MS, EVERY_S, Bound, Retention
from gateway.ledger.rows import ATTEMPTS, CALLS, Lines, intent
from gateway.ledger.underway import Underway, records
from gateway.ledger.writer import Batch, Writer
from gateway.router import Attempt, Decision
from gateway.types import Call, Candidate, Deployment, Price, Tenant, Usage
from tests import postgres
from tests.harness import (
    Clock,
    Connection,
    Served,
    answer_bytes,
    ask,
    config,
    eventually,
    route,
    serving,
    upstream,
)
from tests.needs import need

PRICED = {"account": "a", "model": "m", "price": {"in": 1, "out": 2}}
KEYS = [{"name": "k", "key": "the-key"}]
AT_MS = 1_795_000_000_000


async def works(connection: Connection) -> None:
    while await connection.request():
        await connection.send(answer_bytes())


def finished(n: int, at_ms: int = AT_MS, **fields: Any) -> rows.Finished:
    """A call that ended, as the gateway hands it over."""
    price = Price(1_000_000_000, 2_000_000_000)
    candidate = Candidate(deployment=Deployment(name="d", account="d", cloud="c", model="m", price=price), price=price)
    call = Call(id=f"n{n}", tenant=Tenant("k", id="k1"), route="r", model="r", endpoint="chat/completions", **fields)
    attempt = Attempt(candidate, 1000.0, "ok", first_byte=1000.5, ended=1001.0, cost_nano=5000, usage=Usage(3, 1))
    decision = Decision(f"dec_{n}", call, 1000.0, at_ms / 1000, (), [candidate], {}, [], [candidate], [attempt])
    return rows.Finished(decision, attempt, 200, "", 1.0)


line = Lines().line


def count(database: Database, table: str = "arriero_calls") -> int:
    ((found,),) = database.rows(f"SELECT COUNT(*) FROM {table}")
    return int(found)


class Said:
    """The states that a writer told of."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    def states(self, event: str) -> list[str]:
        return [fields["state"] for name, fields in self.lines if name == event]


def writer(at: Place, journal: Journal | None, said: Said) -> Writer:
    return Writer(at, journal, Retention(Bound(), Clock(), Clock()), said)


async def done(condition: Callable[[], object]) -> None:
    await eventually(lambda: bool(condition()), "it never came to that")


async def test_without_a_ledger_nothing_is_written_down(tmp_path: Path) -> None:
    async with upstream(works) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url) | {"store": {"ledger": "none"}}
        async with serving(document, storage=Storage(tmp_path, "sqlite:///arriero.db")) as served:
            assert (await ask(served)).status == 200
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"{served.admin_url}/admin/spend")).status_code == 404
    assert os.listdir(tmp_path) == []


async def test_while_the_database_is_away_calls_are_served_and_wait_in_the_journal(
    own_server: postgres.Postgres, tmp_path: Path
) -> None:
    async with upstream(works) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url) | {"store": {"ledger": own_server.database()}}
        async with serving(document, storage=Storage(tmp_path)) as served:
            await ask(served)
            await asyncio.to_thread(own_server.kill)
            for _ in range(20):
                assert (await ask(served)).status == 200
            await eventually(lambda: "arriero_ledger_database_away 1.0" in served.metrics(), "never away")
            await eventually(lambda: tally(served).waiting >= 20, "not kept")
            async with httpx.AsyncClient() as client:
                refused = await client.get(f"{served.admin_url}/admin/spend")
            assert (refused.status_code, "calls wait in the journal" in refused.text) == (503, True)
            await asyncio.to_thread(own_server.start)
            await eventually(lambda: tally(served).waiting == 0, "never written")
            ledger = served.gateway.ledger
            assert ledger is not None
            assert await ledger.read(count) == 21
            await eventually(lambda: states(served) == ["away", "ok"], "said: {}", lambda: states(served))
            assert "arriero_ledger_database_away 0.0" in served.metrics()


async def test_a_database_that_hangs_keeps_no_call_from_the_journal(
    own_server: postgres.Postgres, tmp_path: Path
) -> None:
    async with upstream(works) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url) | {"store": {"ledger": own_server.database()}}
        async with serving(document, storage=Storage(tmp_path)) as served:
            await ask(served)
            await eventually(lambda: tally(served).waiting == 0, "not written")
            own_server.children(signal.SIGSTOP)
            own_server.send(signal.SIGSTOP)
            try:
                for _ in range(10):
                    assert (await ask(served)).status == 200
                ledger = served.gateway.ledger
                assert ledger is not None
                await eventually(lambda: ledger.journal_bytes > 0 and not ledger._slots, "not journaled")
            finally:
                own_server.children(signal.SIGCONT)
                own_server.send(signal.SIGCONT)
            await eventually(lambda: tally(served).waiting == 0, "never written")


def states(served: Served) -> list[str]:
    return [record["state"] for record in served.log() if record["event"] == "ledger"]


def tally(served: Served) -> Any:
    ledger = served.gateway.ledger
    assert ledger is not None
    return ledger.tally


async def test_a_database_that_is_away_at_the_start_does_not_keep_the_gateway_from_serving(tmp_path: Path) -> None:
    async with upstream(works) as cloud:
        ledger = f"postgresql://me:secret@/x?host={tmp_path}"
        document = config({"r": route(PRICED)}, a=cloud.url) | {"store": {"ledger": ledger}, "keys": KEYS}
        async with serving(document, storage=Storage(tmp_path)) as served:
            assert (await ask(served, authorization="Bearer the-key")).status == 200
            await eventually(lambda: "arriero_ledger_database_away 1.0" in served.metrics(), "not said")
            assert "secret" not in str(served.log())


async def test_a_folder_that_cannot_be_written_is_said_and_calls_are_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with upstream(works) as cloud:
        document = config({"r": route(PRICED)}, a=cloud.url) | {"store": {"ledger": "sqlite:///file/arriero.db"}}
        async with serving(document | {"keys": KEYS}, storage=Storage(tmp_path)) as served:
            assert (await ask(served, authorization="Bearer the-key")).status == 200
            said = {record["event"]: record for record in served.log()}
            assert said["ledger_journal"]["state"] == "none"
            assert "ARRIERO_DATA" in said["ledger_journal"]["remedy"]


async def test_a_newer_ledger_keeps_the_gateway_from_starting(at: Place, url: str, tmp_path: Path) -> None:
    database = connect(at)
    migrate(database, [*MIGRATIONS, ["CREATE TABLE arriero_later (x BIGINT)"]])
    database.close()
    document = config({"r": route(PRICED)}, a="http://127.0.0.1:1/v1") | {"store": {"ledger": url}}
    with pytest.raises(Exception, match=r"store\.ledger: .* upgrade Arriero, or name another ledger") as refused:
        async with serving(document, storage=Storage(tmp_path)):
            pass
    assert type(refused.value).__name__ == "ConfigError"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="arriero-disk-"))
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    try:
        need("a tmpfs of one's own (root, mount)", mounted)
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_full_disk_loses_nothing_that_fits_in_memory(small_disk: Path, tmp_path: Path) -> None:
    at, said = place("sqlite:///ledger.db", tmp_path), Said()
    journal = Journal(small_disk / "journal", slots=64)
    (small_disk / "fill").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    found = writer(at, journal, said)
    slot = journal.underway.begin(b"x")
    found.add(Batch([line(finished(n)) for n in range(500)], [slot] + [-1] * 499))
    found.start()
    await done(lambda: found.tally.waiting == 0)
    assert said.states("ledger_journal") == ["full"]
    (small_disk / "fill").unlink()
    found.add(Batch([line(finished(500))], [-1]))
    await done(lambda: found.tally.waiting == 0)
    await asyncio.to_thread(found.close, 10)
    assert said.states("ledger_journal") == ["full", "ok"]
    database = connect(at)
    assert (count(database), found.tally.lost) == (501, 0)
    database.close()


async def test_what_fits_nowhere_is_counted(tmp_path: Path) -> None:
    at, said = place("sqlite:///no/such/folder/ledger.db", tmp_path), Said()
    journal = Journal(tmp_path / "journal", max_bytes=10, slots=64)
    found = writer(at, journal, said)
    lines = [line(finished(n)) for n in range(10)]
    found.held_bytes = len(lines[0]) * 3 + 10
    for one in lines:
        found.add(Batch([one], [journal.underway.begin(b"x")]))
    found.start()
    await done(lambda: found.tally.lost == 7)
    assert found.tally.waiting == 3
    await asyncio.to_thread(found.close, 10)


async def test_a_line_that_no_database_takes_is_set_aside_and_the_others_go_on(at: Place, tmp_path: Path) -> None:
    said, journal = Said(), Journal(tmp_path / "journal", slots=64)
    found = writer(at, journal, said)
    good = [line(finished(n)) for n in range(3)]
    found.add(Batch([good[0], b"[half a line\n", b"[[1],[]]\n", good[1], good[2]], [-1] * 5))
    found.start()
    await done(lambda: found.tally.waiting == 0)
    assert (found.tally.written, found.tally.rejected) == (3, 2)
    await asyncio.to_thread(found.close, 10)
    assert (tmp_path / "journal" / "rejected.rows").read_bytes() == b"[half a line\n[[1],[]]\n"
    database = connect(at)
    assert count(database) == 3
    database.close()


def test_a_line_may_come_any_number_of_times(at: Place) -> None:
    database = connect(at)
    migrate(database)
    lines = [line(finished(n)).rstrip(b"\n") for n in range(250)]
    for some in (lines, lines[:10], lines):
        insert(database, some)
    assert (count(database), count(database, "arriero_attempts")) == (250, 250)
    database.close()


def test_a_call_that_ended_is_not_given_the_attempt_of_one_that_was_lost(at: Place) -> None:
    """Refused before it was sent, and its process died before its slot was free: both tell of it."""
    refused = finished(1)
    guessed = rows.lost(intent(refused.decision))
    refused.decision.attempts.clear()
    database = connect(at)
    migrate(database)
    ended = line(refused._replace(delivered=None, status=429, code="insufficient_quota"))
    for told in (ended, guessed):
        insert(database, [told.rstrip(b"\n"), line(finished(2)).rstrip(b"\n")])
    assert database.rows("SELECT id, outcome FROM arriero_calls ORDER BY id") == [("dec_1", "failed"), ("dec_2", "ok")]
    assert database.rows("SELECT call_id, n FROM arriero_attempts") == [("dec_2", 1)]
    database.close()


def test_what_a_dead_process_left_is_its_lines_and_its_calls_under_way(tmp_path: Path) -> None:
    journal = Journal(tmp_path, slots=64)
    over, under_way = finished(1), finished(2, expected_output_tokens=7, prompt_tokens=5)
    slot = journal.underway.begin(intent(over.decision))
    journal.underway.begin(intent(under_way.decision))
    journal.append(line(over))
    journal.underway.end(slot)
    assert list(orphans(tmp_path)) == []  # its owner lives
    journal.underway.close()  # what the kernel does for a process that dies
    os.close(journal._file)
    with journal._path.open("ab") as file:
        file.write(b"[[half")
    (orphan,) = [found for found in orphans(tmp_path) if _keep(found)]
    assert orphan is not None
    assert list(tmp_path.iterdir()) == []


def _keep(orphan: Any) -> bool:
    lines = b"".join(orphan.pieces()).splitlines()
    assert len(lines) == 2
    assert lines[0] + b"\n" == line(finished(1))
    assert b'"lost_in_crash"' in lines[1]
    assert b'"n2"' in lines[1]
    assert b",19000," in lines[1]  # 5 tokens in, 7 out
    orphan.remove()
    return True


def test_slots_are_bounded_and_used_again(tmp_path: Path) -> None:
    slots = Underway(tmp_path / "x.calls", slots=2)
    first, second = slots.begin(b"one"), slots.begin(b"two")
    assert slots.begin(b"three") == -1
    slots.end(first)
    assert slots.begin(b"x" * 2000) == -1
    assert slots.begin(b"four") == first
    assert sorted(records(slots.path.read_bytes())) == [b"four", b"two"]
    slots.end(second)
    slots.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_is_full_takes_none_of_the_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=10, slots=4)
    journal.append(b"12345678\n")
    with pytest.raises(Full, match="10 is the bound"):
        journal.append(b"x\n")
    assert journal.next() == b"12345678\n"
    journal.take(b"12345678\n")
    journal.append(b"x\n")
    assert journal.next() == b"x\n"


def test_old_rows_are_deleted_in_pieces(at: Place) -> None:
    database, clock = connect(at), Clock()
    migrate(database)
    for start in range(0, 12_000, 500):
        some = [finished(n, AT_MS - (n % 2) * 20 * DAY_MS) for n in range(start, start + 500)]
        insert(database, [line(one).rstrip(b"\n") for one in some])
    kept = Retention(Bound(days=10), clock, lambda: AT_MS / 1000)
    assert [kept.piece(database) for _ in range(3)] == [10_000, 2_000, 0]
    assert (count(database), count(database, "arriero_attempts")) == (6_000, 6_000)
    clock.advance(EVERY_S + 1)
    insert(database, [line(finished(99_999, AT_MS - 11 * DAY_MS)).rstrip(b"\n")])
    assert kept.piece(database) == 2
    database.close()


def test_a_ledger_in_memory_holds_the_last_calls_only(tmp_path: Path) -> None:
    database = connect(place("sqlite:///:memory:", tmp_path))
    migrate(database)
    insert(database, [line(finished(n, AT_MS + n)).rstrip(b"\n") for n in range(100)])
    Retention(Bound(calls=30), Clock(), Clock()).piece(database)
    assert count(database) in (30, 31)
    database.close()


def test_every_column_of_a_line_has_its_place() -> None:
    call, (attempt,) = msgspec.json.decode(line(finished(1)))
    assert (len(call), len(attempt)) == (len(CALLS), len(ATTEMPTS))
    lost_call, (lost_attempt,) = msgspec.json.decode(rows.lost(intent(finished(1).decision)))
    assert (len(lost_call), len(lost_attempt)) == (len(CALLS), len(ATTEMPTS))
    assert rows.lost(b"[1,2") == rows.lost(b"[]") == b""
