"""Oracle's own SDK against the sandbox, its tables against ours; it runs in an environment of its own, .venv-oci."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from providers import _oci_realms as realms
from providers._emulation import fields_of
from providers._oci_request import Place, translate
from sandbox import _oci_demo as demo
from sandbox._oci_input import MODELS
from sandbox.run import Sandbox
from tests.oci.calls import call, deployment
from tests.oci.judge import CONFIG, PYTHON, ask_sdk

MODEL = "meta.llama-3.3-70b-instruct"
TOOL: Any = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(clouds=["oci"]) as made:
        yield made


def chat(box: Sandbox, config: dict[str, str] = CONFIG, **fields: Any) -> dict[str, Any]:
    """A chat whose body is what our adapter makes of OpenAI's words."""
    asked = call(**fields)
    body = translate(fields_of(asked), asked, deployment(), Place(demo.COMPARTMENT)).body
    return {"do": "chat", "endpoint": box.origins["oci"], "config": config, "details": json.loads(body)}


def test_the_tables_of_regions_are_oracles() -> None:
    (said,) = ask_sdk({"do": "regions"})
    assert said["domains"] == realms.DOMAINS
    assert {region: realms.domain(region, None) for region in said["realms"]} == {
        region: said["domains"][realm] for region, realm in said["realms"].items()
    }


def test_the_models_that_the_sandbox_checks_by_are_oracles() -> None:
    assert ask_sdk() == []
    script = Path(__file__).with_name("sdk_models.py")
    made = subprocess.run([PYTHON, script], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == MODELS


def test_the_sdk_reads_plain_answers(box: Sandbox) -> None:
    plain, several, called, ranked = ask_sdk(
        chat(box, max_tokens=6),
        chat(box, max_tokens=6, n=2),
        chat(box, tools=[TOOL], max_tokens=100),
        chat(box, max_tokens=3, logprobs=True, top_logprobs=2),
    )
    found = plain["answer"]["chat_response"]
    assert (found["choices"][0]["finish_reason"], found["usage"]["completion_tokens"]) == ("length", 6)
    assert [c["index"] for c in several["answer"]["chat_response"]["choices"]] == [0, 1]
    (call_,) = called["answer"]["chat_response"]["choices"][0]["message"]["tool_calls"]
    assert (call_["type"], call_["name"]) == ("FUNCTION", "f")
    logprobs = ranked["answer"]["chat_response"]["choices"][0]["logprobs"]
    assert [len(logprobs[name]) for name in ("tokens", "token_logprobs", "top_logprobs")] == [3, 3, 3]


def test_the_sdk_reads_streams(box: Sandbox) -> None:
    plain, streamed = ask_sdk(chat(box, max_tokens=6), chat(box, max_tokens=6, stream=True))
    events = [json.loads(event) for event in streamed["events"] if event != "[DONE]"]
    parts = [e["message"]["content"] for e in events if "message" in e]
    text = "".join(part["text"] for content in parts if content for part in content)
    assert text == plain["answer"]["chat_response"]["choices"][0]["message"]["content"][0]["text"]
    assert [e["finishReason"] for e in events if "finishReason" in e] == ["length"]
    assert events[-1]["usage"]["completionTokens"] == 6


def test_the_sdk_reads_refusals(box: Sandbox) -> None:
    wrong_key = CONFIG | {"fingerprint": ":".join(["aa"] * 16)}
    retired = chat(box)
    retired["details"]["servingMode"]["modelId"] = "meta.llama-3-70b-instruct"
    elsewhere = chat(box)
    elsewhere["details"]["compartmentId"] = "ocid1.compartment.oc1..other"
    found = ask_sdk(chat(box, wrong_key), retired, elsewhere, chat(box, temperature=9))
    assert [(one["status"], one["code"]) for one in found] == [
        (401, "NotAuthenticated"),
        (400, "400"),
        (404, "NotAuthorizedOrNotFound"),
        (400, "InvalidParameter"),
    ]
    assert "is retired" in found[1]["message"]
    assert all(one["request_id"].count("/") == 2 for one in found)


def test_the_sdk_signs_as_an_instance(box: Sandbox) -> None:
    origin = box.origins["oci"]
    places = {"instance": True, "metadata": origin + "/opc/v2", "federation": origin + "/v1/x509"}
    (found,) = ask_sdk({**chat(box, max_tokens=4), **places})
    assert found["answer"]["model_id"] == MODEL
