"""`/admin/keys`: what it takes, what it refuses, and that nobody gives more than their own token may."""

import fnmatch
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoints.keys import covers
from tests.keys.stage import admin, call, made, stage

TOKENS = [
    {"name": "ops", "token": "ops-token", "scope": "write"},
    {"name": "small", "token": "small-token", "scope": "write", "routes": ["r", "team-*"]},
    {"name": "eye", "token": "eye-token"},
]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/keys.db"


def message(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ({}, 400, "key: 'name' is missing"),
        ([], 400, "key: must be a mapping, not a list"),
        ({"name": "k", "rotues": ["r"]}, 400, "key.rotues: unknown word 'rotues'; did you mean 'routes'?"),
        ({"name": "k", "key": "mine"}, 400, "key.key: unknown word 'key'; known: name, routes, labels, limits"),
        ({"name": "k", "scope": "write"}, 400, "key.scope: unknown word 'scope'"),
        ({"name": "a b"}, 400, "key.name: must be 1 to 128 letters"),
        ({"name": "k", "limits": {"rpm": 0}}, 400, "key.limits.rpm: must be at least 1, not 0"),
        ({"name": "k", "limits": {"tpm": -1}}, 400, "key.limits.tpm: must be at least 1, not -1"),
        ({"name": "k", "budget": {"usd": "0", "per": "day"}}, 400, "key.budget: 'usd' must be above 0"),
        ({"name": "k", "budget": {"usd": "0.0000000001", "per": "day"}}, 400, "digits below one nano-dollar"),
        ({"name": "k", "team": "x"}, 400, "key.team: unknown team 'x'; known: t"),
        ({"name": "k", "team": "t", "labels": {"a": "2"}}, 400, "key.labels: the team 't' fixes 'a' to '1'"),
        ({"name": "k", "expires": "soon"}, 400, "key: 'expires' must be a date"),
        ({"name": "c"}, 409, "A key of the config has the name 'c'"),
        ({"name": "there"}, 409, "an active key has the name 'there'"),
    ],
)
async def test_what_is_wrong_with_a_new_key_is_said(ledger: str, words: Any, status: int, reason: str) -> None:
    async with stage(ledger, teams=[{"name": "t", "labels": {"a": "1"}}]) as found:
        await made(found.one, "there")
        answer = await admin(found.one, "POST", "/admin/keys", words)
        assert answer.status_code == status
        assert reason in message(answer)
        assert len((await admin(found.one, "GET", "/admin/keys")).json()) == 2


async def test_a_body_of_another_kind_is_refused(ledger: str) -> None:
    async with stage(ledger) as found, httpx.AsyncClient(base_url=found.one.admin_url) as client:
        headers = {"authorization": "Bearer ops-token"}
        form = await client.post(
            "/admin/keys", content=b'{"name": "k"}', headers={**headers, "content-type": "text/plain"}
        )
        assert form.status_code == 415
        headers["content-type"] = "application/json; charset=utf-8"
        for body, status in ((b"", 400), (b"{", 400), (b"[" * 100_000, 413), (b"[" * 60_000, 400), (b"\xff", 400)):
            assert (await client.post("/admin/keys", content=body, headers=headers)).status_code == status
        assert (await client.post("/admin/keys", content=b'{"name": "k"}', headers=headers)).status_code == 201


async def test_a_key_is_shown_once_with_all_its_words(ledger: str) -> None:
    words = {
        "name": "k",
        "routes": ["r"],
        "labels": {"a": "b"},
        "limits": {"rpm": 5},
        "budget": {"usd": "1.25", "per": "month"},
        "expires": "2099-01-31",
    }
    async with stage(ledger) as found:
        answer = await admin(found.one, "POST", "/admin/keys", words)
        shown = answer.json()
        assert answer.headers["cache-control"] == "no-store"
        assert shown.pop("key").startswith("arr_live_")
        assert (shown["state"], shown["source"], shown["created_by"]) == ("active", "run time", "ops")
        assert {name: shown[name] for name in words if name not in ("limits", "budget")} == {
            name: value for name, value in words.items() if name not in ("limits", "budget")
        }
        assert (shown["limits"]["rpm"], shown["budget"]["usd"], shown["budget"]["hard"]) == (5, "1.25", False)
        of_config, listed = (await admin(found.one, "GET", "/admin/keys", token="ops-token")).json()
        assert listed == shown
        assert (of_config["name"], of_config["source"], "key" in of_config) == ("c", "config", False)


async def test_a_token_gives_no_more_than_it_may(ledger: str) -> None:
    async with stage(ledger, admin={"tokens": TOKENS}) as found:
        one = found.one

        async def create(name: str, *routes: str) -> int:
            words = {"name": name, "routes": list(routes)}
            return (await admin(one, "POST", "/admin/keys", words, "small-token")).status_code

        assert await create("a", "r", "team-a", "team-b*") == 201
        for routes in (["*"], ["r", "other"], ["r*"], ["team*"], ["[r]"], ["?"], ["*team-a"]):
            assert await create("b", *routes) == 403
        answer = await admin(one, "POST", "/admin/keys", {"name": "d"}, "small-token")
        assert answer.json()["routes"] == ["r", "team-*"]
        await made(one, "wide")
        for method, path in (("DELETE", "/admin/keys/wide"), ("POST", "/admin/keys/wide/rotate")):
            answer = await admin(one, method, path, token="small-token")
            assert (answer.status_code, "key" in answer.json()) == (403, False)
        assert (await admin(one, "POST", "/admin/keys/a/rotate", token="small-token")).status_code == 200
        assert (await admin(one, "DELETE", "/admin/keys/a", token="small-token")).status_code == 200


async def test_a_reading_token_changes_nothing(ledger: str) -> None:
    async with stage(ledger, admin={"tokens": TOKENS}) as found:
        key = await made(found.one)
        for method, path in (
            ("POST", "/admin/keys"),
            ("DELETE", "/admin/keys/k"),
            ("POST", "/admin/keys/k/rotate"),
        ):
            answer = await admin(found.one, method, path, {"name": "x"}, "eye-token")
            assert answer.status_code == 403
        assert (await call(found.one, key)).status == 200
        assert len((await admin(found.one, "GET", "/admin/keys", token="eye-token")).json()) == 2


async def test_keys_of_the_config_and_unknown_ones_are_not_changed(ledger: str) -> None:
    async with stage(ledger) as found:
        for method, path in (("DELETE", "/admin/keys/{}"), ("POST", "/admin/keys/{}/rotate")):
            answer = await admin(found.one, method, path.format("c"))
            assert (answer.status_code, "is a key of the config" in message(answer)) == (409, True)
            assert (await admin(found.one, method, path.format("nobody"))).status_code == 404
        await made(found.one, "team/app:7")
        assert (await admin(found.one, "POST", "/admin/keys/team/app:7/rotate")).status_code == 200
        assert (await admin(found.one, "DELETE", "/admin/keys/team/app:7")).status_code == 200
        assert (await admin(found.one, "DELETE", "/admin/keys/team/app:7")).status_code == 404


async def test_without_tokens_no_page_of_another_origin_makes_a_change(ledger: str) -> None:
    async with stage(ledger, admin={}) as found:
        for headers in ({"host": "rebound.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            answer = await admin(found.one, "POST", "/admin/keys", {"name": "k"}, None, **headers)
            assert answer.status_code == 403
        for host in ("localhost:8081", "127.0.0.1", "[::1]:8081"):
            same = {"host": host, "origin": f"http://{host}"}
            answer = await admin(found.one, "POST", "/admin/keys", {"name": host}, None, **same)
            assert answer.status_code in (201, 400)  # a name may hold no brackets
        assert (await admin(found.one, "GET", "/admin/keys", None, None)).status_code == 200


async def test_without_a_ledger_keys_of_run_time_are_refused_with_the_remedy() -> None:
    async with stage("sqlite:///:memory:", store={}) as found:
        answer = await admin(found.one, "POST", "/admin/keys", {"name": "k"})
        assert (answer.status_code, "store: {ledger: …}" in message(answer)) == (400, True)
        assert len((await admin(found.one, "GET", "/admin/keys")).json()) == 1


PATTERNS = st.text("ab*?[]!-", max_size=6)


@given(PATTERNS, PATTERNS, st.lists(st.text("ab-", max_size=6), max_size=20))
def test_what_a_bound_covers_matches_nothing_beyond_it(bound: str, pattern: str, names: list[str]) -> None:
    if covers(bound, pattern):
        for name in names:
            assert fnmatch.fnmatchcase(name, bound) or not fnmatch.fnmatchcase(name, pattern)
