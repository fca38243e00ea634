"""Profiles that are more than a key: a role taken on from another profile, and a sign-in of `aws sso login`."""

import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from providers.credentials import aws
from providers.credentials.sigv4 import Keys
from sandbox import _bedrock_auth as box_auth
from sandbox import _bedrock_tokens as box_tokens
from sandbox.run import Sandbox
from tests.credentials.servers import listening
from tests.harness import Clock

ROOT = Path(__file__).parents[2]
START = "https://acme.awsapps.com/start"


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


async def test_a_profile_takes_on_a_role_with_another_profiles_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        f"[base]\naws_access_key_id = {box_auth.ACCESS_KEY_ID}\naws_secret_access_key = {box_auth.SECRET_ACCESS_KEY}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile work]\nrole_arn = {box_tokens.ROLE_ARN}\nsource_profile = base\nregion = {box_auth.REGION}\n"
        f"external_id = {box_tokens.EXTERNAL_ID}\n"
    )
    async with Sandbox(port=0, clouds=["bedrock"]) as box:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", box.origins["bedrock"])
        source = aws.Chain("work", Clock())
        found = await source.get()
        await source.aclose()
    assert isinstance(found, Keys)
    assert found.session_token is not None
    assert found[:2] == box_auth.keys_of(found.session_token)[:2]


ALONE = """
import asyncio, time
from gateway.errors import UpstreamError
from providers.credentials.aws import Chain
try:
    print(*asyncio.run(Chain("sso", time.monotonic).get()))
except UpstreamError as error:
    print(error.message)
"""


async def alone(home: Path, url: str) -> str:
    """What a fresh process with this home says: botocore looks for it when it is imported."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    env |= {"AWS_ENDPOINT_URL_SSO": url, "AWS_ENDPOINT_URL_SSO_OIDC": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ALONE, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()


async def test_a_sign_in_in_the_sso_cache_gives_the_roles_keys(tmp_path: Path) -> None:
    async def credentials(request: web.Request) -> web.Response:
        said = (request.headers.get("x-amz-sso_bearer_token"), request.query["role_name"], request.query["account_id"])
        if said != ("cached-sign-in", "llama", box_auth.ACCOUNT_ID):
            return web.json_response({"message": "Session token not found or invalid"}, status=401)
        keys = {"accessKeyId": "ASIASSO", "secretAccessKey": "of-sso", "sessionToken": "token-of-sso"}
        return web.json_response({"roleCredentials": {**keys, "expiration": int((time.time() + 3600) * 1000)}})

    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws" / "config").write_text(
        f"[profile sso]\nsso_session = acme\nsso_account_id = {box_auth.ACCOUNT_ID}\nsso_role_name = llama\n"
        f"region = us-west-2\n[sso-session acme]\nsso_region = us-west-2\nsso_start_url = {START}\n"
    )
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    signed_in = {"startUrl": START, "region": "us-west-2", "accessToken": "cached-sign-in", "expiresAt": ends}
    file = cache / f"{hashlib.sha1(b'acme', usedforsecurity=False).hexdigest()}.json"
    async with listening({"/federation/credentials": credentials}) as url:
        file.write_text(json.dumps(signed_in))
        assert await alone(tmp_path, url) == "ASIASSO of-sso token-of-sso"
        file.unlink()
        said = await alone(tmp_path, url)
    assert said.startswith("could not get AWS credentials (")
    assert said.endswith("looked at profile 'sso'")
