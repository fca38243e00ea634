"""The box's copy of Bedrock's service model is botocore's, and it checks at least as much as botocore does."""

import copy
import json
from typing import Any

import botocore.session
import botocore.validate
import pytest

from sandbox import _bedrock_model as model
from sandbox.types import Refusal
from tests.bedrock.shapes import PLACE, shapes

SERVICE = botocore.session.get_session().get_service_model("bedrock-runtime")
GOOD: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"text": "Hello"}, {"image": {"format": "png", "source": {"bytes": "AA=="}}}]}
    ],
    "system": [{"text": "Be brief."}],
    "inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "topP": 1, "stopSequences": ["x"]},
    "toolConfig": {"tools": [{"toolSpec": {"name": "a_b-1", "description": "d", "inputSchema": {"json": {"x": [1]}}}}]},
    "guardrailConfig": {"guardrailIdentifier": "abc1", "guardrailVersion": "DRAFT", "trace": "enabled"},
}


def test_the_copy_is_what_the_installed_botocore_says() -> None:
    assert json.loads(PLACE.read_text()) == shapes(), "run: python -m tests.bedrock.shapes"


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value replaced; `path` is dotted."""
    body = copy.deepcopy(GOOD)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = body
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return body


def refusal(body: Any, operation: str = "Converse") -> str | None:
    try:
        model.check(operation, body)
    except Refusal as refused:
        return f"{refused.status} {refused.body['message']}"
    return None


def test_a_good_request_passes_here_and_there() -> None:
    assert refusal(GOOD) is None
    judge = copy.deepcopy(GOOD)
    judge["messages"][0]["content"][1]["image"]["source"]["bytes"] = b"\x00"
    shape = SERVICE.operation_model("Converse").input_shape
    report = botocore.validate.ParamValidator().validate({"modelId": "m", **judge}, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("messages.0.role", "tool", "enum value set: [user, assistant, system]"),
        ("messages.0.role", ..., "Value null at 'messages.0.role'"),
        ("messages.0.content.0", {}, "exactly one member"),
        ("messages.0.content.0", {"text": "a", "cachePoint": {"type": "default"}}, "exactly one member"),
        ("messages.0.content.0", {"txt": "a"}, "not in the service model"),
        ("messages.0.content.0.text", 7, "Expected string"),
        ("messages.0.content.1.image.format", "bmp", "enum"),
        ("messages.0.content.1.image.source.bytes", "***", "be readable"),
        ("messages", {}, "Expected list"),
        ("system.0.text", "", "length greater than or equal to 1"),
        ("inferenceConfig.maxTokens", 0, "value greater than or equal to 1"),
        ("inferenceConfig.maxTokens", 1.5, "Expected integer"),
        ("inferenceConfig.maxTokens", True, "Expected integer"),
        ("inferenceConfig.temperature", 1.01, "value less than or equal to 1"),
        ("inferenceConfig.topP", -0.1, "value greater than or equal to 0"),
        ("inferenceConfig.stopSequences", ["x"] * 2501, "length less than or equal to 2500"),
        ("inferenceConfig.stopSequences.0", "", "length greater"),
        ("inferenceConfig.seed", 1, "not in the service model"),
        ("toolConfig.tools", [], "length greater"),
        ("toolConfig.tools.0.toolSpec.name", "a.b", "regular expression pattern"),
        ("toolConfig.tools.0.toolSpec.name", "a" * 65, "length less"),
        ("toolConfig.tools.0.toolSpec.description", "", "length greater"),
        ("toolConfig.tools.0.toolSpec.inputSchema", ..., "not be null"),
        ("guardrailConfig.guardrailVersion", "v1", "regular expression pattern"),
        ("guardrailConfig.trace", "yes", "enum"),
    ],
)
def test_every_kind_of_limit_is_checked(path: str, value: Any, word: str) -> None:
    said = refusal(changed(path, value))
    assert said is not None
    assert said.startswith("400 ")
    assert word in said


def test_the_streaming_operation_has_a_guardrail_of_its_own() -> None:
    body = changed("guardrailConfig.streamProcessingMode", "async")
    assert refusal(body, "ConverseStream") is None
    assert refusal(body, "Converse") is not None
