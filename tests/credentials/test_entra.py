"""Entra's credentials through azure-identity, with tokens that the sandbox issues and takes."""

import datetime
import os
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.config import loading
from gateway.errors import ConfigError, UpstreamError
from gateway.secret import Secret
from providers.azure import Azure
from providers.credentials.access_token import AccessToken
from providers.credentials.azure import PLACES, Entra, Identity
from sandbox.oauth import CLIENT_ID, CLIENT_SECRET
from sandbox.run import Sandbox
from tests.credentials.entra import TENANT, Front, entra, signed_by
from tests.credentials.servers import listening
from tests.harness import Clock

FOREVER = float("inf")
SCOPE = "https://cognitiveservices.azure.com/.default"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of Azure's own variables, wherever this runs."""
    for name in os.environ:
        if name.startswith(("AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that azure-identity's HTTP client trusts."""
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return found


def by_secret(front: Front, secret: str = CLIENT_SECRET) -> Entra:
    return Entra(tenant=TENANT, client_id=CLIENT_ID, client_secret=Secret(secret), authority=front.host)


async def test_a_secret_gives_a_token_of_the_forms_scope(ca: trustme.CA) -> None:
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca) as front:
        await box.change("azure", {"token_ttl_s": 900.0})
        first = await Identity(by_secret(front), serverless=False).fetch()
        second = await Identity(by_secret(front), serverless=True).fetch()
    assert first.value != second.value
    assert first.life_s is not None
    assert 890 < first.life_s <= 900
    assert [form["scope"] for form in front.asked] == [SCOPE, "https://ml.azure.com/.default"]


async def test_each_fetch_asks_anew_though_azure_identity_keeps_tokens(ca: trustme.CA) -> None:
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca) as front:
        source = Identity(by_secret(front), serverless=False)
        assert (await source.fetch()).value != (await source.fetch()).value


async def test_a_certificate_signs_its_assertion(ca: trustme.CA, tmp_path: Path) -> None:
    file, public_key = certificate(tmp_path)
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca, signed_by(public_key)) as front:
        said = Entra(tenant=TENANT, client_id=CLIENT_ID, certificate_file=file, authority=front.host)
        assert (await Identity(said, serverless=False).fetch()).value.startswith("eyJ.")
        certificate(tmp_path)  # another key, which the application was not told of
        with pytest.raises(UpstreamError, match=f"no token for {CLIENT_ID} with the file {file} .*AADSTS7000215"):
            await Identity(said, serverless=False).fetch()


async def test_a_workloads_federated_token_is_read_from_its_file(ca: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "federated"
    file.write_text("of-kubernetes")
    async with (
        Sandbox(port=0, clouds=["azure"]) as box,
        entra(box, ca, lambda assertion, _: assertion == "of-kubernetes") as front,
    ):
        said = Entra(tenant=TENANT, client_id=CLIENT_ID, token_file=str(file), authority=front.host)
        source = Identity(said, serverless=False)
        assert (await source.fetch()).value.startswith("eyJ.")
        before = source.stamp()
        file.write_text("rotated")
        assert source.stamp() != before
        with pytest.raises(UpstreamError, match="AADSTS7000215"):
            await source.fetch()


async def test_the_chain_finds_a_secret_in_the_environment(ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca) as front:
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT_ID)
        monkeypatch.setenv("AZURE_CLIENT_SECRET", CLIENT_SECRET)
        found = await Identity(Entra(authority=front.host), serverless=False).fetch()
    assert found.value.startswith("eyJ.")


async def test_the_chain_finds_a_pods_federated_token(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of-aks")
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca, lambda a, _: a == "of-aks") as front:
        monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT_ID)
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://{front.host}")  # as AKS does
        found = await Identity(Entra(authority=front.host), serverless=False).fetch()
    assert found.value.startswith("eyJ.")


async def test_an_app_service_gives_its_identitys_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []

    async def identity(request: web.Request) -> web.Response:
        query = request.query
        asked.append((request.headers["x-identity-header"], query["resource"], query.get("client_id")))
        ends = int(datetime.datetime.now(datetime.UTC).timestamp()) + 3000
        found = {"access_token": "of-app-service", "expires_on": str(ends), "resource": query["resource"]}
        return web.json_response({**found, "token_type": "Bearer"})

    async with listening({"/msi/token": identity}) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", url + "/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header-of-the-app")
        found = await Identity(Entra(client_id="mine"), serverless=False).fetch()
    assert found.value == "of-app-service"
    assert found.life_s is not None
    assert 2900 < found.life_s <= 3000
    assert asked == [("header-of-the-app", "https://cognitiveservices.azure.com", "mine")]


async def test_a_machine_gets_its_identitys_token_from_imds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def identity(request: web.Request) -> web.Response:
        if request.headers.get("metadata") != "true":  # how azure-identity finds out whether it is there
            return web.json_response({"error": "invalid_request"}, status=400)
        found = {"access_token": "of-imds", "expires_in": "3000", "resource": request.query["resource"]}
        return web.json_response({**found, "token_type": "Bearer"})

    async with listening({"/metadata/identity/oauth2/token": identity}) as url:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
        found = await Identity(Entra(), serverless=False).fetch()
    assert found.value == "of-imds"


async def test_where_nothing_is_found_the_places_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with listening({}) as url:
        pass
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UpstreamError) as refused:
        await Identity(Entra(), serverless=False).fetch()
    assert PLACES in refused.value.message


async def test_a_wrong_secret_is_said_by_number_and_not_shown(ca: trustme.CA) -> None:
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca) as front:
        source = Identity(by_secret(front, "wrong-secret-5566"), serverless=False)
        with pytest.raises(UpstreamError) as refused:
            await source.fetch()
    assert refused.value.message == (
        f"Entra gave no token for the secret of {CLIENT_ID} (ClientAuthenticationError AADSTS7000215)"
    )
    assert "wrong-secret" not in f"{refused.value!r} {source!r} {vars(source)}"


async def test_a_secret_that_changed_in_its_file_is_used_within_ten_seconds(ca: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("of-yesterday")
    clock = Clock()
    async with Sandbox(port=0, clouds=["azure"]) as box, entra(box, ca) as front:
        secret = Secret(f"file:{file}", clock)
        said = Entra(tenant=TENANT, client_id=CLIENT_ID, client_secret=secret, authority=front.host)
        token = AccessToken(Identity(said, serverless=False), clock)
        with pytest.raises(UpstreamError):
            await token.get(FOREVER)
        file.write_text(CLIENT_SECRET)
        os.utime(file, ns=(1, 1))  # whatever the file system's clock can tell apart
        clock.advance(10)
        assert (await token.get(FOREVER)).startswith("eyJ.")
        await token.aclose()


@pytest.mark.parametrize(
    ("authority", "scope"),
    [
        (None, "https://ml.azure.com/.default"),
        ("login.microsoftonline.us", "https://ml.azure.us/.default"),
        ("https://login.chinacloudapi.cn/", "https://ml.azure.cn/.default"),
        ("https://login.acme.example", "https://ml.azure.com/.default"),
    ],
)
def test_a_sovereign_cloud_has_scopes_of_its_own(authority: str | None, scope: str) -> None:
    assert Entra(authority=authority).scope_for(serverless=True) == scope
    assert Entra(authority=authority, scope="mine").scope_for(serverless=True) == "mine"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("{client_secret: s}", "'tenant' is missing: it goes with 'client_secret'"),
        ("{tenant: t, token_file: f}", "'client_id' is missing: it goes with 'token_file'"),
        ("{tenant: t, client_id: c, client_secret: s, certificate_file: f}", "needs one of 'client_secret' and"),
        ("{authority: 'http://a'}", "'authority' must be a login host"),
        ("{secret: s}", "unknown"),
    ],
)
def test_half_an_identity_is_refused(words: str, reason: str) -> None:
    text = (
        f"providers: {{a: {{type: azure, url: 'https://x.test', entra: {words}}}}}\nroutes: {{r: {{deployments: [a]}}}}"
    )
    with pytest.raises(ConfigError, match=reason):
        loading.parse(text)


def test_an_account_shows_no_secret_of_its_entra() -> None:
    text = "{tenant: t, client_id: c, client_secret: the-secret-1234}"
    text = (
        f"providers: {{a: {{type: azure, url: 'https://x.test', entra: {text}}}}}\nroutes: {{r: {{deployments: [a]}}}}"
    )
    account = loading.parse(text).accounts["a"]
    assert isinstance(account, Azure)
    assert "the-secret" not in repr(account)
    assert account.secrets() == ["the-secret-1234"]


def certificate(folder: Path) -> tuple[str, rsa.RSAPublicKey]:
    """A new key and its certificate in a PEM, and its public half."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "arriero")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "certificate.pem"
    file.write_bytes(private + built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(file), key.public_key()
