"""What is said where a cloud's own library is not installed."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
sys.modules[{missing!r}] = None  # as find_spec and import see a package that is not there
from gateway.config import loading
from gateway.app import Gateway
from gateway.errors import ConfigError
try:
    Gateway(loading.parse({config!r}))
except ConfigError as error:
    print(error)
else:
    print("it opens")
"""


@pytest.mark.parametrize(
    ("missing", "account", "said"),
    [
        ("google.auth", "type: vertex, project: p", "pip install 'arriero[gcp]'"),
        ("requests", "type: vertex, project: p", "pip install 'arriero[gcp]'"),
        ("google.auth", "type: vertex, project: p, token: t", "it opens"),
        ("azure", "type: azure, url: 'https://x.test', entra: {}", "pip install 'arriero[azure]'"),
        ("azure.identity", "type: azure, url: 'https://x.test', entra: {}", "pip install 'arriero[azure]'"),
        ("azure.identity", "type: azure, url: 'https://x.test', api_key: k", "it opens"),
        ("botocore", "type: bedrock, region: us-east-1", "pip install 'arriero[aws]'"),
        ("botocore", "type: bedrock, region: us-east-1, api_key: k", "it opens"),
        ("cryptography", "type: oci, compartment: c, region: us-chicago-1", "pip install 'arriero[oci]'"),
        ("cryptography", "type: oci, region: us-chicago-1, api_key: k", "it opens"),
        ("litellm", "type: litellm, api_key: k", "pip install 'arriero[litellm]'"),
        ("requests", "type: databricks, url: 'https://x.test', client_id: c, client_secret: s", "it opens"),
    ],
)
async def test_a_missing_extra_is_named_with_its_pip_command(missing: str, account: str, said: str) -> None:
    config = f"providers: {{a: {{{account}}}}}\nroutes: {{r: {{deployments: [{{account: a, model: m}}]}}}}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WITHOUT.format(missing=missing, config=config),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    text = out.decode().strip()
    assert text == said or (text.startswith("providers.a: ") and said in text)


LOOKING = """
import asyncio, sys
from gateway.config import loading
from gateway.errors import UpstreamError
async def main():
    provider = loading.build({config!r}).accounts["a"].open("a")
    token = getattr(provider, "token", None)
    try:
        await (token.get(float("inf")) if token else provider.source.get())
    except UpstreamError as error:
        print("none:", error.message)
    await provider.aclose()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "account",
    [
        {"type": "bedrock", "region": "us-east-1"},
        {"type": "azure", "url": "http://127.0.0.1:9", "entra": {}},
        {"type": "azure", "url": "http://127.0.0.1:9", "entra": {"tenant": "t", "client_id": "c", "token_file": "/no"}},
        {"type": "vertex", "project": "p"},
        {"type": "oci", "compartment": "c", "region": "us-chicago-1", "auth": "instance_principal"},
        {"type": "databricks", "url": "http://127.0.0.1:9", "client_id": "c", "client_secret": "s"},
    ],
    ids=lambda account: str(account["type"]),
)
async def test_a_library_that_finds_no_credential_writes_nothing_of_its_own(account: dict[str, Any]) -> None:
    """Its words are neither in the form of our log nor known to hold no secret."""
    config = {"providers": {"a": account}, "routes": {"r": {"deployments": [{"account": "a", "model": "m"}]}}}
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true", "HTTPS_PROXY": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LOOKING.format(config=config),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **nowhere},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    assert (out.decode()[:6], said.decode()) == ("none: ", "")
