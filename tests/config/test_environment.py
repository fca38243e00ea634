"""A config made from variables: every complete set an account, every open weights a route, half a set a note."""

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from gateway.catalog import Catalog
from gateway.config import environment, loading
from gateway.config.environment import Found
from gateway.errors import ConfigError

TODAY = date(2026, 11, 22)
NOWHERE = "http://127.0.0.1:1"


def find(**env: str) -> Found:
    return environment.find(env, Catalog.load(), TODAY)


def account(**env: str) -> dict[str, Any]:
    """The one account that is made."""
    document = find(**env).document
    assert document is not None
    ((_, found),) = document["providers"].items()
    return dict(found)


def test_without_credentials_there_is_no_config():
    assert find(PATH="/bin", HOME="/nonexistent") == Found(None, [])


@pytest.mark.parametrize(
    ("env", "made"),
    [
        ({"GROQ_API_KEY": "k"}, {"type": "groq", "api_key": "env:GROQ_API_KEY"}),
        (
            {"GROQ_API_KEY": "k", "GROQ_BASE_URL": "http://x/"},
            {"type": "groq", "api_key": "env:GROQ_API_KEY", "url": "http://x/openai/v1"},
        ),
        ({"VLLM_URL": NOWHERE, "VLLM_MODEL": "m"}, {"type": "vllm", "url": f"{NOWHERE}/v1"}),
        (
            {"VLLM_URL": f"{NOWHERE}/v1/", "VLLM_MODEL": "m", "VLLM_API_KEY": "k"},
            {"type": "vllm", "url": f"{NOWHERE}/v1", "api_key": "env:VLLM_API_KEY"},
        ),
        (
            {"AZURE_AI_ENDPOINT": "https://x/", "AZURE_AI_API_KEY": "k"},
            {"type": "azure", "url": "https://x", "api_key": "env:AZURE_AI_API_KEY"},
        ),
        (
            {"AZURE_INFERENCE_ENDPOINT": "https://x", "AZURE_INFERENCE_CREDENTIAL": "k"},
            {"type": "azure", "url": "https://x", "api_key": "env:AZURE_INFERENCE_CREDENTIAL"},
        ),
        (
            {"VERTEX_ACCESS_TOKEN": "t", "GOOGLE_CLOUD_PROJECT": "p"},
            {"type": "vertex", "project": "p", "location": "us-central1", "token": "env:VERTEX_ACCESS_TOKEN"},
        ),
        (
            {"VERTEX_TOKEN_FILE": "/t", "VERTEX_PROJECT": "p", "VERTEX_LOCATION": "eu", "VERTEX_URL": "http://x/"},
            {"type": "vertex", "project": "p", "location": "eu", "token": "file:/t", "url": "http://x"},
        ),
        (
            {"DATABRICKS_HOST": "acme.test", "DATABRICKS_TOKEN": "t"},
            {"type": "databricks", "url": "https://acme.test", "api_key": "env:DATABRICKS_TOKEN"},
        ),
        (
            {"DATABRICKS_HOST": "acme.test", "DATABRICKS_CLIENT_ID": "i", "DATABRICKS_CLIENT_SECRET": "s"},
            {
                "type": "databricks",
                "url": "https://acme.test",
                "client_id": "i",
                "client_secret": "env:DATABRICKS_CLIENT_SECRET",
            },
        ),
        (
            {"AZURE_AI_ENDPOINT": "https://x", "AZURE_CLIENT_ID": "i", "AZURE_TENANT_ID": "t"},
            {"type": "azure", "url": "https://x", "entra": {}},
        ),
        (
            {"AZURE_AI_ENDPOINT": "https://x", "AZURE_CLIENT_ID": "i", "AZURE_API_KEY": "k"},
            {"type": "azure", "url": "https://x", "api_key": "env:AZURE_API_KEY"},
        ),
        (
            {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json", "GOOGLE_CLOUD_PROJECT": "p"},
            {"type": "vertex", "project": "p", "location": "us-central1"},
        ),
        (
            {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_ACCESS_KEY_ID": "ignored", "AWS_DEFAULT_REGION": "us-east-1"},
            {"type": "bedrock", "region": "us-east-1", "api_key": "env:AWS_BEARER_TOKEN_BEDROCK"},
        ),
        (
            {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-west-2"},
            {
                "type": "bedrock",
                "region": "us-west-2",
                "access_key_id": "env:AWS_ACCESS_KEY_ID",
                "secret_access_key": "env:AWS_SECRET_ACCESS_KEY",
            },
        ),
        (
            {
                "AWS_ACCESS_KEY_ID": "i",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_SESSION_TOKEN": "t",
                "AWS_REGION": "eu-west-1",
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://x/",
            },
            {
                "type": "bedrock",
                "region": "eu-west-1",
                "access_key_id": "env:AWS_ACCESS_KEY_ID",
                "secret_access_key": "env:AWS_SECRET_ACCESS_KEY",
                "session_token": "env:AWS_SESSION_TOKEN",
                "url": "http://x",
            },
        ),
        (
            {
                "OCI_COMPARTMENT_ID": "c",
                "OCI_CLI_USER": "u",
                "OCI_CLI_TENANCY": "t",
                "OCI_CLI_KEY_FILE": "/k",
                "OCI_CLI_FINGERPRINT": "f",
                "OCI_CLI_REGION": "us-chicago-1",
            },
            {
                "type": "oci",
                "compartment": "c",
                "user": "u",
                "tenancy": "t",
                "key_file": "/k",
                "fingerprint": "f",
                "region": "us-chicago-1",
            },
        ),
        (
            {
                "OCI_COMPARTMENT_ID": "c",
                "OCI_CLI_USER": "u",
                "OCI_CLI_TENANCY": "t",
                "OCI_CLI_KEY_CONTENT": "pem",
                "OCI_CLI_PASSPHRASE": "pp",
                "OCI_CLI_REGION": "us-chicago-1",
            },
            {
                "type": "oci",
                "compartment": "c",
                "user": "u",
                "tenancy": "t",
                "key": "env:OCI_CLI_KEY_CONTENT",
                "pass_phrase": "env:OCI_CLI_PASSPHRASE",
                "region": "us-chicago-1",
            },
        ),
        (
            {"OCI_COMPARTMENT_ID": "c", "OCI_CLI_AUTH": "instance_principal", "OCI_CLI_REGION": "uk-london-1"},
            {"type": "oci", "compartment": "c", "auth": "instance_principal", "region": "uk-london-1"},
        ),
        (
            {
                "OCI_COMPARTMENT_ID": "c",
                "OCI_CLI_AUTH": "security_token",
                "OCI_CLI_PROFILE": "p",
                "OCI_CLI_CONFIG_FILE": "/f",
            },
            {"type": "oci", "compartment": "c", "auth": "security_token", "profile": "p", "config_file": "/f"},
        ),
        (
            {"OCI_COMPARTMENT_ID": "c", "OCI_CLI_PROFILE": "p", "OCI_REGION": "us-chicago-1"},
            {"type": "oci", "compartment": "c", "profile": "p", "region": "us-chicago-1"},
        ),
        ({"NVIDIA_API_KEY": "k"}, {"type": "nim", "api_key": "env:NVIDIA_API_KEY"}),
        ({"NIM_URL": "http://x/v1/"}, {"type": "nim", "url": "http://x/v1"}),
    ],
)
def test_a_complete_set_makes_an_account_that_names_the_variable(env: dict[str, str], made: dict[str, Any]):
    assert account(**env) == made


@pytest.mark.parametrize(
    ("env", "note"),
    [
        ({"AZURE_AI_API_KEY": "k"}, "azure is left out: AZURE_AI_API_KEY is set but AZURE_AI_ENDPOINT is not"),
        ({"AZURE_OPENAI_ENDPOINT": "k"}, "azure is left out: AZURE_OPENAI_ENDPOINT is set but AZURE_AI_API_KEY is not"),
        (
            {"VERTEX_TOKEN_FILE": "t"},
            "vertex is left out: VERTEX_TOKEN_FILE is set but GOOGLE_CLOUD_PROJECT is not",
        ),
        ({"AWS_ACCESS_KEY_ID": "i"}, "bedrock is left out: AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not"),
        (
            {"AWS_SECRET_ACCESS_KEY": "s"},
            "bedrock is left out: AWS_SECRET_ACCESS_KEY is set but AWS_ACCESS_KEY_ID is not",
        ),
        ({"AWS_BEARER_TOKEN_BEDROCK": "k"}, "bedrock is left out: AWS credentials are set but AWS_REGION is not"),
        (
            {"OCI_COMPARTMENT_ID": "c", "OCI_CLI_AUTH": "instance_obo_user"},
            "oci is left out: OCI_CLI_AUTH is instance_obo_user; offered: api_key, security_token, instance_principal, "
            "resource_principal, oke_workload_identity",
        ),
        ({"OCI_CLI_PROFILE": "p"}, "oci is left out: OCI_CLI_PROFILE is set but OCI_COMPARTMENT_ID is not"),
        (
            {"OCI_COMPARTMENT_ID": "c", "OCI_CLI_USER": "u", "OCI_CLI_TENANCY": "t"},
            "oci is left out: OCI_CLI_USER is set but OCI_CLI_KEY_FILE is not",
        ),
        ({"DATABRICKS_HOST": "x"}, "databricks is left out: DATABRICKS_HOST is set but DATABRICKS_TOKEN is not"),
        ({"DATABRICKS_TOKEN": "x"}, "databricks is left out: DATABRICKS_TOKEN is set but DATABRICKS_HOST is not"),
        (
            {"DATABRICKS_HOST": "x", "DATABRICKS_CLIENT_ID": "x"},
            "databricks is left out: DATABRICKS_CLIENT_ID is set but DATABRICKS_CLIENT_SECRET is not",
        ),
        (
            {"GOOGLE_APPLICATION_CREDENTIALS": "x"},
            "vertex is left out: GOOGLE_APPLICATION_CREDENTIALS is set but GOOGLE_CLOUD_PROJECT is not",
        ),
        ({"AZURE_TENANT_ID": "x"}, "azure is left out: AZURE_TENANT_ID is set but AZURE_AI_ENDPOINT is not"),
    ],
)
def test_half_a_set_is_left_out_and_said(env: dict[str, str], note: str):
    assert find(**env) == Found(None, [note])
    with_another = find(**env, NVIDIA_API_KEY="k")
    assert with_another.document is not None
    assert list(with_another.document["providers"]) == ["nim"]
    assert note in with_another.notes


def test_an_empty_variable_counts_as_unset():
    assert find(GROQ_API_KEY="", VLLM_URL="") == Found(None, [])


def test_what_is_made_is_a_config_that_loads(monkeypatch: pytest.MonkeyPatch):
    env = {"NVIDIA_API_KEY": "a", "GROQ_API_KEY": "b", "VLLM_URL": NOWHERE, "VLLM_MODEL": "my-llama"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    document = find(**env).document
    config = loading.build(document)
    assert set(config.accounts) == {"nim", "groq", "vllm"}
    assert config.routes["my-llama"].deployments == ({"account": "vllm", "model": "my-llama"},)
    assert len(config.routes["llama-3.1-8b"].deployments) >= 1


def test_retired_weights_are_routed_only_where_nothing_else_is_left():
    found = find(GROQ_API_KEY="k")
    assert found.document is not None
    catalog = Catalog.load()
    rows = [row for row in catalog.rows("groq") if row.weights in found.document["routes"]]
    assert rows
    gone = [row for row in rows if row.gone(TODAY) and not row.retires_tier]
    assert not gone or any("its retired ones are routed all the same" in note for note in found.notes)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None], list[str]]]:
    """A server that lists models as vLLM does: its URL, the authorizations it saw, the ids to list."""
    seen: list[str | None] = []
    ids: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["authorization"])
            body = json.dumps({"data": [{"id": id_} for id_ in ids]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", seen, ids
        found.shutdown()


def test_vllm_is_asked_what_it_serves_with_its_key(server: tuple[str, list[str | None], list[str]]):
    url, seen, ids = server
    ids += ["meta-llama/Llama-3.1-8B-Instruct", "/models/mine"]
    document = find(VLLM_URL=url, VLLM_API_KEY="k").document
    assert document is not None
    assert seen == ["Bearer k"]
    assert {name: route["deployments"] for name, route in document["routes"].items()} == {
        "llama-3.1-8b": [{"account": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct"}],
        "/models/mine": [{"account": "vllm", "model": "/models/mine"}],
    }
    assert {str(route["policies"][0]) for route in document["routes"].values()} == {
        "{'capability': {'missing': 'emulate'}}"
    }


def test_two_servings_of_the_same_weights_get_names_of_their_own(server: tuple[str, list[str | None], list[str]]):
    url, _, ids = server
    ids += ["meta-llama/Llama-3.1-405B-Instruct", "meta-llama/Llama-3.1-405B-Instruct-FP8"]
    document = find(VLLM_URL=url).document
    assert document is not None
    assert document["routes"]["llama-3.1-405b"]["deployments"] == [
        {"account": "vllm", "model": "meta-llama/Llama-3.1-405B-Instruct"},
        {"account": "vllm", "name": "vllm-2", "model": "meta-llama/Llama-3.1-405B-Instruct-FP8"},
    ]


def test_a_model_that_cannot_name_a_route_is_left_out(server: tuple[str, list[str | None], list[str]]):
    url, _, ids = server
    ids += ["good", "bad name\n"]
    found = find(VLLM_URL=url)
    assert found.document is not None
    assert list(found.document["routes"]) == ["good"]
    assert found.notes[0].startswith("vllm: 'bad name\\n' is left out: a route's name is 1 to 128 letters")


def test_vllm_that_does_not_answer_is_assumed_to_serve_the_smallest_llama():
    found = find(VLLM_URL=NOWHERE)
    assert found.document is not None
    assert list(found.document["routes"]) == ["llama-3.1-8b"]
    assert found.notes == [
        f"vllm: {NOWHERE}/v1/models does not answer; meta-llama/Llama-3.1-8B-Instruct is assumed (say VLLM_MODEL)"
    ]


def test_an_account_that_cannot_be_opened_here_is_left_out_and_said():
    config = loading.parse("""
        providers:
          a: {type: openai, url: http://127.0.0.1:1/v1}
          b: {type: openai, url: https://127.0.0.1:1/v1, ca_file: /no/such}
        routes:
          both: {deployments: [{account: a, model: m}, {account: b, model: m}]}
          gone: {deployments: [{account: b, model: m}]}
        """)
    left, notes = environment.openable(config)
    assert list(left.accounts) == ["a"]
    assert {name: route.deployments for name, route in left.routes.items()} == {
        "both": ({"account": "a", "model": "m"},)
    }
    assert notes == ["b is left out: /no/such cannot be read: No such file or directory"]


def test_nothing_that_can_be_opened_is_refused_with_every_reason():
    config = loading.parse("""
        providers: {b: {type: openai, url: https://127.0.0.1:1/v1, ca_file: /no/such}}
        routes: {r: {deployments: [{account: b, model: m}]}}
        """)
    with pytest.raises(ConfigError, match="b is left out: /no/such cannot be read"):
        environment.openable(config)


def test_what_no_tier_is_served_any_more_is_not_offered():
    """Databricks' 3.1 405B: pay per token ended in February, provisioned throughput in May 2026."""
    env = {"DATABRICKS_HOST": "https://x.cloud.databricks.com", "DATABRICKS_TOKEN": "dapi"}
    found = environment.find(env, Catalog.load(), date(2026, 11, 28))
    assert found.document is not None
    assert "llama-3.1-8b" in found.document["routes"]
    assert "llama-3.1-405b" not in found.document["routes"]
