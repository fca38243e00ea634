"""Where Oracle's identities come from: keys and profiles on disk, functions, instances, pods; how they stay fresh."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import ConfigError, UpstreamError
from providers.credentials.oci import Files, SessionToken, read_profile, resource_principal
from providers.credentials.oci_tokens import FALLBACK_LIFE_S, InstancePrincipal, WorkloadIdentity, life_s, workload
from providers.credentials.tokens import FORCED_EVERY_S
from sandbox import _oci_demo as demo
from sandbox._oci_signature import PublicKey
from sandbox._oci_tokens import FEDERATION, LIFE_S, issue
from sandbox.run import Sandbox
from tests.harness import Clock, eventually
from tests.oci.calls import PEM
from tests.oci.conftest import MODEL, staged

CHAT = "/20231130/actions/chat"


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, clouds=["oci"]) as made:
        yield made


def new_pem() -> str:
    return (
        rsa.generate_private_key(65537, 2048)
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def changed(path: Path, text: str) -> None:
    """Writes a file so that its time differs, however coarse the file system's clock is."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))


def federated(box: Sandbox, path: str = FEDERATION) -> int:
    """How many tokens were given."""
    return len([call for call in box.calls("oci") if call["path"] == path])


# ---------------------------------------------------------------------- files
async def test_a_session_token_that_is_renewed_on_disk_is_used_within_a_second(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key.pem"
    token.write_text("eyJ.one.x\n")
    key.write_text(PEM)
    clock = Clock()
    source = Files(SessionToken(str(token), str(key)), clock)
    first = await source.get()
    assert first.key_id == "ST$eyJ.one.x"
    changed(token, "eyJ.two.x")
    assert await source.get() is first
    clock.advance(1.0)
    assert (await source.get()).key_id == "ST$eyJ.two.x"


async def test_a_key_that_is_gone_or_half_written_leaves_the_old_one(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key.pem"
    token.write_text("eyJ.one.x")
    key.write_text(PEM)
    clock = Clock()
    source = Files(SessionToken(str(token), str(key)), clock)
    first = await source.get()
    changed(key, PEM[:200])
    clock.advance(1.0)
    assert await source.get() is first
    token.unlink()
    clock.advance(1.0)
    assert await source.get() is first
    token.write_text("eyJ.two.x")
    changed(key, new_pem())
    clock.advance(1.0)
    assert (await source.get()).key_id == "ST$eyJ.two.x"


async def test_a_refused_identity_is_looked_for_anew_at_once(tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key.pem"
    token.write_text("eyJ.one.x")
    key.write_text(PEM)
    source = Files(SessionToken(str(token), str(key)), Clock())
    first = await source.get()
    assert await source.renew(first) is None
    changed(token, "eyJ.two.x")
    renewed = await source.renew(first)
    assert renewed is not None
    assert renewed.key_id == "ST$eyJ.two.x"
    assert await source.renew(first) is renewed


# ---------------------------------------------------------------------- profiles
def profile(folder: Path, *lines: str) -> Path:
    (folder / "key.pem").write_text(PEM)
    (folder / "token").write_text("eyJ.one.x")
    file = folder / "config"
    file.write_text("\n".join(lines))
    return file


async def test_a_profile_is_read_as_oracles_tools_read_it(tmp_path: Path) -> None:
    file = profile(
        tmp_path,
        "[DEFAULT]",
        "# a comment",
        f"tenancy = {demo.TENANCY}",
        f"user={demo.USER}",
        f"fingerprint={demo.FINGERPRINT}",
        f"key_file={tmp_path}/key.pem",
        "region=us-chicago-1",
        "[SESSION]",
        f"security_token_file={tmp_path}/token",
        "region=uk-london-1",
    )
    default = read_profile(str(file), "DEFAULT", {})
    assert default.fields["region"] == "us-chicago-1"
    assert default.kept(session=False).read().key_id == f"{demo.TENANCY}/{demo.USER}/{demo.FINGERPRINT}"
    session = read_profile(None, "SESSION", {"OCI_CONFIG_FILE": str(file)})
    assert session.fields["region"] == "uk-london-1"
    assert session.kept(session=True).read().key_id == "ST$eyJ.one.x"


@pytest.mark.parametrize(
    ("name", "session", "why"),
    [
        ("OTHER", False, "has no profile 'OTHER'; it has DEFAULT, HALF"),
        ("HALF", False, "profile 'HALF' of .* lacks tenancy, key_file"),
        ("HALF", True, "lacks security_token_file, key_file"),
    ],
)
def test_a_profile_that_is_not_there_or_not_whole_is_told(tmp_path: Path, name: str, session: bool, why: str) -> None:
    file = profile(tmp_path, "[HALF]", "user=u")
    with pytest.raises(ValueError, match=why):
        read_profile(str(file), name, {}).kept(session=session).read()


def test_the_places_looked_at_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no OCI config file: looked at /nowhere/config"):
        read_profile("/nowhere/config", "DEFAULT", {})
    (tmp_path / "config").write_text("no section\n")
    with pytest.raises(ValueError, match="cannot be read as an OCI config file"):
        read_profile(str(tmp_path / "config"), "DEFAULT", {})


# ---------------------------------------------------------------------- functions and other resources
def test_a_resource_principal_from_texts_and_from_files(tmp_path: Path) -> None:
    known = {"OCI_RESOURCE_PRINCIPAL_VERSION": "2.2", "OCI_RESOURCE_PRINCIPAL_REGION": "us-chicago-1"}
    texts = known | {"OCI_RESOURCE_PRINCIPAL_RPST": "eyJ.a.b", "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": PEM}
    assert resource_principal(texts).read().key_id == "ST$eyJ.a.b"
    (tmp_path / "rpst").write_text("eyJ.c.d")
    (tmp_path / "pem").write_text(PEM)
    files = known | {
        "OCI_RESOURCE_PRINCIPAL_RPST": str(tmp_path / "rpst"),
        "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": str(tmp_path / "pem"),
    }
    kept = resource_principal(files)
    assert kept.read().key_id == "ST$eyJ.c.d"
    assert len(kept.paths()) == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"OCI_RESOURCE_PRINCIPAL_VERSION": "3.0"}, "VERSION is 3.0; offered: 1.1, 2.1"),
        ({"OCI_RESOURCE_PRINCIPAL_VERSION": ""}, "VERSION is not set"),
        ({"OCI_RESOURCE_PRINCIPAL_RPST": ""}, "OCI_RESOURCE_PRINCIPAL_RPST is not set"),
        ({"OCI_RESOURCE_PRINCIPAL_RPST": "/a/path"}, "both be paths, or both be texts"),
        ({"OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": "nonsense"}, "no private key"),
    ],
)
def test_a_resource_principal_that_is_not_whole_is_told(changes: dict[str, str], why: str) -> None:
    env = {
        "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2",
        "OCI_RESOURCE_PRINCIPAL_RPST": "eyJ.a.b",
        "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": PEM,
    }
    with pytest.raises(ValueError, match=why):
        resource_principal(env | changes).read()


# ---------------------------------------------------------------------- instances
def instance(box: Sandbox, clock: Clock) -> InstancePrincipal:
    origin = box.origins["oci"]
    return InstancePrincipal(origin + "/opc/v2", origin, clock)


async def test_a_thousand_who_wait_share_one_token(box: Sandbox) -> None:
    source = instance(box, Clock())
    found = await asyncio.gather(*(source.get() for _ in range(1000)))
    assert len(set(map(id, found))) == 1
    assert found[0].key_id.startswith("ST$ey")
    assert federated(box) == 1
    await source.aclose()


async def test_a_token_is_renewed_ahead_of_its_end_while_the_old_one_serves(box: Sandbox) -> None:
    clock = Clock()
    source = instance(box, clock)
    first = await source.get()
    clock.advance(LIFE_S * 0.79)
    assert await source.get() is first
    assert federated(box) == 1
    clock.advance(LIFE_S * 0.02)
    assert await source.get() is first
    await eventually(lambda: federated(box) == 2, "no second token was asked for")
    second = await source.renew(first)
    assert second is not None
    assert federated(box) == 2
    assert second.key_id != first.key_id
    assert second.key is not first.key
    await source.aclose()


async def test_while_the_source_is_down_the_old_token_is_used_to_its_end_and_then_it_is_told(box: Sandbox) -> None:
    clock = Clock()
    source = instance(box, clock)
    first = await source.get()
    box.set("oci", fault={"kind": "status", "status": 500, "path": FEDERATION})
    clock.advance(LIFE_S * 0.9)
    assert await source.get() is first
    await eventually(lambda: federated(box) == 2, "no second token was asked for")
    assert await source.get() is first
    clock.advance(LIFE_S * 0.11)
    with pytest.raises(UpstreamError, match=r"its credential's source .*/v1/x509 answered 500") as error:
        await source.get()
    assert error.value.status == 401
    asked = federated(box)
    with pytest.raises(UpstreamError):
        await source.get()
    assert federated(box) == asked, "a source that failed is left alone for a while"
    box.set("oci", fault=None)
    clock.advance(60)
    assert (await source.get()) is not first
    await source.aclose()


@pytest.mark.parametrize("path", ["/opc/v2/identity/cert.pem", "/opc/v2/identity/key.pem"])
async def test_metadata_that_is_of_no_use_is_told(box: Sandbox, path: str) -> None:
    box.set("oci", fault={"kind": "html", "path": path})
    source = instance(box, Clock())
    with pytest.raises(UpstreamError, match="a certificate or key that cannot be read"):
        await source.get()
    await source.aclose()


async def test_a_refused_token_is_renewed_once_and_the_call_sent_once_more() -> None:
    async with staged(**instance_fields()) as stage:
        origin = stage.box.origins["oci"]
        assert origin
        await stage.ask()
        stage.box.set("oci", fault={"kind": "status", "status": 401, "times": 1, "path": CHAT})
        await stage.ask()
        assert stage.attempts() == [("oci", "ok")]
        chats = [call["status"] for call in stage.box.calls("oci") if call["path"] == CHAT]
        assert chats == [200, 401, 200]
        assert federated(stage.box) == 2


async def test_a_cloud_that_refuses_every_token_is_left_for_another_and_asked_for_one_more_token_only() -> None:
    groq = {"account": "groq", "model": "llama-3.1-8b-instant"}
    async with staged(groq, **instance_fields()) as stage:
        await stage.ask()
        stage.box.set("oci", fault={"kind": "status", "status": 401, "path": CHAT})
        await stage.ask()
        assert stage.attempts() == [("oci", "auth"), ("groq", "ok")]
        await stage.ask()
        assert federated(stage.box) == 2, f"forced at most every {FORCED_EVERY_S:g} s"


def instance_fields() -> dict[str, Any]:
    """An account that is an instance: no key of its own, the sandbox's places for tokens (filled in by `staged`)."""
    return {
        "auth": "instance_principal",
        "key": None,
        "tenancy": None,
        "user": None,
        "fingerprint": None,
        "metadata_url": "{origin}/opc/v2",
        "federation_url": "{origin}",
    }


# ---------------------------------------------------------------------- pods
async def test_a_pods_identity_is_exchanged_for_a_token_that_the_cloud_takes(box: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(demo.SERVICE_ACCOUNT_TOKEN + "\n")
    url = box.origins["oci"] + "/resourcePrincipalSessionTokens"
    source = WorkloadIdentity(url, file, None, Clock())
    assert (await source.get()).key_id.startswith("ST$ey")
    await source.aclose()
    file.write_text("another")
    source = WorkloadIdentity(url, file, None, Clock())
    with pytest.raises(UpstreamError, match="answered 403"):
        await source.get()
    await source.aclose()
    source = WorkloadIdentity(url, tmp_path / "absent", None, Clock())
    with pytest.raises(UpstreamError, match="absent cannot be read"):
        await source.get()
    await source.aclose()


def test_outside_a_cluster_there_is_no_workload() -> None:
    with pytest.raises(ValueError, match="KUBERNETES_SERVICE_HOST is not set"):
        workload(None, {}, Clock())
    with pytest.raises(ValueError, match=r"the cluster's certificates /nowhere/ca.crt cannot be read"):
        workload(
            None,
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": "/nowhere/ca.crt"},
            Clock(),
        )


def test_how_long_a_token_lives() -> None:
    key = PublicKey(demo.API_MODULUS, demo.EXPONENT)
    assert life_s(issue(key, "instance", 1000.0), 1100.0) == LIFE_S - 100
    for odd in ("", "a.b", "a.!!.c", "a.e30.c"):
        assert life_s(odd, 0.0) == FALLBACK_LIFE_S


# ---------------------------------------------------------------------- what a config says
def account(**fields: Any) -> dict[str, Any]:
    known = {"type": "oci", "region": "us-chicago-1", "compartment": "ocid1.compartment.oc1..c"}
    providers = {"oci": {k: v for k, v in (known | fields).items() if v is not None}}
    return {"providers": providers, "routes": {"r": {"deployments": [{"account": "oci", "model": MODEL}]}}}


KEYED = {"tenancy": demo.TENANCY, "user": demo.USER, "key": demo.PRIVATE_KEY}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"compartment": None}, "'compartment' is missing"),
        ({**KEYED, "region": None}, "'region' is missing"),
        ({**KEYED, "realm": "oc99"}, "'realm' oc99 is not known"),
        ({"key": demo.PRIVATE_KEY}, "needs 'tenancy' and 'user'"),
        ({**KEYED, "key_file": "/a"}, "either 'key' or 'key_file'"),
        ({**KEYED, "auth": "instance_principal"}, "'auth' instance_principal signs with a key of another place"),
        ({**KEYED, "key": None, "key_file": "/nowhere/key.pem"}, "'key_file' /nowhere/key.pem cannot be read"),
        ({**KEYED, "key": "bm8="}, "'key' is no private key"),
        ({"config_file": "/nowhere/config"}, "no OCI config file: looked at /nowhere/config"),
        ({"auth": "oke_workload_identity"}, "KUBERNETES_SERVICE_HOST is not set"),
        ({"auth": "resource_principal"}, "OCI_RESOURCE_PRINCIPAL_VERSION is not set"),
    ],
)
def test_what_is_missing_is_named_before_any_traffic(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        Gateway(loading.build(account(**fields)))
    assert "providers.oci" in str(error.value)
    assert demo.PRIVATE_KEY[40:60] not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ({}, "inference.generativeai.us-chicago-1.oci.oraclecloud.com"),
        ({"region": "us-gov-ashburn-1"}, "inference.generativeai.us-gov-ashburn-1.oci.oraclegovcloud.com"),
        ({"region": "us-langley-1"}, "inference.generativeai.us-langley-1.oci.oraclegovcloud.com"),
        ({"region": "uk-gov-london-1"}, "inference.generativeai.uk-gov-london-1.oci.oraclegovcloud.uk"),
        ({"region": "eu-frankfurt-2"}, "inference.generativeai.eu-frankfurt-2.oci.oraclecloud.eu"),
        ({"region": "xx-new-1"}, "inference.generativeai.xx-new-1.oci.oraclecloud.com"),
        ({"region": "xx-new-1", "realm": "oc19"}, "inference.generativeai.xx-new-1.oci.oraclecloud.eu"),
        ({"url": "https://genai.private.test:8443/base"}, "genai.private.test:8443"),
    ],
)
async def test_the_place_is_made_of_region_and_realm_or_said(fields: dict[str, Any], host: str) -> None:
    gateway = Gateway(loading.build(account(**KEYED, **fields)))
    provider: Any = gateway.fleet.providers["oci"]
    assert provider.host == host
    assert provider.target == ("/base" if "url" in fields else "") + CHAT
    await gateway.fleet.aclose()


async def test_a_key_of_the_service_takes_the_openai_compatible_path_without_a_signature() -> None:
    gateway = Gateway(loading.build(account(api_key="sk-x", compartment=None)))
    provider: Any = gateway.fleet.providers["oci"]
    assert provider.account.base_url() == "https://inference.generativeai.us-chicago-1.oci.oraclecloud.com/openai/v1"
    assert provider.secrets == ["sk-x"]
    await gateway.fleet.aclose()


@pytest.mark.parametrize("spec", ["env:ARRIERO_TEST_PEM", "file:{folder}/key.pem", PEM, demo.PRIVATE_KEY])
async def test_a_key_may_be_text_with_lines_wherever_it_stands(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text(PEM)
    monkeypatch.setenv("ARRIERO_TEST_PEM", PEM)
    gateway = Gateway(loading.build(account(**{**KEYED, "key": spec.format(folder=tmp_path)})))
    provider: Any = gateway.fleet.providers["oci"]
    assert (await provider.source.get()).key_id == f"{demo.TENANCY}/{demo.USER}/{demo.FINGERPRINT}"
    assert repr(provider.account.key) == "***"
    assert provider.secrets == [provider.account.key.reveal()]
    await gateway.fleet.aclose()


def test_other_secrets_still_have_one_line() -> None:
    with pytest.raises(ConfigError, match="a character that no header can carry"):
        loading.build(account(**KEYED, pass_phrase="two\nlines"))
