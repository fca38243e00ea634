"""The token endpoints of the box: Google's own library signs in, and every way of signing in wrongly is refused."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import google.auth.transport.requests
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.auth.exceptions import RefreshError
from google.oauth2 import service_account

from sandbox.demo_key import KEY_ID, PRIVATE_PEM, signed_with_demo_key
from sandbox.oauth import GOOGLE_AUDIENCE, GOOGLE_SCOPE, SERVICE_ACCOUNT, google_assertion_fault
from sandbox.run import Sandbox
from sandbox.vertex import CLOUD as VERTEX
from tests.sandbox.wire import CHAT, model_of

NOW = 1_800_000_000
CLAIMS = {"iss": SERVICE_ACCOUNT, "aud": GOOGLE_AUDIENCE, "scope": GOOGLE_SCOPE, "iat": NOW, "exp": NOW + 3600}
SIGNER = crypt.RSASigner.from_string(PRIVATE_PEM, KEY_ID)


@pytest.fixture(scope="module")
def threaded() -> Iterator[Sandbox]:
    with Sandbox.in_thread(clouds=["vertex", "azure", "databricks"]) as box:
        yield box


def chat(box: Sandbox, cloud: str, token: str) -> httpx.Response:
    body = {"model": model_of(cloud, box), **CHAT}
    url = box.openai_urls[cloud] + "/chat/completions"
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {token}"})


# ---------------------------------------------------------------------- Google
def test_googles_library_gets_a_token_that_works_until_it_ends(threaded: Sandbox) -> None:
    info = VERTEX.service_account(threaded.origins["vertex"])
    found = service_account.Credentials.from_service_account_info(info, scopes=[GOOGLE_SCOPE])
    found.refresh(google.auth.transport.requests.Request())
    assert chat(threaded, "vertex", found.token).status_code == 200
    threaded.set("vertex", token_ttl_s=0.0)
    found.refresh(google.auth.transport.requests.Request())
    assert chat(threaded, "vertex", found.token).json()[0]["error"]["status"] == "UNAUTHENTICATED"
    threaded.set("vertex", token_ttl_s=None)


def test_googles_library_with_another_key_is_refused(threaded: Sandbox) -> None:
    from cryptography.hazmat.primitives import serialization

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    info = {**VERTEX.service_account(threaded.origins["vertex"]), "private_key": pem.decode()}
    found = service_account.Credentials.from_service_account_info(info, scopes=[GOOGLE_SCOPE])
    with pytest.raises(RefreshError, match="Invalid JWT Signature"):
        found.refresh(google.auth.transport.requests.Request())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"iss": "someone@else"}, "account not found"),
        ({"aud": "https://example.com"}, "audience"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "OAuth scope"),
        ({"exp": NOW + 9_000}, "60 minutes"),
        ({"iat": NOW - 9_000, "exp": NOW - 5_400}, "60 minutes"),
        ({"iat": NOW + 900, "exp": NOW + 1_800}, "60 minutes"),
    ],
)
def test_assertions_are_checked_claim_by_claim(changed: dict[str, Any], why: str) -> None:
    made = jwt.encode(SIGNER, {**CLAIMS, **changed}).decode()
    assert why in google_assertion_fault(made, NOW)
    assert bool(google_assertion_fault(made, NOW)) == bool(why)


def test_a_changed_assertion_does_not_verify() -> None:
    head, _, signature = jwt.encode(SIGNER, CLAIMS).decode().split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**CLAIMS, "sub": "root"}).encode()).decode().rstrip("=")
    assert google_assertion_fault(f"{head}.{forged}.{signature}", NOW) == "Invalid JWT Signature."
    assert google_assertion_fault("a.b", NOW) == "Invalid JWT: malformed"
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    assert google_assertion_fault(f"{none}.{forged}.", NOW) == "Invalid JWT Signature."


def test_signatures_of_the_demo_key_verify_and_no_others() -> None:
    signature = SIGNER.sign(b"message")
    assert signed_with_demo_key(b"message", signature)
    assert not signed_with_demo_key(b"massage", signature)
    assert not signed_with_demo_key(b"message", signature[:-1])
    assert not signed_with_demo_key(b"message", bytes([signature[0] ^ 1]) + signature[1:])


# ---------------------------------------------------------------------- Microsoft and Databricks
ENTRA = {
    "grant_type": "client_credentials",
    "client_id": "sandbox-client",
    "client_secret": "sandbox-client-secret",
    "scope": "https://cognitiveservices.azure.com/.default",
}


def test_entra_gives_a_token_for_its_scope(threaded: Sandbox) -> None:
    url = threaded.origins["azure"] + "/a-tenant/oauth2/v2.0/token"
    made = httpx.post(url, data=ENTRA).json()
    assert (made["token_type"], made["expires_in"]) == ("Bearer", 3599)
    assert chat(threaded, "azure", made["access_token"]).status_code == 200
    serverless = threaded.origins["azure"] + "/v1/chat/completions"
    headers = {"authorization": f"Bearer {made['access_token']}"}
    assert httpx.post(serverless, json=CHAT, headers=headers).status_code == 401
    for field, error in (
        ("client_secret", "invalid_client"),
        ("scope", "invalid_scope"),
        ("client_id", "unauthorized_client"),
    ):
        assert httpx.post(url, data={**ENTRA, field: "wrong"}).json()["error"] == error


def test_databricks_gives_a_token_to_its_client(threaded: Sandbox) -> None:
    url = threaded.origins["databricks"] + "/oidc/v1/token"
    form = {"grant_type": "client_credentials", "scope": "all-apis"}
    made = httpx.post(url, data=form, auth=("sandbox-client", "sandbox-client-secret")).json()
    assert chat(threaded, "databricks", made["access_token"]).status_code == 200
    assert httpx.post(url, data=form, auth=("sandbox-client", "no")).status_code == 401
    assert (
        httpx.post(url, data={**form, "scope": "some"}, auth=("sandbox-client", "sandbox-client-secret")).status_code
        == 400
    )


def test_secrets_of_a_sign_in_are_not_in_the_record_and_faults_spare_it(threaded: Sandbox) -> None:
    threaded.reset()
    threaded.set("azure", fault={"kind": "status", "status": 503})
    made = httpx.post(threaded.origins["azure"] + "/a-tenant/oauth2/v2.0/token", data=ENTRA)
    assert made.status_code == 200
    assert "sandbox-client-secret" not in json.dumps(threaded.calls())
    threaded.set("azure", fault={"kind": "status", "status": 503, "path": "/a-tenant/"})
    assert httpx.post(threaded.origins["azure"] + "/a-tenant/oauth2/v2.0/token", data=ENTRA).status_code == 503
    threaded.reset()
