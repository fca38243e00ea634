"""A Bedrock account in the config: where it is, what is missing and where to say it."""

import subprocess
import sys
from typing import Any

import botocore.loaders
import msgspec
import pytest
from botocore.endpoint_provider import EndpointProvider

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import ConfigError
from gateway.types import Deployment
from providers.bedrock import EMULATES, USUAL_FEATURES, Bedrock
from tests.harness import config, route, serving

KEYS = {"access_key_id": "AKID", "secret_access_key": "secret"}


def account(**fields: Any) -> Bedrock:
    built = loading.build(config({"r": route("b")}, b={"type": "bedrock", "api_key": "k", **fields}))
    found = built.accounts["b"]
    assert isinstance(found, Bedrock)
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        account(**fields)
    return str(caught.value)


def test_every_region_is_where_botocore_says() -> None:
    """For every partition: the host of a region that has Bedrock, or would have it."""
    partitions = botocore.loaders.create_loader().load_data("endpoints")["partitions"]
    assert len(partitions) >= 7
    for partition in partitions:
        for region in partition["regions"]:
            assert account(region=region).base_url() == f"https://bedrock-runtime.{region}.{partition['dnsSuffix']}"
    fips = account(region="us-gov-west-1", fips=True)
    assert fips.base_url() == "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com"


def resolver() -> EndpointProvider:
    """botocore's own, with the rules of the service."""
    loader = botocore.loaders.create_loader()
    rules = loader.load_service_model("bedrock-runtime", "endpoint-rule-set-1")
    return EndpointProvider(rules, loader.load_data("partitions"))


@pytest.mark.parametrize("fips", [False, True])
def test_every_host_is_that_of_botocores_resolver(fips: bool) -> None:
    """For every region it knows, and for one of each partition that it cannot know yet."""
    found = resolver()
    partitions = botocore.loaders.create_loader().load_data("partitions")["partitions"]
    regions = [region for partition in partitions for region in partition["regions"] if not region.endswith("-global")]
    assert len(regions) > 40
    for region in [*regions, "us-gov-north-9", "cn-south-9", "us-iso-north-9", "eusc-de-south-9", "sa-west-9"]:
        wanted = found.resolve_endpoint(Region=region, UseDualStack=False, UseFIPS=fips).url
        assert account(region=region, fips=fips).base_url() == wanted


@pytest.mark.parametrize(
    ("region", "url", "host"),
    [
        ("us-gov-west-1", None, "bedrock-runtime-fips.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", None, "bedrock-runtime-fips.cn-north-1.amazonaws.com.cn"),
        ("eu-west-1", "https://vpce-0a.bedrock-runtime.eu-west-1.vpce.amazonaws.com", None),
        ("eu-west-1", "https://llama.corp.example:8443/aws", None),
    ],
)
async def test_a_signature_is_for_the_region_and_the_service_whatever_the_host(
    region: str, url: str | None, host: str | None
) -> None:
    runtime: Any = account(region=region, fips=True, url=url).open("b")
    assert tuple(runtime.scope) == (region, "bedrock")
    assert runtime.host == (host or (url or "").split("/")[2])
    await runtime.aclose()


def test_an_own_url_replaces_the_clouds() -> None:
    url = "https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com/proxy/"
    assert account(region="us-east-1", url=url).base_url() == url.rstrip("/")


def test_the_region_comes_from_the_environment_where_it_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert account().region == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "ca-central-1")
    assert account().region == "ca-central-1"
    assert account(region="us-east-2").region == "us-east-2"


def test_a_missing_region_names_the_field_and_where_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    said = refused()
    assert "'region' is missing" in said
    assert "AWS_REGION" in said
    assert said.startswith("providers.b")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"region": "US East"}, "an AWS region such as us-east-1"),
        ({"access_key_id": "AKID"}, "must be given together"),
        ({"session_token": "t"}, "needs 'access_key_id'"),
        ({"emulates": ["seed"]}, "not 'seed'"),
        ({"guardrail": {"version": "1"}}, "'id' is missing"),
        ({"guardrail": {"id": "g", "trace": "loud"}}, "providers.b.guardrail.trace"),
        ({"regoin": "us-east-1"}, "did you mean 'region'?"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], word: str) -> None:
    assert word in refused(**{"region": "us-east-1", **fields})


def test_a_missing_extra_names_the_command() -> None:
    """In a process of its own, where botocore cannot be imported."""
    code = (
        "import sys; sys.modules['botocore'] = None\n"
        "from providers.bedrock import Bedrock\n"
        "Bedrock(region='us-east-1', access_key_id='i', secret_access_key='s').open('b')\n"
        "Bedrock(region='us-east-1', api_key='k').open('b')\n"
        "try: Bedrock(region='us-east-1').open('b')\n"
        "except ValueError as error: print(error)\n"
    )
    env = {"PATH": "/usr/bin", "PYTHONPATH": "."}
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout
    assert "pip install 'arriero[aws]'" in said


async def test_an_account_without_credentials_does_not_keep_the_others_from_serving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    routes = {"r": route({"account": "b", "model": "m"})}
    providers = {"b": {"type": "bedrock", "region": "us-east-1", "url": "http://127.0.0.1:9"}}
    async with serving({"providers": providers, "routes": routes}) as served:
        assert served.port


def test_nothing_secret_is_printed() -> None:
    found = account(region="us-east-1", **KEYS)
    assert "secret" not in repr(msgspec.structs.asdict(found)).replace("secret_access_key", "")


def deployed(*policies: Any, **fields: Any) -> Deployment:
    """The deployment that a route makes of a model the catalogue does not know."""
    routes = {"r": route({"account": "b", "model": "arn:x", **fields}, policies=list(policies))}
    built = loading.build(config(routes, b={"type": "bedrock", "region": "us-east-1", "api_key": "k"}))
    return Gateway(built).fleet.routes["r"].lanes["b"].deployment


def test_weights_that_the_catalogue_does_not_know_do_what_any_llama_does() -> None:
    assert deployed().features == USUAL_FEATURES
    assert deployed(features=["+tool_choice"]).features == USUAL_FEATURES | {"tool_choice"}
    assert deployed().emulates == EMULATES


def test_a_deployment_knows_what_its_route_wants_of_missing_features() -> None:
    assert deployed("breaker").missing == "emulate"
    assert deployed("breaker", {"capability": {"missing": "strict"}}).missing == "strict"
