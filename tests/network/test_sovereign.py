"""Clouds of other countries and networks: Azure's logins and scopes, Vertex' hosts, Databricks' own."""

import os
from typing import Any

import pytest
from azure.identity import AzureAuthorityHosts

from gateway.config import loading
from providers.credentials import azure


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)


def identity(url: str, **entra: str) -> tuple[str, str]:
    """(login host, scope) of an Azure account's tokens."""
    account: Any = loading.account({"type": "azure", "url": url, "entra": entra}, "providers.a")
    found = account.access_token(float)._source
    return found._entra.host(), found._scope


@pytest.mark.parametrize(
    ("url", "login", "scope"),
    [
        ("https://a.services.ai.azure.com", "", "https://cognitiveservices.azure.com/.default"),
        ("https://a.eastus2.models.ai.azure.com", "", "https://ml.azure.com/.default"),
        (
            "https://a.openai.azure.us",
            AzureAuthorityHosts.AZURE_GOVERNMENT,
            "https://cognitiveservices.azure.us/.default",
        ),
        (
            "https://a.services.ai.azure.us",
            AzureAuthorityHosts.AZURE_GOVERNMENT,
            "https://cognitiveservices.azure.us/.default",
        ),
        ("https://a.openai.azure.cn", AzureAuthorityHosts.AZURE_CHINA, "https://cognitiveservices.azure.cn/.default"),
        ("https://a.b.models.ai.azure.cn", AzureAuthorityHosts.AZURE_CHINA, "https://ml.azure.cn/.default"),
        ("https://llama.corp.example", "", "https://cognitiveservices.azure.com/.default"),
    ],
)
async def test_a_sovereign_clouds_host_has_its_login_and_its_scope(url: str, login: str, scope: str) -> None:
    assert identity(url) == (login, scope)


async def test_what_is_said_goes_before_what_the_host_says(monkeypatch: pytest.MonkeyPatch) -> None:
    gov = "https://a.openai.azure.us"
    assert identity(gov, authority="login.corp.example")[0] == "login.corp.example"
    assert identity(gov, scope="api://x/.default")[1] == "api://x/.default"
    private = "https://llama.corp.example"
    assert identity(private, authority="https://login.microsoftonline.us") == (
        "login.microsoftonline.us",
        "https://cognitiveservices.azure.us/.default",
    )
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")
    assert identity(private) == ("", "https://cognitiveservices.azure.us/.default")


def test_azures_own_names_of_the_logins_are_known() -> None:
    assert set(azure.AUTHORITIES.values()) == {AzureAuthorityHosts.AZURE_GOVERNMENT, AzureAuthorityHosts.AZURE_CHINA}


@pytest.mark.parametrize(
    ("said", "url"),
    [
        (
            {"location": "europe-west4"},
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/p/locations/europe-west4",
        ),
        ({"location": "global"}, "https://aiplatform.googleapis.com/v1/projects/p/locations/global"),
        ({"location": "eu"}, "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu"),
        (
            {"location": "us-east5", "url": "https://us-east5-aiplatform-acme.p.googleapis.com/"},
            "https://us-east5-aiplatform-acme.p.googleapis.com/v1/projects/p/locations/us-east5",
        ),
    ],
)
def test_vertex_is_reached_by_region_globally_or_privately(said: dict[str, str], url: str) -> None:
    account: Any = loading.account({"type": "vertex", "project": "p", "token": "t", **said}, "providers.g")
    assert account.base_url() == url + "/endpoints/openapi"
