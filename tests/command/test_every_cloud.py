"""Every cloud is found from its usual variables alone and serves; one that is down at the start keeps none back."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import openai
import pytest

from gateway.catalog import Catalog
from gateway.config import environment
from sandbox import _oci_demo as oracle
from sandbox.cloud import clouds
from sandbox.run import Sandbox
from tests import process
from tests.harness import CATALOG, serving

HELLO: Any = [{"role": "user", "content": "Tell me of llamas."}]
TODAY = date(2026, 11, 22)
DOWN = "http://127.0.0.1:1"
USUAL: Mapping[str, Mapping[str, str]] = {
    "vllm": {"VLLM_URL": "{origin}", "VLLM_API_KEY": "{api_key}"},
    "groq": {"GROQ_API_KEY": "{api_key}", "GROQ_BASE_URL": "{origin}"},
    "azure": {"AZURE_AI_ENDPOINT": "{origin}", "AZURE_AI_API_KEY": "{api_key}"},
    "vertex": {"VERTEX_ACCESS_TOKEN": "{token}", "GOOGLE_CLOUD_PROJECT": "{project}", "VERTEX_URL": "{origin}"},
    "bedrock": {
        "AWS_ACCESS_KEY_ID": "{access_key_id}",
        "AWS_SECRET_ACCESS_KEY": "{secret_access_key}",
        "AWS_REGION": "{region}",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "{origin}",
    },
    "oci": {
        "OCI_COMPARTMENT_ID": oracle.COMPARTMENT,
        "OCI_CLI_USER": oracle.USER,
        "OCI_CLI_TENANCY": oracle.TENANCY,
        "OCI_CLI_FINGERPRINT": oracle.FINGERPRINT,
        "OCI_CLI_REGION": oracle.REGION,
        "OCI_CLI_KEY_FILE": "{key_file}",
        "OCI_CLI_ENDPOINT": "{origin}",
    },
    "databricks": {"DATABRICKS_HOST": "{origin}", "DATABRICKS_TOKEN": "{api_key}"},
    "nim": {"NVIDIA_API_KEY": "{api_key}", "NIM_URL": "{origin}/v1"},
}
"""What each cloud's own tools would have; the URLs lead to the box."""


def variables(origins: Mapping[str, str], key_file: str) -> dict[str, str]:
    """Those of every cloud at these origins."""
    known = clouds()
    return {
        name: text.format(origin=origins[cloud], key_file=key_file, **known[cloud].demo)
        for cloud, said in USUAL.items()
        for name, text in said.items()
    }


@pytest.fixture
def key_file(tmp_path: Any) -> str:
    lines = [oracle.PRIVATE_KEY[at : at + 64] for at in range(0, len(oracle.PRIVATE_KEY), 64)]
    file = tmp_path / "oracle.pem"
    file.write_text("\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""]))
    return str(file)


async def test_every_cloud_is_found_and_serves_from_its_usual_variables_alone(
    key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(port=0) as box:
        env = variables(box.origins, key_file)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        found = environment.find({**env, "VLLM_MODEL": "meta-llama/Llama-3.1-8B-Instruct"}, CATALOG, TODAY)
        assert found.document is not None
        assert set(found.document["providers"]) == set(USUAL)
        alone = {cloud: _alone(found.document, cloud) for cloud in USUAL}
        async with (
            serving({"providers": found.document["providers"], "routes": alone}) as served,
            openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client,
        ):
            for cloud in USUAL:
                answer = await client.chat.completions.create(model=cloud, messages=HELLO, max_tokens=5)
                assert answer.choices[0].message.content, cloud
                call = box.calls()[-1]
                assert (call["cloud"], call["credential"], call["ended"]) == (cloud, "ok", "done")


def _alone(document: Mapping[str, Any], cloud: str) -> dict[str, Any]:
    """A route over the first deployment there that the box's cloud has, too."""
    models = clouds()[cloud].models
    places = [
        {"account": cloud, "model": d.get("model") or row.id}
        for route, said in document["routes"].items()
        for d in said["deployments"]
        if d["account"] == cloud and (d.get("model") or (row := CATALOG.row(cloud, route)))
    ]
    return {"deployments": [place for place in places if place["model"] in models][:1], "policies": []}


def test_without_credentials_every_cloud_is_on_the_screen(tmp_path: Any) -> None:
    with process.serving(folder=tmp_path) as gateway:
        assert [cloud for cloud in (*USUAL, "openai") if f"{cloud} " not in gateway.screen] == []


@pytest.mark.parametrize("serves", ["groq", "bedrock", "oci"])
async def test_clouds_that_are_down_at_the_start_keep_none_from_serving(serves: str, key_file: str) -> None:
    """All but one are at a port where nobody listens, and so are the places that give their tokens."""
    async with Sandbox(port=0, clouds=[serves]) as box:
        known = clouds()
        origins = {name: box.origins[name] if name == serves else DOWN for name in known}
        accounts = {name: cloud.account(origins[name]) for name, cloud in known.items()}
        accounts["machine"] = {"type": "databricks", "url": DOWN, "client_id": "c", "client_secret": "the-secret-1"}
        accounts["entra"] = {
            "type": "azure",
            "url": DOWN,
            "entra": {
                "tenant": "t",
                "client_id": "c",
                "client_secret": "the-secret-2",
                "authority": "https://127.0.0.1:1",
            },
        }
        model = str(next(iter(known[serves].deployments.values()))["model"])
        deployments = [{"account": name, "model": model} for name in sorted(accounts, key=lambda name: name == serves)]
        routes = {"last": {"deployments": deployments, "policies": []}, "alone": {"deployments": deployments[-1:]}}
        async with (
            serving({"providers": accounts, "routes": routes}) as served,
            openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client,
        ):
            answer = await client.chat.completions.create(model="alone", messages=HELLO, max_tokens=5)
            assert answer.choices[0].message.content
            with pytest.raises(openai.InternalServerError) as refused:  # three attempts, none of them at the last
                await client.chat.completions.create(model="last", messages=HELLO, max_tokens=5)
            assert "the-secret" not in str(refused.value) + str(served.log())


def test_a_catalogue_is_there_for_every_cloud_that_is_found() -> None:
    assert set(USUAL) == set(environment.ACCOUNTS)
    assert all(Catalog.load().rows(cloud) for cloud in USUAL)
