"""Google's credentials through google-auth: key files at the sandbox, federation and metadata at servers here."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import UpstreamError
from providers.credentials import gcp
from providers.credentials.access_token import AccessToken
from providers.credentials.gcp import Google
from sandbox.run import Sandbox
from sandbox.vertex import CLOUD
from tests.credentials.servers import listening
from tests.harness import Clock

FOREVER = float("inf")
ROOT = Path(__file__).parents[2]


def key_file(box: Sandbox, path: Path, **fields: str) -> str:
    path.write_text(json.dumps({**CLOUD.service_account(box.origins["vertex"]), **fields}))
    return str(path)


async def test_a_service_accounts_key_gives_a_token(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        await box.change("vertex", {"token_ttl_s": 600.0})
        source = Google(key_file(box, tmp_path / "key.json"))
        first, second = await source.fetch(), await source.fetch()
    assert first.value.startswith("ya29.")
    assert first.value != second.value
    assert first.life_s is not None
    assert 590 < first.life_s <= 600


async def test_the_variable_of_googles_tools_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file(box, tmp_path / "key.json"))
        assert (await Google(None).fetch()).value.startswith("ya29.")


def test_the_login_of_gcloud_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found and read only: google-auth lets such a login speak to Google's own token endpoint alone."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    file = tmp_path / "application_default_credentials.json"
    before = Google(None).stamp()
    found = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    file.write_text(json.dumps(found))
    assert Google(None).stamp() != before
    assert Google(None)._path() == str(file)
    loaded = gcp._load(str(file))
    assert (type(loaded).__module__, loaded.refresh_token) == ("google.oauth2.credentials", "r")


async def test_a_federated_workload_exchanges_its_token_file(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    async def exchange(request: web.Request) -> web.Response:
        asked.append(dict(await request.post()))
        return web.json_response(
            {
                "access_token": "ya29.federated",
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        )

    subject = tmp_path / "subject"
    subject.write_text("of-kubernetes")
    async with listening({"/v1/token": exchange}) as url:
        config = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": url + "/v1/token",
            "credential_source": {"file": str(subject)},
        }
        file = tmp_path / "federation.json"
        file.write_text(json.dumps(config))
        lease = await Google(str(file)).fetch()
        subject.write_text("rotated")
        await Google(str(file)).fetch()
    assert lease.value == "ya29.federated"
    assert [form["subject_token"] for form in asked] == ["of-kubernetes", "rotated"]
    assert asked[0]["scope"] == gcp.SCOPE


ALONE = """
import asyncio, sys
from gateway.errors import UpstreamError
from providers.credentials.gcp import Google
try:
    print(*asyncio.run(Google(None).fetch()))
except UpstreamError as error:
    print(error.message)
"""


async def alone(home: Path, **variables: str) -> str:
    """What a fresh process says that has only these variables: google-auth reads some of them when it is imported."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()


async def test_a_pod_gets_its_token_from_the_metadata_server(tmp_path: Path) -> None:
    async def metadata(request: web.Request) -> web.Response:
        assert request.headers["metadata-flavor"] == "Google"
        headers = {"metadata-flavor": "Google"}
        if request.path.endswith("/token"):
            found = {"access_token": "ya29.pod", "expires_in": 1800, "token_type": "Bearer"}
            return web.json_response(found, headers=headers)
        if request.query.get("recursive"):
            found = {"email": "pod@p.iam", "scopes": [gcp.SCOPE], "aliases": ["default"]}
            return web.json_response(found, headers=headers)
        return web.Response(text="project", headers=headers)

    async with listening({"/{path:.*}": metadata}) as url:
        host = url.removeprefix("http://")
        said = await alone(tmp_path, GCE_METADATA_HOST=host, GCE_METADATA_IP=host)
    token, life_s = said.split()
    assert token == "ya29.pod"
    assert 1700 < float(life_s) <= 1800


async def test_where_nothing_is_found_the_places_are_listed(tmp_path: Path) -> None:
    said = await alone(tmp_path, NO_GCE_CHECK="true")
    assert said == f"found no Google credentials: looked at {gcp.PLACES}"


@pytest.mark.parametrize(
    "text", ["", "no json secret-key", "[]", "{}", '{"type": "secret-key"}', '{"type": "service_account"}']
)
async def test_a_file_that_holds_no_credentials_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    with pytest.raises(UpstreamError, match=str(file)) as refused:
        await Google(str(file)).fetch()
    assert "secret-key" not in refused.value.message
    assert refused.value.status == 401


async def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match=r"nowhere.json \(FileNotFoundError\)"):
        await Google(str(tmp_path / "nowhere.json")).fetch()


async def test_a_refused_key_is_said_in_oauths_word(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        file = key_file(box, tmp_path / "key.json", client_email="nobody@x.iam.gserviceaccount.com")
        with pytest.raises(UpstreamError) as refused:
            await Google(file).fetch()
    assert refused.value.message == f"Google gave no token for the file {file} (RefreshError invalid_grant)"
    assert "PRIVATE" not in repr(refused.value)


async def test_a_key_file_that_was_replaced_is_used_within_ten_seconds(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        path = tmp_path / "key.json"
        path.write_text("half writ")
        clock = Clock()
        token = AccessToken(Google(str(path)), clock)
        with pytest.raises(UpstreamError):
            await token.get(FOREVER)
        key_file(box, tmp_path / "new.json")
        os.replace(tmp_path / "new.json", path)
        clock.advance(10)
        assert (await token.get(FOREVER)).startswith("ya29.")
        await token.aclose()


async def test_the_event_loop_turns_while_google_is_slow(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def token(request: web.Request) -> web.Response:
        await answered.wait()
        return web.json_response({"access_token": "ya29.late", "expires_in": 300})

    async with listening({"/token": token}) as url, Sandbox(port=0, clouds=["vertex"]) as box:
        fetch = asyncio.create_task(Google(key_file(box, tmp_path / "key.json", token_uri=url + "/token")).fetch())
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not fetch.done()
        answered.set()
        assert (await fetch).value == "ya29.late"
