"""Keys of the config: what their team adds and bounds, when they expire, and what counting will need of them."""

import io

import pytest

from gateway import tenants
from gateway.auth import ANONYMOUS, Keyring, allows, authorize
from gateway.config.document import KeyConfig
from gateway.config.loading import build, decode
from gateway.errors import ClientError, ConfigError
from gateway.keys.issued import Issued
from gateway.log import Log
from gateway.types import Budget, Limits, Tenant
from tests.harness import Clock

ROUTED: dict[str, object] = {
    "providers": {"a": {"type": "openai", "url": "http://127.0.0.1:1/v1"}},
    "routes": {"r": {"deployments": [{"account": "a", "model": "m"}]}},
}


def keyring(
    *keys: dict[str, object], teams: list[dict[str, object]] | None = None, wall: Clock | None = None
) -> Keyring:
    return Keyring(
        build({**ROUTED, "keys": list(keys), "teams": teams}), Issued(None, Log(io.BytesIO())), wall or Clock()
    )


def tenant(found: Keyring, key: str = "k") -> Tenant:
    return found.tenant(f"Bearer {key}".encode())


def test_a_route_must_match_the_patterns_of_the_key_and_of_its_team() -> None:
    teams = [{"name": "t", "routes": ["llama-*"]}]
    found = tenant(keyring({"name": "a", "key": "k", "team": "t", "routes": ["*-8b"]}, teams=teams))
    assert allows(found, "llama-3.1-8b")
    assert not allows(found, "llama-3.1-70b")
    assert not allows(found, "qwen-8b")
    with pytest.raises(ClientError) as refused:
        authorize(found, "qwen-8b")
    assert refused.value.status == 403


def test_a_key_carries_the_labels_of_its_team_and_its_own() -> None:
    teams = [{"name": "t", "labels": {"region": "eu", "center": "r-42"}}]
    found = tenant(keyring({"name": "a", "key": "k", "team": "t", "labels": {"region": "eu", "app": "x"}}, teams=teams))
    assert found.labels == {"region": "eu", "center": "r-42", "app": "x"}
    assert found.team == "t"


def test_what_counting_needs_is_on_the_tenant_and_the_secret_is_not() -> None:
    words: dict[str, object] = {"name": "a", "key": "s3cret", "budget": {"usd": "0.000000001", "per": "day"}}
    words["limits"] = {"rpm": 600, "models": {"llama-*": {"tpm": 5}}}
    found = tenants.tenant(decode(words, KeyConfig, "keys[0]"), "a", {}, "keys[0]")
    assert found.id == "a"
    assert found.limits == Limits(rpm=600, models=(("llama-*", Limits(tpm=5)),))
    assert found.budget == Budget(nano=1, per="day", hard=False)
    assert "s3cret" not in repr(found)
    assert ANONYMOUS.id


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2027-01-31", 1801439999.0),
        ("2027-01-31T18:00:00Z", 1801418399.0),
        ("2027-01-31T18:00:00+01:00", 1801414799.0),
        ("2027-01-31 18:00:00.5Z", 1801418400.25),
    ],
)
def test_a_key_works_until_it_expires_and_is_then_an_unknown_one(expires: str, last: float) -> None:
    wall = Clock(last)
    found = keyring({"name": "a", "key": "k", "expires": expires}, wall=wall)
    assert tenant(found).name == "a"
    wall.advance(1)
    with pytest.raises(ClientError) as expired:
        tenant(found)
    with pytest.raises(ClientError) as unknown:
        tenant(found, "x")
    assert (expired.value.status, expired.value.body()) == (unknown.value.status, unknown.value.body())


def test_an_expired_key_does_not_make_the_gateway_anonymous() -> None:
    found = keyring({"name": "a", "key": "k", "expires": "2001-01-01"}, wall=Clock(2e9))
    with pytest.raises(ClientError):
        found.tenant(None)


def test_names_are_unique() -> None:
    with pytest.raises(ConfigError, match=r"keys\[1\].name: 'a' stands twice"):
        keyring({"name": "a", "key": "k"}, {"name": "a", "key": "l"})
