"""Run-time keys while the config changes under them, and what is left of a key that went."""

import asyncio
from datetime import date
from pathlib import Path

import pytest

from gateway.commands.check import warnings
from gateway.config import loading
from gateway.errors import ConfigError
from tests.harness import eventually
from tests.keys.stage import admin, call, made, stage
from tests.keys.test_config_keys import ROUTED
from tests.limits.stage import Gate, answering


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/keys.db"


async def test_a_key_goes_on_under_a_new_config_with_what_its_team_is_there(ledger: str) -> None:
    async with stage(ledger, teams=[{"name": "t", "routes": ["r"]}]) as found:
        key = await made(found.one, team="t")
        assert [(await call(found.one, key, model)).status for model in ("r", "other")] == [200, 403]
        gateway = found.one.gateway
        await gateway.reload(loading.build({**found.document, "teams": [{"name": "t", "routes": ["other"]}]}))
        assert [(await call(found.one, key, model)).status for model in ("r", "other")] == [403, 200]
        await gateway.reload(loading.build({**found.document, "teams": []}))
        assert (await call(found.one, key)).status == 401
        await gateway.reload(loading.build(found.document))
        assert (await call(found.one, key)).status == 200


async def test_a_config_that_takes_a_keys_name_is_refused_until_that_is_revoked(ledger: str) -> None:
    async with stage(ledger) as found:
        await made(found.one, "taken")
        config = loading.build({**found.document, "keys": [{"name": "taken", "key": "x"}]})
        with pytest.raises(
            ConfigError, match=r"keys\[0\].name: 'taken' is the name of a run-time key: revoke that first"
        ):
            await found.one.gateway.reload(config)
        await admin(found.one, "DELETE", "/admin/keys/taken")
        await found.one.gateway.reload(config)
        assert (await call(found.one, "x")).status == 200


async def test_the_series_of_a_key_go_with_it(ledger: str) -> None:
    async with stage(ledger) as found:
        key = await made(found.one, "short-lived")
        await call(found.one, key)
        assert 'key="short-lived"' in found.one.metrics()
        await admin(found.one, "DELETE", "/admin/keys/short-lived")
        assert 'key="short-lived"' not in found.one.metrics()
        assert "arriero_keys_store_away 0.0" in found.one.metrics()


async def test_check_tells_of_keys_that_expire_and_patterns_about_nothing() -> None:
    keys = [{"name": name, "key": name, "expires": day} for name, day in (("a", "2027-01-01"), ("b", "2027-02-01"))]
    keys.append({"name": "c", "key": "c", "expires": "2027-03-31"})
    config = loading.build({**ROUTED, "keys": keys, "teams": [{"name": "t", "routes": ["x*"]}]})
    found = await warnings(config, date(2027, 1, 15), reach=False)
    assert [line for line in found if line.startswith(("keys", "teams"))] == [
        "teams[0].routes: 'x*' matches no route",
        "keys[0]: 'a' has expired: 2027-01-01",
        "keys[1]: 'b' expires soon: 2027-02-01",
    ]


async def test_a_call_under_way_ends_well_though_its_key_was_revoked(ledger: str) -> None:
    """F5: what was let in is served to its end."""
    gate = Gate()
    async with stage(ledger, script=answering(gate)) as found:
        key = await made(found.one)
        under_way = asyncio.create_task(call(found.one, key))
        await eventually(lambda: gate.came, "the call does not come")
        await admin(found.one, "DELETE", "/admin/keys/k")
        assert (await call(found.one, key)).status == 401
        gate.open()
        assert (await under_way).status == 200
