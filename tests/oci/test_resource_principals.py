"""Resource principals of the older versions, against the box's places for them, and by calls through the gateway."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.account import USUAL
from providers.credentials.oci_resource import of_resource
from sandbox import _oci_demo as demo
from sandbox._oci_tokens import LIFE_S, RESOURCE, RESOURCE_SESSION
from sandbox.run import Sandbox
from tests.harness import Clock, eventually
from tests.oci.calls import PEM
from tests.oci.conftest import staged

PREFIX = "OCI_RESOURCE_PRINCIPAL_"
OWN: dict[str, Any] = dict.fromkeys(("key", "tenancy", "user", "fingerprint"))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OCI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, clouds=["oci"]) as made:
        yield made


def variables(origin: str, version: str, **more: str) -> dict[str, str]:
    said = {"VERSION": version, "RPT_ENDPOINT": origin, "RPST_ENDPOINT": origin, "RESOURCE_ID": RESOURCE}
    said |= {"PRIVATE_PEM": PEM, "TENANCY_ID": demo.TENANCY, "RPT_ID": RESOURCE}
    return {PREFIX + name: text for name, text in (said | more).items() if text}


@pytest.mark.parametrize("version", ["1.1", "2.1", "2.1.1", "2.1.2"])
async def test_a_resource_is_served(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(port=0, clouds=["oci"]) as tokens:
        origin = tokens.origins["oci"]
        for name, text in variables(origin, version).items():
            monkeypatch.setenv(name, text)
        where = {"metadata_url": f"{origin}/opc/v2", "federation_url": origin}
        async with staged(auth="resource_principal", **OWN, **where) as stage:
            assert (await stage.ask(max_tokens=4)).usage.completion_tokens == 4
            assert (await stage.ask(max_tokens=4)).usage.completion_tokens == 4
        assert len([call for call in tokens.calls("oci") if call["path"] == RESOURCE_SESSION]) == 1


async def test_its_key_may_be_a_file_and_its_token_is_renewed_ahead_of_its_end(box: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(PEM)
    clock = Clock()
    env = variables(
        box.origins["oci"], "2.1.2", PRIVATE_PEM=str(file), RPT_PATH="/20180711/resourcePrincipalTokenV212/{}"
    )
    source = of_resource(env, clock, USUAL)
    first = await source.get()
    clock.advance(LIFE_S * 0.81)
    assert await source.get() is first
    paths = lambda: [call["path"] for call in box.calls("oci")].count(RESOURCE_SESSION)  # noqa: E731
    await eventually(lambda: paths() == 2, "no second token was asked for")
    await source.aclose()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"RESOURCE_ID": ""}, "OCI_RESOURCE_PRINCIPAL_RESOURCE_ID is not set"),
        ({"TENANCY_ID": ""}, "OCI_RESOURCE_PRINCIPAL_TENANCY_ID is not set"),
        ({"RPT_ENDPOINT": ""}, "OCI_RESOURCE_PRINCIPAL_RPT_ENDPOINT is not set"),
        ({"RPST_ENDPOINT": ""}, "OCI_RESOURCE_PRINCIPAL_RPST_ENDPOINT is not set"),
        ({"PRIVATE_PEM": ""}, "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM is not set"),
        ({"PRIVATE_PEM": "nonsense"}, "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM is no private key"),
        ({"PRIVATE_PEM": "/nowhere/key"}, "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM cannot be read"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        of_resource(variables("http://127.0.0.1:1", "2.1.1", **changes), Clock(), USUAL)
