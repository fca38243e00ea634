"""AWS's own ways to credentials, against the box's endpoints, and keys that change under a running gateway."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import UpstreamError
from gateway.outcome import judge
from gateway.secret import Secret
from providers.bedrock import Bedrock
from providers.credentials import aws
from providers.credentials.sigv4 import Keys
from sandbox import _bedrock_tokens as box_tokens
from sandbox._bedrock_auth import keys_of
from sandbox.run import Sandbox
from tests.harness import Clock


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any AWS credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(clouds=["bedrock"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(box: Sandbox) -> None:
    box.reset()


def chain(profile: str | None = None, clock: Clock | None = None) -> aws.Chain:
    return aws.Chain(profile, clock or Clock())


def write(path: Path, key_id: str, section: str = "default") -> None:
    text = f"[{section}]\naws_access_key_id = {key_id}\naws_secret_access_key = secret-of-{key_id}\n"
    path.write_text(text)


def is_issued(keys: aws.Credential) -> bool:
    return isinstance(keys, Keys) and keys.session_token is not None and keys[:2] == keys_of(keys.session_token)[:2]


# ---------------------------------------------------------------------- the chain
async def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"v-{name}")
    assert await chain().get() == Keys("v-AWS_ACCESS_KEY_ID", "v-AWS_SECRET_ACCESS_KEY", "v-AWS_SESSION_TOKEN")


async def test_keys_of_a_profile(tmp_path: Path) -> None:
    write(tmp_path / "credentials", "AKIDWORK", "work")
    assert await chain("work").get() == Keys("AKIDWORK", "secret-of-AKIDWORK")
    with pytest.raises(UpstreamError, match=r"ProfileNotFound.*profile 'home'"):
        await chain("home").get()


async def test_a_container_role(monkeypatch: pytest.MonkeyPatch, box: Sandbox) -> None:
    url = box.origins["bedrock"] + box_tokens.CONTAINER_PATH
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", box_tokens.CONTAINER_AUTHORIZATION)
    assert is_issued(await chain().get())


async def test_pod_identity_has_its_token_in_a_file(
    monkeypatch: pytest.MonkeyPatch, box: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(box_tokens.CONTAINER_AUTHORIZATION)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", box.origins["bedrock"] + box_tokens.CONTAINER_PATH)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    assert is_issued(await chain().get())


async def test_an_instance_role(monkeypatch: pytest.MonkeyPatch, box: Sandbox) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", box.origins["bedrock"])
    assert is_issued(await chain().get())


async def test_a_kubernetes_service_account(monkeypatch: pytest.MonkeyPatch, box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(box_tokens.WEB_IDENTITY)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", box_tokens.ROLE_ARN)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", box.origins["bedrock"])
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert is_issued(await chain().get())
    (tmp_path / "token").write_text("another's")
    with pytest.raises(UpstreamError, match="InvalidIdentityToken") as caught:
        await chain().get()
    assert "another's" not in caught.value.message


async def test_none_at_all_says_where_it_looked_and_is_a_fault_of_the_credential() -> None:
    with pytest.raises(
        UpstreamError, match=r"found no AWS credentials; looked at .*AWS_PROFILE.*container's role"
    ) as caught:
        await chain().get()
    assert judge(caught.value).fault == "credential"


async def test_the_chain_runs_off_the_event_loop_and_once_for_all(
    monkeypatch: pytest.MonkeyPatch, box: Sandbox
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", box.origins["bedrock"] + box_tokens.CONTAINER_PATH)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", box_tokens.CONTAINER_AUTHORIZATION)
    source, ticks, done = chain(), 0, asyncio.Event()

    async def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    found = await asyncio.gather(*(source.get() for _ in range(1000)))
    done.set()
    await ticking
    assert len(set(found)) == 1
    assert ticks > 10


# ---------------------------------------------------------------------- keys that change
async def test_a_role_is_taken_on_anew_at_80_percent_of_its_keys_life(
    monkeypatch: pytest.MonkeyPatch, box: Sandbox
) -> None:
    box.set("bedrock", token_ttl_s=1000)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", box.origins["bedrock"] + box_tokens.CONTAINER_PATH)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", box_tokens.CONTAINER_AUTHORIZATION)
    clock = Clock()
    source = chain(clock=clock)
    first = await source.get()
    clock.advance(790)
    assert await source.get() == first
    clock.advance(20)
    assert await source.get() == first  # and a fetch has begun
    other = await source.renew(first)
    assert other is not None
    assert other != first
    assert source.secrets() == aws.secrets_of(other)


async def test_a_profile_that_changed_on_disk_is_used_within_10_seconds(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write(file, "AKIDOLD")
    clock = Clock()
    source = chain(clock=clock)
    assert (await source.get())[0] == "AKIDOLD"
    write(file, "AKIDNEWER")
    clock.advance(aws.FILE_LIFE_S)
    assert (await source.get())[0] == "AKIDNEWER"
    file.unlink()
    clock.advance(aws.FILE_LIFE_S)
    assert (await source.get())[0] == "AKIDNEWER"  # the last is kept, as a mounted secret may be swapped just now


async def test_a_key_of_the_config_that_changed_on_disk_is_used(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("id", "secret"):
        (tmp_path / name).write_text(f"old-{name}")
    secrets = [Secret(f"file:{tmp_path / name}", clock) for name in ("id", "secret")]
    source = aws.Fixed(aws.said(secrets[0], secrets[1], None))
    assert await source.get() == Keys("old-id", "old-secret")
    assert await source.renew(Keys("old-id", "old-secret")) is None
    for name in ("id", "secret"):
        (tmp_path / name).write_text(f"newer-{name}")
    clock.advance(2)
    assert await source.renew(Keys("old-id", "old-secret")) == Keys("newer-id", "newer-secret")


# ---------------------------------------------------------------------- which one
@pytest.mark.parametrize(
    ("fields", "env", "kind"),
    [
        ({"api_key": Secret("k")}, {aws.BEARER: "other"}, "Bearer k"),
        ({"access_key_id": Secret("i"), "secret_access_key": Secret("s")}, {aws.BEARER: "other"}, "Keys i"),
        ({}, {aws.BEARER: "from-env", "AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "s"}, "Bearer from-env"),
        ({}, {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "s"}, "Keys e"),
    ],
)
async def test_what_is_said_goes_before_what_is_found(
    fields: dict[str, Secret], env: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = await Bedrock(region="us-east-1", **fields).source(Clock()).get()  # type: ignore[arg-type]
    assert f"{type(found).__name__} {found[0]}" == kind


async def test_a_named_profile_goes_before_an_api_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(aws.BEARER, "from-env")
    write(tmp_path / "credentials", "AKIDWORK", "work")
    assert (await Bedrock(region="us-east-1", profile="work").source(Clock()).get())[0] == "AKIDWORK"
