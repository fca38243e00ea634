"""`arriero keys` as people and scripts run it, against a gateway that is a process of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.keys.keyformat import is_key
from tests import process

CONFIG = """
providers: {a: {type: openai, url: 'http://127.0.0.1:1/v1'}}
routes:
  llama-a: {deployments: [{account: a, model: m, price: {in: 1, out: 1}}]}
  llama-b: {deployments: [{account: a, model: m, price: {in: 1, out: 1}}]}
keys: [{name: of-config, key: env:OF_CONFIG}]
teams: [{name: research, routes: ['llama-*']}]
admin: {tokens: [{name: ops, token: env:OPS, scope: write}]}
"""
SECRETS = {"OF_CONFIG": "canary-of-config", "OPS": "canary-of-ops"}


class Desk:
    """A folder with a gateway that runs in it, and the command."""

    def __init__(self, folder: Path, gateway: process.Running) -> None:
        self.folder, self.gateway = folder, gateway
        self.said: list[str] = []

    def keys(self, *words: str, token: str = "canary-of-ops") -> process.Finished:
        env = {"ARRIERO_ADMIN_URL": self.gateway.admin_url, "ARRIERO_ADMIN_TOKEN": token}
        done = process.run("keys", *words, folder=self.folder, env=env)
        self.said.append(done.err)
        return done

    def models(self, key: str) -> tuple[int, list[str]]:
        """What a key sees."""
        answer = httpx.get(f"{self.gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        return answer.status_code, [model["id"] for model in answer.json().get("data", ())]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "arriero.yaml").write_text(CONFIG)
    with process.serving(folder=tmp_path, env=SECRETS) as gateway:
        yield Desk(tmp_path, gateway)


def test_the_life_of_a_key(desk: Desk) -> None:
    made = desk.keys(
        "create", "--name", "app", "--routes", "llama-a,llama-b", "--limits", "rpm=600,tpm=200000", "--budget",
        "5e1/month:hard", "--team", "research", "--labels", "app=seven,tier=1", "--expires", "2099-12-31",
    )  # fmt: skip
    assert made.code == 0
    key = made.out.removesuffix("\n")
    assert is_key(key.encode())
    assert "only time" in made.err
    assert desk.models(key) == (200, ["llama-a", "llama-b"])

    listed = desk.keys("list")
    head, of_config, app = listed.out.splitlines()
    assert head.split() == ["name", "id", "source", "state", "team", "routes", "limits", "budget", "expires"]
    assert of_config.split()[:2] == ["of-config", "of-config"]
    assert "llama-a,llama-b" in app
    assert "rpm=600,tpm=200000  50/month:hard  2099-12-31" in app

    rotated = desk.keys("rotate", "app", "--overlap-s", "600")
    assert "goes on for 600 s" in rotated.err
    assert [desk.models(each)[0] for each in (key, rotated.out.strip())] == [200, 200]
    assert desk.keys("revoke", "app").code == 0
    assert [desk.models(each)[0] for each in (key, rotated.out.strip())] == [401, 401]
    assert "app" not in desk.keys("list").out
    (gone,) = [each for each in json.loads(desk.keys("list", "--all", "--json").out) if each["name"] == "app"]
    assert (gone["state"], gone["revoked_by"]) == ("revoked", "ops")

    desk.gateway.stop()
    files = b"".join(file.read_bytes() for file in desk.folder.rglob("*") if file.is_file())
    heard = "\n".join([*desk.gateway.lines, *desk.said, listed.out]).encode() + files
    for secret in (key[9:42], rotated.out.strip()[9:42], "canary-of-config", "canary-of-ops"):
        assert secret.encode() not in heard


def test_a_key_outlives_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(CONFIG)
    with process.serving(folder=tmp_path, env=SECRETS) as gateway:
        key = Desk(tmp_path, gateway).keys("create", "--name", "app").out.strip()
        gateway.process.kill()
        gateway.process.wait(process.PATIENCE_S)
    with process.serving(folder=tmp_path, env=SECRETS) as gateway:
        assert "Keys: of-config (from the config) and 1 made at run time" in gateway.screen
        assert Desk(tmp_path, gateway).models(key) == (200, ["llama-a", "llama-b"])


def test_what_goes_wrong_is_said_and_ends_as_promised(desk: Desk) -> None:
    for words, code, said in (
        (["create"], 2, "--name"),
        (["create", "--name", "a", "--limits", "rpm"], 2, "'rpm' is not of the form"),
        (["create", "--name", "a", "--limits", "rpm=many"], 2, "'rpm=many' is not of the form"),
        (["create", "--name", "a", "--limits", "rpm=0"], 1, "key.limits.rpm: must be at least 1, not 0"),
        (["create", "--name", "a", "--budget", "50"], 2, "'50' is not of the form 50/month"),
        (["create", "--name", "a", "--budget", "50/week"], 1, "unknown value 'week'; known: day, month, total"),
        (["create", "--name", "a", "--team", "reserch"], 1, "unknown team 'reserch'; did you mean 'research'?"),
        (["create", "--name", "of-config"], 1, "A key of the config has the name 'of-config'"),
        (["revoke", "nobody"], 1, "There is no active run-time key 'nobody'."),
        (["frobnicate"], 2, "invalid choice"),
    ):
        done = desk.keys(*words)
        assert (done.code, done.out) == (code, "")
        assert said in done.err
    assert "not known here" in desk.keys("list", token="wrong").err
    nobody = process.run("keys", "list", "--admin-url", "http://127.0.0.1:1", folder=desk.folder)
    assert (nobody.code, "no gateway answers at http://127.0.0.1:1" in nobody.err) == (1, True)


OPEN = """
providers: {a: {type: openai, url: 'http://127.0.0.1:1/v1'}}
routes: {r: {deployments: [{account: a, model: m}]}}
"""


def test_beyond_loopback_a_named_ledger_opens_to_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(OPEN)
    refused = process.run("serve", "--host", "0.0.0.0", "--port", "0", "--admin-port", "0", folder=tmp_path)
    assert (refused.code, "0.0.0.0 is not loopback" in refused.err) == (2, True)
    (tmp_path / "arriero.yaml").write_text(OPEN + "store: {ledger: 'sqlite:///arriero.db'}\n")
    with process.serving("--host", "0.0.0.0", folder=tmp_path) as gateway:
        desk = Desk(tmp_path, gateway)
        assert desk.models("any")[0] == 401
        assert desk.models(desk.keys("create", "--name", "first").out.strip())[0] == 200


def test_the_first_key_says_that_it_closes_an_open_gateway(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(OPEN)
    with process.serving(folder=tmp_path) as gateway:
        env = {"ARRIERO_ADMIN_PORT": gateway.admin_url.rpartition(":")[2]}  # where `arriero serve` would listen
        first = process.run("keys", "create", "--name", "a", folder=tmp_path, env=env)
        assert "from now on every call needs a key" in first.err
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        second = process.run("keys", "create", "--name", "b", folder=tmp_path, env=env)
        assert (second.code, "needs a key" in second.err) == (0, False)
