"""H1 of the failure catalogue: no key and no prompt in logs, metrics, decisions, errors or anything that is printed."""

import json
import traceback
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.commands.screen import screen
from gateway.config import loading
from gateway.errors import ConfigError
from gateway.explain import text
from gateway.serve import Listen, running
from sandbox.run import Sandbox
from tests.harness import Served, ask, chat, serving

CANARY = "canary-7f3a"
CLIENT_KEY, CLOUD_KEY, ADMIN_TOKEN, PROMPT = (
    f"{CANARY}-{what}" for what in ("client-key", "cloud-key", "admin-token", "prompt")
)
SESSION = "session-1b2c"  # no secret, but nobody else's business: only memory holds it


def document(box: Sandbox) -> dict[str, Any]:
    """Every credential is a canary; the box takes any of our key for its demo key or refuses it: both are tried."""
    accounts = {
        "good": {"type": "openai", "url": box.urls["openai"], "api_key": "sk-sandbox"},
        "bad": {"type": "openai", "url": box.urls["openai"], "api_key": CLOUD_KEY},
        "closed": {"type": "groq", "url": "http://127.0.0.1:1/openai/v1", "api_key": CLOUD_KEY + "-2"},
    }
    routes = {
        name: {"deployments": [{"account": name, "model": "gpt-4o"}], "policies": [{"sticky": {"by": "session"}}]}
        for name in accounts
    }
    return {
        "providers": accounts,
        "routes": routes,
        "keys": [{"name": "team", "key": CLIENT_KEY}],
        "admin": {"tokens": [{"name": "ops", "token": ADMIN_TOKEN}]},
    }


def prompt(model: str, **fields: Any) -> bytes:
    """A call that holds the canary wherever a prompt can be."""
    function = {"name": "f", "description": PROMPT, "parameters": {"type": "object", "description": PROMPT}}
    return chat(
        model,
        messages=[{"role": "user", "content": PROMPT, "name": "n"}, {"role": "assistant", "content": PROMPT}],
        **{
            "tools": [{"type": "function", "function": function}],
            "user": PROMPT,
            "stop": [PROMPT],
            "max_tokens": 3,
            **fields,
        },
    )


FAULTS: list[dict[str, Any] | None] = [
    None,
    {"kind": "status", "status": 500, "body": {"error": {"message": f"{PROMPT} {CLOUD_KEY}", "code": CANARY}}},
    {"kind": "status", "status": 429, "headers": {"retry-after": "1", "x-said": CANARY}, "body": PROMPT},
    {"kind": "html", "body": f"<html>{PROMPT}</html>"},
    {"kind": "error_body", "status": 500, "body": {"error": {"message": PROMPT}}},
    {"kind": "redirect", "location": f"http://127.0.0.1:1/{CANARY}"},
    {"kind": "bad_json"},
    {"kind": "empty"},
    {"kind": "error_event", "after_tokens": 1, "body": {"error": {"message": PROMPT, "code": CANARY}}},
]


async def everything(served: Served) -> dict[str, str]:
    """All that can be read of a gateway by somebody else than the caller."""
    served.gateway.log.flush()
    fleet = served.gateway.fleet
    head = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    pages = {
        path: await _get(served, path, head if path.startswith("/admin") else {})
        for path in ("/metrics", "/admin/decisions?count=1000", "/healthz", "/readyz", "/admin/nothing")
    }
    decisions = json.loads(pages["/admin/decisions?count=1000"])
    assert decisions
    return {
        **pages,
        "log": served._log.getvalue().decode(),
        "explain": "\n".join(text(decision) for decision in decisions),
        "repr": repr([served.gateway.config, fleet.config, list(fleet.providers.values()), served.decisions()]),
        "screen": screen(served.gateway, served.running, "127.0.0.1", "arriero.yaml", []),
    }


async def _get(served: Served, path: str, headers: dict[str, str]) -> str:
    import asyncio
    import urllib.error
    import urllib.request

    def read() -> str:
        try:
            with urllib.request.urlopen(urllib.request.Request(served.admin_url + path, headers=headers)) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("stream", [False, True])
async def test_no_canary_is_anywhere_after_calls_that_ended_in_every_way(stream: bool) -> None:
    async with Sandbox(port=0, clouds=["openai"]) as box, serving(document(box)) as served:
        key = {"authorization": f"Bearer {CLIENT_KEY}", "x_arriero_session": SESSION}
        errors: list[bytes] = []
        for fault in FAULTS:
            box.set("openai", fault=fault)
            for model in ("good", "bad", "closed"):
                answer = await ask(served, prompt(model, stream=stream), **key)
                errors += [] if answer.status == 200 and not stream else [answer.body]
        errors += [
            (await ask(served, prompt("good"), authorization=f"Bearer {CLIENT_KEY}x")).body,
            (await ask(served, prompt(f"{CANARY[:6]}"), **key)).body,
            (await ask(served, prompt("good", temperature="hot"), **key)).body,
            (await ask(served, prompt("good")[:-5], **key)).body,
            (await ask(served, prompt("good", base_url=CANARY), **key)).body,
        ]
        await served.at_rest()
        for place, said in (await everything(served)).items():
            i = said.find(CANARY)
            assert i < 0, (place, said[i - 200 : i + 100])
            assert SESSION not in said or place == "repr"
    for body in errors:
        assert CANARY.encode() not in body, body


async def test_a_bug_of_ours_says_where_it_is_and_nothing_of_what_was_asked() -> None:
    class Broken:
        poll_every_s = 0.0
        secrets = (CLOUD_KEY,)

        async def send(self, call: Any, deployment: Any) -> Any:
            raise RuntimeError(f"{call.body.decode()} {CLOUD_KEY}")

        def observe(self, reply: Any, now: float) -> Any:
            raise AssertionError

        async def aclose(self) -> None:
            return

    async with Sandbox(port=0, clouds=["openai"]) as box, serving(document(box)) as served:
        served.gateway.fleet.routes["good"].lanes["good"].provider = Broken()  # type: ignore[assignment]
        answer = await ask(served, prompt("good"), authorization=f"Bearer {CLIENT_KEY}", x_request_id="the-bug")
        assert answer.status == 500
        assert answer.error["code"] == "internal_error"
        assert "the-bug" in answer.error["message"]
        log = served.log()
    assert CANARY not in json.dumps(log) + answer.body.decode()
    (bug,) = (record for record in log if record["event"] == "bug")
    assert bug["error"] == "RuntimeError"
    assert "test_secrets.py:" in bug["at"]


async def test_a_cloud_that_repeats_our_credential_to_its_caller_is_silenced() -> None:
    async with Sandbox(port=0, clouds=["openai"]) as box:
        found = document(box)
        found["providers"]["good"]["api_key"] = "sk-sandbox"
        said = "the key sk-sandbox"
        body = {"error": {"message": said, "type": said, "param": said, "code": said}}
        box.set("openai", fault={"kind": "status", "status": 400, "body": body})
        async with serving(found) as served:
            answer = await ask(served, prompt("good"), authorization=f"Bearer {CLIENT_KEY}")
            assert answer.error == dict.fromkeys(("message", "type", "param", "code"), "the key ***")
            served.gateway.log.flush()
            assert b"sk-sandbox" not in served._log.getvalue()


async def test_even_a_crash_while_starting_shows_no_secret(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text(CLOUD_KEY)
    words = {
        "providers": {"a": {"type": "openai", "url": "http://127.0.0.1:1/v1", "api_key": f"file:{file}"}},
        "routes": {"r": {"deployments": [{"account": "a", "model": "m"}]}},
        "keys": [{"name": "t", "key": CLIENT_KEY}, {"name": "u", "key": CLIENT_KEY}],
    }
    with pytest.raises(ConfigError) as caught:
        async with running(Gateway(loading.build(words)), Listen(port=0, admin_port=0)):
            pass
    said = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    shown = [line for line in said.splitlines() if CANARY in line]
    assert all("words = " in line for line in shown)  # the test's own variable, nothing of the gateway's
